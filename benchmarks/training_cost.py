"""What one evaluation in training costs, in training steps of the same model.

    python benchmarks/training_cost.py SPEC
    python benchmarks/training_cost.py SPEC --suite gate --rows 8 --length 512

A step is a forward and a backward pass of rows x length tokens and AdamW's update, at a learning
rate of 0: how many heads a suite finds, and so what it costs, stays that of the model. An
evaluation is `TrainingGate.check` with everything that it does: forward passes, digest of the
weights, record on disk, gates. Both are timed in turn. Run it alone.
"""

from __future__ import annotations

import argparse
import itertools
import statistics
import tempfile

import torch
from rounds import alternate, ratio, row, table

import icl_bench
from icl_bench.integrations import Keeps, TrainingGate
from icl_bench.models.module.vocabulary import fingerprint


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", metavar="SPEC")
    parser.add_argument("--suite", nargs="+", default=["gate"], metavar="NAME|PATH")
    parser.add_argument("--rows", type=int, default=8, help="sequences of a training step")
    parser.add_argument("--length", type=int, default=256, help="tokens of each")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--every", type=int, default=500, help="steps between evaluations")
    given = parser.parse_args()

    loaded = icl_bench.load_model(given.model)
    module = loaded.model.train()
    optimizer = torch.optim.AdamW(module.parameters(), lr=0.0, weight_decay=0.0)
    generator = torch.Generator().manual_seed(0)
    chosen = torch.randint(len(loaded.vocabulary), (given.rows, given.length), generator=generator)
    ids = torch.tensor(loaded.vocabulary)[chosen]

    def step() -> None:
        module(input_ids=ids, labels=ids, use_cache=False).loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    print(
        f"{given.model}: steps of {given.rows} x {given.length} tokens, "
        f"{torch.get_num_threads()} threads\n"
    )
    header = ["suite", "evaluation / step", "digest / step", f"added, every {given.every} steps",
              "step, s", "evaluation, s"]  # fmt: skip
    print(table(header, []), flush=True)
    for suite in given.suite:
        with tempfile.TemporaryDirectory() as folder:
            gates = [Keeps("induction_max", within=0.1)] if suite == "gate" else []
            gate = TrainingGate(module, [suite], gates, tokenizer=loaded.tokenizer, folder=folder)
            numbers = itertools.count()
            times = alternate(
                {
                    "step": step,
                    "evaluation": lambda gate=gate, numbers=numbers: gate.check(next(numbers)),
                    "digest": lambda: fingerprint(module),
                },
                given.rounds,
            )
        pairs = zip(times["evaluation"], times["step"])
        added = statistics.median(a / b for a, b in pairs) / given.every
        seconds = [f"{statistics.median(times[name]):.2f}" for name in ("step", "evaluation")]
        print(
            row(suite, ratio(times["evaluation"], times["step"]),
                ratio(times["digest"], times["step"]), f"{added:.2%}", *seconds),
            flush=True,
        )  # fmt: skip


if __name__ == "__main__":
    main()
