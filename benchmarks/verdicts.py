"""What suites say of models whose answers are known.

    python benchmarks/verdicts.py
    python benchmarks/verdicts.py positional-copier-50 token-shift
    python benchmarks/verdicts.py --write docs/verdicts.md

Runs `core`, `gate`, `olsson` and, on some, `quiz` on the models of tests/verdict_table.py and
prints every verdict that is not the right one. With --write nothing is measured: the page is made
from the same table of right verdicts that tests/test_verdict_zoo.py compares with.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from rounds import row, table
from verdict_table import ALL, CASES, Case, allowed, families_of, outcome

import icl_bench
from icl_bench.reference.tokenizer import build_tokenizer

INTRODUCTION = """\
# Verdicts on models with known answers

A suite is only useful if it passes models that have the induction circuit and fails models that do
not. For a trained model the answer is not known in advance. The weights of the models below are set
by hand (except two trained models and those with random weights), so the answer is known. Some
have the circuit in an unusual form and must pass. Others gain from repetition in some other way, or
have heads that only look like induction heads, and must fail.

The right verdicts follow from the definitions in [measures.md](measures.md), not from a run.
`tests/test_verdict_zoo.py` compares them with the verdicts of the suites, check by check. `python
benchmarks/verdicts.py --write docs/verdicts.md` writes this page from the same table; `python
benchmarks/verdicts.py` measures all models and prints every wrong verdict.

A suite passes as a whole if at least one check passes and none fails or is inconclusive. A check
that does not apply to a model is skipped, with the reason in the report. "Refused" means that the
model cannot be measured in this way: an error with the reason, and no verdict on the model.

Numbers in parentheses after a name are periods, numbers of heads, or windows; after an outcome,
those that were measured. An empty cell means not measured. The last column lists the checks that
fail or cannot pass, with the suite's name if another suite's check of that name passes.
"""


def main() -> None:
    """Measure and print, or write the page."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("models", metavar="MODEL", nargs="*", help="default: all")
    parser.add_argument("--suites", nargs="+", default=[*ALL, "quiz"])
    parser.add_argument("--write", metavar="FILE", type=Path, help="write the page instead")
    given = parser.parse_args()
    if unknown := set(given.models) - CASES.keys():
        parser.error(f"no such model: {', '.join(sorted(unknown))}")
    if given.write is not None:
        given.write.write_text(page(), encoding="utf-8")
        return
    print(table(["model", "suite", "check", "right", "got", "value", "reason"], []))
    count = wrong = 0
    for name in given.models or CASES:
        for suite in CASES[name].suites:
            if suite in given.suites:
                for verdict in measure(name, suite):
                    count += 1
                    if verdict:
                        wrong += 1
                        print(row(name, suite, *verdict), flush=True)
    print(f"\n{wrong} of {count} verdicts are not right")


def measure(name: str, suite: str) -> Iterator[tuple[str, ...] | None]:
    """Yield one entry a check: None where the verdict is right, else what to print.

    Args:
        name: the model.
        suite: a shipped suite.
    """
    model = icl_bench.wrap(CASES[name].build(), build_tokenizer(512))
    for check in icl_bench.run([suite], model, cache=False).checks:
        right = CASES[name].right(suite, check.id)
        value = "" if check.value is None else f"{check.value:.4g}"
        shown = (check.id, right, check.verdict, value, check.reason or "")
        yield None if check.verdict in allowed(right) else shown


def page() -> str:
    """Return docs/verdicts.md."""
    lines = [INTRODUCTION, table(["model", "what it does", "right", *ALL, "does not pass"], [])]
    for name, cases in families_of(CASES).items():
        numbers = f" ({', '.join(cases)})" if len(cases) > 1 or all(cases) else ""
        does, right = next(iter(cases.values())).texts()
        ends = (end(cases, suite) for suite in ALL)
        lines.append(row(name.replace("-", " ") + numbers, does, right, *ends, failing(cases)))
    return "\n".join(lines) + "\n"


def end(cases: dict[str, Case], suite: str) -> str:
    """Return how a suite ends on the models of a family, and on which of them it is run."""
    run = {number: case for number, case in cases.items() if suite in case.suites}
    found = {outcome(case.rights(suite).values()) for case in run.values()}
    only = "" if len(run) in (0, len(cases)) else f" ({', '.join(run)})"
    return " or ".join(sorted(found)) + only


def failing(cases: dict[str, Case]) -> str:
    """Return the checks that a family does not pass, with the suite where another passes it."""
    passed, missed = set(), {}
    for case in cases.values():
        for suite in filter(case.suites.__contains__, ALL):
            for check, right in case.rights(suite).items():
                if right in ("fail", "inconclusive", "short", "no"):
                    missed.setdefault(check, {})[suite] = None
                else:
                    passed.add((check, suite))
    parts = []
    for check, suites in missed.items():
        elsewhere = any((check, suite) in passed for suite in ALL)
        parts.append(f"`{check}`" + (f" ({', '.join(suites)})" if elsewhere else ""))
    return ", ".join(parts)


if __name__ == "__main__":
    main()
