"""How often each suite's checks pass where there is nothing to find.

    python benchmarks/controls.py
    python benchmarks/controls.py SPEC --seeds 5 --suites core

Two kinds of model that cannot have the circuit are put through the suites: the given model with its
weights drawn anew (the transformers initialization, another seed each time), and the built-in
one-layer twin, on other tokens each time. Printed is, for every check, how often it passes, fails,
is inconclusive or cannot be measured, and how often a suite passes as a whole, on each kind of
model and on all of them. A check that asks whether the circuit is there should never pass here; one
that asks that something stays unharmed may.
"""

from __future__ import annotations

import argparse
import copy
from collections import Counter
from collections.abc import Iterator
from typing import Any

import torch
from rounds import row, table
from scipy.stats import beta

import icl_bench

TWIN = "builtin:control-1l"
VERDICTS = ("pass", "fail", "inconclusive", "skipped", "error")


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
    parser.add_argument("--suites", nargs="+", default=["core", "gate"])
    parser.add_argument("--seeds", type=int, default=30, help="models of each kind (default 30)")
    parser.add_argument("--first", type=int, default=0, help="first seed, to share out the work")
    given = parser.parse_args()

    verdicts: dict[tuple[str, str, str], Counter] = {}
    whole: dict[tuple[str, str], list[bool]] = {}
    for kind, seed, model in contestants(
        given.model, range(given.first, given.first + given.seeds)
    ):
        record = icl_bench.run(given.suites, model, seed=seed, cache=False)
        for suite in given.suites:
            checks = [check for check in record.checks if check.suite == suite]
            for check in checks:
                verdicts.setdefault((kind, suite, check.id), Counter())[check.verdict] += 1
            whole.setdefault((kind, suite), []).append(passes([c.verdict for c in checks]))
    header = ["control", "suite", "check", *VERDICTS]
    print(table(header, []))
    for (kind, suite, name), counts in verdicts.items():
        print(row(kind, suite, name, *(str(counts[verdict]) for verdict in VERDICTS)))
    print()
    for (kind, suite), found in whole.items():
        print(f"{kind}, suite {suite}: {sum(found)} of {len(found)} pass as a whole")
    for suite in given.suites:
        found = [one for (_, name), some in whole.items() if name == suite for one in some]
        print(f"{suite}: {sum(found)} of {len(found)} redrawn weights or one-layer twins", end="")
        print(f" pass as a whole; at most {bound(sum(found), len(found)):.1%} do (95%)")


def passes(verdicts: list[str]) -> bool:
    """Return whether a suite passes as a whole: something passes, nothing fails or stays open."""
    judged = set(verdicts) - {"skipped"}
    return judged == {"pass"}


def bound(passed: int, count: int) -> float:
    """Return the one-sided 95% upper bound on a share (Clopper and Pearson)."""
    return 1.0 if passed == count else float(beta.ppf(0.95, passed + 1, count - passed))


if __name__ == "__main__":
    main()
