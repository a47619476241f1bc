"""ICLCallback in a Trainer: what is logged and written, what stops, what is left alone."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
from pathlib import Path

import families
import pytest
import torch
import transformers as tf
from trained import write_suite

import icl_bench
from icl_bench.errors import InputError, SettingsError, TrainingGateError, UnsupportedModel
from icl_bench.integrations import ICLCallback, Keeps, Passes, Reaches, stopped

pytest.importorskip("accelerate", minversion="1.3")

INDUCTION = "icl/small/repeats/induction_max"


class Rows(torch.utils.data.Dataset):
    """Random rows of tokens, the same at every use."""

    def __init__(self, rows=48, length=20, vocabulary=families.VOCABULARY):
        generator = torch.Generator().manual_seed(0)
        self._ids = torch.randint(3, vocabulary, (rows, length), generator=generator)

    def __len__(self):
        return len(self._ids)

    def __getitem__(self, index):
        return {"input_ids": self._ids[index], "labels": self._ids[index]}


class Recorder(tf.TrainerCallback):
    """Stands in for a tracker: keeps what on_log gives it, while training goes on."""

    def __init__(self):
        self.logs, self.ended = [], False

    def on_log(self, args, state, control, logs=None, **kwargs):
        assert not self.ended, "logged after the tracker was closed"
        self.logs.append((state.global_step, dict(logs)))

    def on_train_end(self, args, state, control, **kwargs):
        self.ended = True


@pytest.fixture(autouse=True)
def _silent_end(monkeypatch):
    # The process of these tests does not end with what they stopped.
    monkeypatch.setattr(stopped, "_runs", [])


@pytest.fixture(scope="module")
def suite(tmp_path_factory):
    return write_suite(tmp_path_factory.mktemp("suite"))


@pytest.fixture
def make(tmp_path, suite):
    """Make a Trainer of a small model; keywords are TrainingArguments."""

    def build(callback=None, model=None, recorder=None, rows=None, **arguments):
        given = {
            "output_dir": str(tmp_path / "run"),
            "max_steps": 6,
            "per_device_train_batch_size": 4,
            "learning_rate": 1e-2,
            "logging_steps": 2,
            "save_strategy": "no",
            "report_to": [],
            "use_cpu": True,
            "disable_tqdm": True,
            "seed": 3,
        } | arguments
        return tf.Trainer(
            model=model or families.build("gpt2", resid_pdrop=0.3, attn_pdrop=0.3),
            args=tf.TrainingArguments(**given),
            train_dataset=rows or Rows(),
            eval_dataset=Rows(8),
            callbacks=[one for one in (recorder, callback) if one is not None],
        )

    return build


def builtin(name):
    return icl_bench.load_model(f"builtin:{name}").model


def logged(trainer, name):
    """Step -> value of what `trainer_state.json` would hold under a name."""
    return {line["step"]: line[name] for line in trainer.state.log_history if name in line}


def test_training_is_bit_for_bit_the_same(make, suite):
    trained = []
    for callback in (None, ICLCallback([suite], every=1)):
        tf.set_seed(3)
        # By its name in transformers 5.24, or the one before.
        known = tf.TrainingArguments.__dataclass_fields__
        by = "activation" if "activation_checkpointing" in known else "gradient"
        trainer = make(callback, gradient_accumulation_steps=2, **{f"{by}_checkpointing": True})
        trainer.train()
        weights = [p.detach().clone() for p in trainer.model.parameters()]
        trained.append((logged(trainer, "loss"), logged(trainer, "grad_norm"), weights))
    (losses, norms, weights), (losses_too, norms_too, weights_too) = trained
    assert losses == losses_too and norms == norms_too and sorted(losses) == [2, 4, 6]
    assert all(torch.equal(one, other) for one, other in zip(weights, weights_too))


def test_every_metric_goes_through_the_trainers_log(make, suite):
    recorder = Recorder()
    callback = ICLCallback([suite], every=3)
    trainer = make(callback, recorder=recorder)
    trainer.train()
    values = logged(trainer, INDUCTION)
    assert sorted(values) == [0, 3, 6]
    assert len(set(values.values())) == 3  # it is the model as it is at that step
    assert {step: line[INDUCTION] for step, line in recorder.logs if INDUCTION in line} == values
    metrics = callback.history[-1].measurements["small/repeats"].metrics
    assert values[6] == metrics["induction_max"].value
    for name, metric in metrics.items():
        assert logged(trainer, f"icl/small/repeats/{name}")[6] == metric.value
    assert sorted(logged(trainer, "loss")) == [2, 4, 6]


def test_tensorboard_has_them(make, suite, tmp_path, monkeypatch):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    monkeypatch.setenv("TENSORBOARD_LOGGING_DIR", str(tmp_path / "events"))
    trainer = make(ICLCallback([suite], every=3), report_to=["tensorboard"])
    trainer.train()
    events = EventAccumulator(str(tmp_path / "events"))
    events.Reload()
    found = {event.step: event.value for event in events.Scalars(f"train/{INDUCTION}")}
    assert found == pytest.approx(logged(trainer, INDUCTION))


def test_records_are_written_at_once_and_beside_checkpoints(make, suite, tmp_path):
    callback = ICLCallback([suite], every=2)
    trainer = make(callback, save_strategy="steps", save_steps=3)
    trainer.train()
    run = tmp_path / "run"
    names = sorted(path.name for path in (run / "icl").iterdir())
    assert names == [f"results-step{step}.json" for step in (0, 2, 3, 4, 6)]
    for step in (3, 6):
        record = icl_bench.read_record(run / f"checkpoint-{step}" / "icl_bench.json")
        assert record == icl_bench.read_record(run / "icl" / f"results-step{step}.json")
        assert (record.step, record.model.spec) == (step, f"run@{step}")
        assert record.measurements["small/repeats"].heads
        again = icl_bench.run([suite], str(run / f"checkpoint-{step}"), cache=False)
        found, expected = (
            one.measurements["small/repeats"].metrics["induction_max"].value
            for one in (record, again)
        )
        assert found == pytest.approx(expected, abs=1e-5)
        history = json.loads((run / f"checkpoint-{step}" / "trainer_state.json").read_text())
        lines = [line for line in history["log_history"] if INDUCTION in line]
        assert (lines[-1]["step"], lines[-1][INDUCTION]) == (step, found)


def test_a_crash_loses_no_record(make, suite, tmp_path):
    class Crash(tf.TrainerCallback):
        def on_step_end(self, args, state, control, **kwargs):
            if state.global_step == 3:
                raise RuntimeError("power cut")

    trainer = make(ICLCallback([suite], every=1))
    trainer.add_callback(Crash)
    with pytest.raises(RuntimeError, match="power cut"):
        trainer.train()
    assert len(list((tmp_path / "run" / "icl").iterdir())) == 4


def test_a_model_with_the_circuit_trains_on(make, suite):
    gates = [Reaches("induction_max", above=0.4, by_step=4), Keeps("induction_max", within=0.1)]
    callback = ICLCallback([suite], gates)
    rows = Rows(vocabulary=400)
    trainer = make(callback, builtin("induction-2l"), rows=rows, learning_rate=1e-6)
    trainer.train()
    assert trainer.state.global_step == 6 and callback.failures == ()
    assert [one.step for one in callback.history] == [0, 4, 6]
    assert [one.verdict for one in callback.history[-1].gates] == ["pass", "pass"]
    assert logged(trainer, "icl/gates_failed") == {0: 0, 4: 0, 6: 0}


def test_a_model_without_it_is_stopped_and_saved(make, suite, tmp_path, caplog):
    recorder = Recorder()
    callback = ICLCallback([suite], [Reaches("induction_max", above=0.4, by_step=4)])
    trainer = make(
        callback, builtin("control-1l"), recorder, Rows(vocabulary=400),
        save_strategy="steps", save_steps=100,
    )  # fmt: skip
    trainer.train()
    assert trainer.state.global_step == 4
    reason = "induction_max > 0.4 by step 4: at step 4: required > 0.4, measured 0.0"
    assert callback.failures[0].startswith(reason)
    assert f"icl_bench stops training at step 4: training gate: {reason}" in caplog.text
    assert recorder.ended and logged(trainer, "icl/gates_failed") == {0: 0, 4: 1}
    saved = icl_bench.read_record(tmp_path / "run" / "checkpoint-4" / "icl_bench.json")
    assert saved.gates[0].verdict == "fail"


SCRIPT = """\
import sys
import families
import transformers as tf
from test_training_callback import Rows
from icl_bench.integrations import ICLCallback, Reaches

