"""Two processes train one model: one measures, both stop, and neither waits for ever."""

from __future__ import annotations

import pytest
from trained import write_suite
from waiting import run_in_two

pytest.importorskip("accelerate", minversion="1.3")

SCRIPT = """\
import os, sys
import transformers as tf
from test_training_callback import Rows
import icl_bench
from icl_bench.integrations import ICLCallback, Reaches, TrainingGate

suite, folder = sys.argv[1:]

def tell(line):
    # A file each: in the pipe that the processes share, lines may run into each other.
    with open(f"{folder}/told-{os.environ['RANK']}.txt", "a") as told:
        told.write(line + "\\n")

def train(name):
    model = icl_bench.load_model(f"builtin:{name}").model
    arguments = tf.TrainingArguments(
        output_dir=f"{folder}/{name}", max_steps=4, per_device_train_batch_size=4,
        learning_rate=1e-6, save_steps=2, report_to=[], use_cpu=True, disable_tqdm=True)
    callback = ICLCallback([suite], [Reaches("induction_max", above=0.4, by_step=3)])
    trainer = tf.Trainer(model, arguments, train_dataset=Rows(vocabulary=400), callbacks=[callback])
    trainer.train()
    wrapped = type(trainer.model_wrapped).__name__
    logged = [one["step"] for one in trainer.state.log_history if "icl/seconds" in one]
    tell(f"{name}: {wrapped}, {trainer.state.global_step}, {logged}, "
         f"measured {len(callback.history)}, failed {len(callback.failures)}")

train("induction-2l")
train("control-1l")

def broken(self, step):
    raise RuntimeError("it broke")

TrainingGate.check = broken
try:
    train("handwired")
except Exception as error:
    tell(f"handwired: {type(error).__name__}: {error}")
"""


def test_the_main_process_measures_and_all_obey(tmp_path):
    said = run_in_two(SCRIPT, tmp_path, str(write_suite(tmp_path)), str(tmp_path))
    assert said.count("icl_bench stops training at step 3") == 1
    assert (
        said.count("training control-1l was stopped at step 3: training gate: induction_max") == 1
    )
    told = [(tmp_path / f"told-{rank}.txt").read_text().splitlines() for rank in (0, 1)]
    assert sorted(told[0] + told[1]) == [
        "control-1l: DistributedDataParallel, 3, [0, 2, 3], measured 0, failed 1",
        "control-1l: DistributedDataParallel, 3, [0, 2, 3], measured 3, failed 1",
        "handwired: ModelError: the main process: RuntimeError: it broke",
        "handwired: RuntimeError: it broke",
        "induction-2l: DistributedDataParallel, 4, [0, 2, 3, 4], measured 0, failed 0",
        "induction-2l: DistributedDataParallel, 4, [0, 2, 3, 4], measured 4, failed 0",
    ]
