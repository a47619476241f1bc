"""A Trainer run with a gate, and its logs read back from trainer_state.json.

    python examples/trainer_gated.py              # two layers: the circuit forms
    python examples/trainer_gated.py --layers 1   # one layer cannot: stops at step 1,200, exit 1

Needs `pip install '.[train]'`; a few minutes on one CPU core.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import torch
from train_gated import GATES, fresh_model
from transformers import PrinterCallback, Trainer, TrainingArguments

import icl_bench
from icl_bench.integrations import ICLCallback
from icl_bench.reference.training_data import SequenceSource

COLUMNS = {
    "loss": "loss",
    "induction": "icl/gate/repeats/induction_max",
    "previous token": "icl/gate/repeats/previous_token_max",
    "gain": "icl/gate/collapse/gain",
    "checks passed": "icl/gate/checks_passed",
    "gates failed": "icl/gates_failed",
}


class Sequences(torch.utils.data.IterableDataset):
    """An endless stream of training sequences, 64 tokens each."""

    def __init__(self, seed: int) -> None:
        self._seed = seed

    def __iter__(self) -> Iterator[dict[str, torch.Tensor]]:
        source = SequenceSource(self._seed)
        while True:
            for row in source.batch(32, 64):
                yield {"input_ids": row, "labels": row}


def read_back(checkpoint: Path) -> None:
    """Print what the Trainer's log has of every evaluation, and how the gates stood."""
    history = json.loads((checkpoint / "trainer_state.json").read_text())["log_history"]
    steps: dict[int, dict[str, float]] = {}
    for line in history:
        steps.setdefault(line["step"], {}).update(line)
    print(f"{checkpoint.name}/trainer_state.json:")
    print(" step  " + "  ".join(f"{name:>8}" for name in COLUMNS))
    for step, line in steps.items():
        if "icl/seconds" in line:
            cells = [(name, line.get(key)) for name, key in COLUMNS.items()]
            texts = ["" if value is None else f"{value:.3f}" for _, value in cells]
            widths = [max(8, len(name)) for name, _ in cells]
            print(f"{step:5}  " + "  ".join(f"{t:>{w}}" for t, w in zip(texts, widths)))
    record = icl_bench.read_record(checkpoint / "icl_bench.json")
    print(f"{checkpoint.name}/icl_bench.json:")
    for verdict in record.gates:
        print(f"{verdict.verdict}: {verdict.gate}\n  {verdict.reason}")


def main() -> int:
    """Train, then read back what was logged and written."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--layers", type=int, default=2)
    parser.add_argument("--steps", type=int, default=1500)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--folder", help="for checkpoints; a temporary one if not given")
    given = parser.parse_args()

    folder = Path(given.folder or tempfile.mkdtemp(prefix="trainer_gated-"))
    callback = ICLCallback(["gate"], GATES, every=200)
    trainer = Trainer(
        model=fresh_model(given.layers, given.seed),
        args=TrainingArguments(
            output_dir=str(folder),
            max_steps=given.steps,
            per_device_train_batch_size=32,
            learning_rate=3e-3,
            lr_scheduler_type="constant",
            logging_steps=200,
            save_steps=500,
            report_to=[],  # or ["tensorboard"], ["wandb"], ["trackio"]: they get every metric
            use_cpu=True,
            disable_tqdm=True,
            seed=given.seed,
        ),
        train_dataset=Sequences(given.seed),
        callbacks=[callback],
    )
    trainer.remove_callback(PrinterCallback)
    trainer.train()
    read_back(folder / f"checkpoint-{trainer.state.global_step}")
    # A gate that failed ended train() like any other end: without this, the exit code would be 0.
    return 1 if callback.failures else 0


if __name__ == "__main__":
    sys.exit(main())