suite, folder, on_failure = sys.argv[1:]
arguments = tf.TrainingArguments(
    output_dir=f"{folder}/run", max_steps=2, per_device_train_batch_size=4, save_strategy="no",
    report_to=[], use_cpu=True, disable_tqdm=True)
gate = Reaches("induction_max", above=0.4, by_step=1)
callback = ICLCallback([suite], [gate], at_start=False, on_failure=on_failure)
trainer = tf.Trainer(families.build("gpt2"), arguments, train_dataset=Rows(), callbacks=[callback])
trainer.train()
del trainer, callback
print("other work", file=sys.stderr)
"""


@pytest.mark.parametrize("on_failure", ["stop", "raise", "warn"])
def test_the_end_of_a_script_says_that_a_gate_had_stopped_it(suite, tmp_path, on_failure):
    (tmp_path / "script.py").write_text(SCRIPT)
    command = [sys.executable, "script.py", str(suite), str(tmp_path), on_failure]
    known = [str(Path(__file__).parent), str(Path(icl_bench.__file__).parents[1])]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(known)}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == (1 if on_failure == "raise" else 0), done.stderr
    before, _, after = done.stderr.partition("other work\n")
    told = "icl_bench: training run was stopped at step 1: training gate: induction_max > 0.4"
    assert told not in before
    assert after.count(told) == (1 if on_failure == "stop" else 0)
    assert ("sys.exit(1) if callback.failures" in after) == (on_failure == "stop")


def test_it_can_raise_once_everything_is_saved_and_closed(make, suite, tmp_path):
    recorder = Recorder()
    callback = ICLCallback(
        [suite], [Reaches("induction_max", above=0.4, by_step=4)], on_failure="raise"
    )
    trainer = make(
        callback, builtin("control-1l"), recorder, Rows(vocabulary=400),
        save_strategy="steps", save_steps=100,
    )  # fmt: skip
    with pytest.raises(
        TrainingGateError, match="induction_max > 0.4 by step 4: at step 4: required"
    ):
        trainer.train()
    assert recorder.ended and (tmp_path / "run" / "checkpoint-4" / "icl_bench.json").exists()
    assert "train_loss" in trainer.state.log_history[-1]


def test_it_can_only_warn(make, suite, caplog):
    callback = ICLCallback(
        [suite], [Reaches("induction_max", above=0.4, by_step=4)], on_failure="warn", every=5
    )
    trainer = make(callback, builtin("control-1l"), rows=Rows(vocabulary=400))
    trainer.train()
    assert trainer.state.global_step == 6
    told = [line for line in caplog.messages if "gate: induction_max" in line]
    assert sum("): fail" in line or ": fail (" in line for line in told) == 1  # said once


def test_noise_stops_nothing_and_is_said(make, suite, caplog):
    """Four sequences of a random model: the interval straddles this threshold."""
    score = ICLCallback([suite])
    make(score, max_steps=1).train()
    middle = score.history[-1].measurements["small/repeats"].metrics["induction_max"].value
    caplog.clear()
    callback = ICLCallback([suite], [Reaches("induction_max", above=middle, by_step=1)])
    trainer = make(callback, max_steps=3)
    trainer.train()
    assert trainer.state.global_step == 3
    assert "inconclusive (at step 1" in caplog.text and "straddles" in caplog.text


class Destroy(tf.TrainerCallback):
    """Takes an induction model's keys away at a step."""

    def __init__(self, at):
        self._at = at

    def on_step_begin(self, args, state, control, model=None, **kwargs):
        if state.global_step == self._at - 1:
            with torch.no_grad():
                model.model.layers[1].self_attn.k_proj.weight.mul_(0.1)


