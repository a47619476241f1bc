"""How often each suite's checks pass where there is nothing to find.

    python benchmarks/controls.py
    python benchmarks/controls.py SPEC --seeds 5 --suites core gate

Two kinds of model that cannot have the circuit are put through the suites: the given model with its
weights drawn anew (the transformers initialization, another seed each time), and the built-in
one-layer twin, on other tokens each time. Printed is, for every check, how often it passes, fails,
is inconclusive or cannot be measured, and how often a suite passes as a whole. A check that asks
whether the circuit is there should never pass here; one that asks that something stays unharmed
may.
"""

from __future__ import annotations

import argparse
import copy
from collections import Counter
from collections.abc import Iterator
from typing import Any

import torch
from rounds import row, table

import icl_bench

TWIN = "builtin:control-1l"
VERDICTS = ("pass", "fail", "inconclusive", "skipped")


def redraw(model: icl_bench.Model, seed: int) -> icl_bench.Model:
    """Return a model of the same shape whose weights are drawn anew."""
    source: Any = model.model
    # The built-in models draw from torch's global generator, as transformers does.
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        module = type(source)(copy.deepcopy(source.config))
    return icl_bench.wrap(module.eval(), model.tokenizer)


def contestants(spec: str, seeds: range) -> Iterator[tuple[str, int, icl_bench.Model]]:
    """Yield what to run: kind of control, seed of the tokens, model."""
    original = icl_bench.load_model(spec)
    for seed in seeds:
        yield f"{spec}, redrawn", seed, redraw(original, seed)
    twin = icl_bench.load_model(TWIN)
    for seed in seeds:
        yield TWIN, seed, twin


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", metavar="SPEC", nargs="?", default="builtin:induction-2l")
    parser.add_argument("--suites", nargs="+", default=["core"])
    parser.add_argument("--seeds", type=int, default=50)
    parser.add_argument("--first", type=int, default=0, help="first seed, to share out the work")
    given = parser.parse_args()

    verdicts: dict[tuple[str, str, str], Counter] = {}
    whole: dict[tuple[str, str], Counter] = {}
    for kind, seed, model in contestants(
        given.model, range(given.first, given.first + given.seeds)
    ):
        record = icl_bench.run(given.suites, model, seed=seed, cache=False)
        for suite in given.suites:
            checks = [check for check in record.checks if check.suite == suite]
            for check in checks:
                verdicts.setdefault((kind, suite, check.id), Counter())[check.verdict] += 1
            judged = [check for check in checks if check.verdict != "skipped"]
            passed = bool(judged) and all(check.verdict == "pass" for check in judged)
            whole.setdefault((kind, suite), Counter())["pass" if passed else "fail"] += 1
    header = ["control", "suite", "check", *VERDICTS]
    print(table(header, []))
    for (kind, suite, name), counts in verdicts.items():
        print(row(kind, suite, name, *(str(counts[verdict]) for verdict in VERDICTS)))
    print()
    for (kind, suite), counts in whole.items():
        print(f"{kind}, suite {suite}: {counts['pass']} of {given.seeds} runs pass as a whole")


if __name__ == "__main__":
    main()