def test_a_run_that_goes_on_from_a_checkpoint_looks_back_beyond_it(make, suite, tmp_path):
    arguments = {
        "rows": Rows(vocabulary=400), "learning_rate": 1e-6, "save_strategy": "steps",
        "save_steps": 2,
    }  # fmt: skip
    first = make(ICLCallback([suite]), builtin("induction-2l"), **arguments)
    first.train()
    for left in ("checkpoint-4", "checkpoint-6"):
        assert (tmp_path / "run" / left).is_dir()
    # A record that the checkpoint's history does not know is of another run.
    stray = tmp_path / "run" / "icl" / "results-step1.json"
    stray.write_text((tmp_path / "run" / "icl" / "results-step4.json").read_text())
    callback = ICLCallback([suite], [Keeps("induction_max", within=0.1)], every=1)
    trainer = make(callback, builtin("induction-2l"), recorder=Destroy(5), **arguments)
    trainer.train(resume_from_checkpoint=str(tmp_path / "run" / "checkpoint-4"))
    assert [one.step for one in callback.history] == [0, 2, 4, 5]
    assert trainer.state.global_step == 5 and callback.history[-1].gates[0].verdict == "fail"


def test_a_run_that_goes_on_without_earlier_records_is_measured_first(make, suite, tmp_path):
    make(save_strategy="steps", save_steps=3).train()
    callback = ICLCallback([suite])
    checkpoint = str(tmp_path / "run" / "checkpoint-3")
    make(callback).train(resume_from_checkpoint=checkpoint)
    assert [one.step for one in callback.history] == [3, 6]


def test_a_gate_that_fails_at_the_start_ends_training_after_one_step(make, suite):
    callback = ICLCallback([suite], [Passes()])
    trainer = make(callback, builtin("control-1l"), rows=Rows(vocabulary=400))
    trainer.train()
    assert trainer.state.global_step == 1
    assert "has-induction-heads (fail: required > 0.4" in callback.failures[0]


def test_saving_that_is_decided_late_is_measured_too(make, suite, tmp_path):
    trainer = make(
        ICLCallback([suite], at_start=False), save_strategy="best", eval_strategy="steps",
        eval_steps=2, metric_for_best_model="loss", load_best_model_at_end=False,
    )  # fmt: skip
    trainer.train()
    saved = sorted((tmp_path / "run").glob("checkpoint-*"))
    assert saved and all((one / "icl_bench.json").exists() for one in saved)


def test_saving_each_epoch(make, suite, tmp_path):
    callback = ICLCallback([suite], at_start=False)
    trainer = make(callback, max_steps=-1, num_train_epochs=2, save_strategy="epoch")
    trainer.train()
    assert [one.step for one in callback.history] == [12, 24]
    assert (tmp_path / "run" / "checkpoint-12" / "icl_bench.json").exists()


def test_bfloat16_training_is_measured_in_the_precision_of_the_weights(make, suite):
    scores = []
    for bf16 in (False, True):
        callback = ICLCallback([suite])
        model = families.build("llama")
        make(callback, model, max_steps=1, learning_rate=0.0, bf16=bf16).train()
        metrics = callback.history[-1].measurements["small/repeats"].metrics
        scores.append({name: metric.value for name, metric in metrics.items()})
    assert scores[0] == scores[1]


def test_a_compiled_training(make, suite):
    callback = ICLCallback([suite], at_start=False)
    model = families.build("llama", num_hidden_layers=1)
    make(callback, model, max_steps=1, torch_compile=True, torch_compile_backend="eager").train()
    assert [one.step for one in callback.history] == [1]
    assert callback.history[-1].measurements["small/repeats"].status == "measured"


def test_added_to_a_trainer_that_is_there(make, suite):
    trainer = make()
    callback = ICLCallback([suite]).attach(trainer).attach(trainer)
    trainer.train()
    assert [one.step for one in callback.history] == [0, 6]


def test_a_trainer_that_trains_twice_begins_anew(make, suite):
    callback = ICLCallback([suite])
    trainer = make(callback)
    trainer.train()
    trainer.train()
    assert [one.step for one in callback.history] == [0, 6]


def test_its_trainer_has_to_be_known(suite):
    callback = ICLCallback([suite])
    with pytest.raises(SettingsError, match="call attach"):
        callback.on_train_begin(None, None, None, model=None)


def test_the_tokenizer_is_the_trainers(make, suite, tmp_path):
    texts = tmp_path / "texts.yaml"
    texts.write_text(
        "icl_suite: 1\nname: texts\nquiz:\n"
        "  - {id: one, prompt: 'the king and the', choices: [' king', ' queen'], answer: ' king'}\n"
    )
    loaded = icl_bench.load_model("builtin:induction-2l")
    verdicts = []
    for tokenizer in (None, loaded.tokenizer):
        callback = ICLCallback([texts])
        trainer = make(callback, loaded.model, rows=Rows(vocabulary=400), max_steps=1)
        trainer.processing_class = trainer.callback_handler.processing_class = tokenizer
        trainer.train()
        verdicts.append(callback.history[-1].checks[0].verdict)
    assert verdicts[0] == "skipped" and verdicts[1] in ("pass", "fail")


class TestRefused:
    """Before the first step, with one message."""

    def test_a_suite_that_is_not_there(self):
        with pytest.raises(InputError, match="did you mean 'gate'"):
            ICLCallback(["gat"])

    def test_a_gate_on_what_is_not_measured(self, suite):
        with pytest.raises(SettingsError, match="did you mean 'induction_max'"):
            ICLCallback([suite], [Reaches("induction_mx", above=0.4, by_step=1)])

    def test_a_model_that_is_spread_over_processes(self, make, suite):
        trainer = make(ICLCallback([suite]))
        weight = trainer.model.transformer.wpe.weight
        weight.ds_id = 1
        weight.numel = lambda: 0
        with pytest.raises(UnsupportedModel, match="measure a saved checkpoint"):
            trainer.train()
        assert trainer.state.global_step == 0


@pytest.fixture(autouse=True)
def _own_settings():
    """accelerate is told of precision and compilation by variables that outlast a Trainer."""
    yield
    for name in [name for name in os.environ if name.startswith("ACCELERATE_")]:
        del os.environ[name]


@pytest.fixture(autouse=True)
def _heard(caplog):
    caplog.set_level(logging.INFO, logger="icl_bench.training")
