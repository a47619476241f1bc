"""Simulate how often intervals hold and gates err, and write the tables of docs/statistics.md.

    python benchmarks/calibration.py [--write docs/statistics.md] [--real SPEC] [--only NAME ...]

Numbers only, no times: nothing here depends on the machine. Without `--write` the tables are
printed in the order of the page. In the page a table stands between `<!-- table: NAME -->` and
`<!-- end of table -->`.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from pathlib import Path

import coverage_calibration as covered
import gate_calibration as gated
import looks_calibration as looked
import margin_calibration as margins
import numpy as np
import phase_calibration as phased

MARKED = re.compile(r"(<!-- table: ([\w-]+) -->\n).*?(<!-- end of table -->)", re.DOTALL)
Table = tuple[Sequence[str], Sequence[Sequence[str]]]
"""Head and rows."""


def tables(given: argparse.Namespace) -> dict[str, Callable[[], Table]]:
    """Name -> what makes each table, in the order of the page.

    Args:
        given: numbers of runs, and models.
    """

    @cache
    def measured() -> dict[str, np.ndarray]:
        return covered.measure_population(given.model, 512, 20)

    def real() -> Table:
        values = covered.measure_population(given.real, 128, 50)
        cases = [one for one in covered.cases(values) if one.population.name.startswith("model")]
        return sizes, covered.coverage_rows(cases, given.runs)

    def means() -> list[covered.Population]:
        return [*covered.means(), covered.best_head(measured())]

    sizes = ["metric", "population", *(f"n = {n}" for n in covered.SIZES)]
    gate = ["population", "looks at n", "rule", "false pass", "false fail", "half width"]
    suite = ["population", "half widths above", "the same", "a gate fails", "the suite is red"]
    found: dict[str, Callable[[], Table]] = {
        "coverage": lambda: (
            sizes,
            covered.coverage_rows(covered.cases(measured()), given.runs),
        ),
        "coverage-real": real,
        "gates": lambda: (gate, gated.gate_rows(means(), given.runs)),
        "looks": lambda: (looked.LOOKS_HEAD, looked.look_rows(given.gates)),
        "tasks": lambda: (looked.TASKS_HEAD, looked.task_rows(given.runs)),
        "null": lambda: (
            ["chosen", "p <= .01", "p <= .05", "p <= .25", "p <= .5", "KS p"],
            covered.null_rows(given.gates),
        ),
        "margin-power": lambda: (margins.POWER_HEAD, margins.power_rows(given.margins, 0)),
        "margin-p-value": lambda: (margins.POWER_HEAD, margins.power_rows(given.margins, 1)),
        "margin-luck": lambda: (margins.LUCK_HEAD, margins.luck_rows(3 * given.margins)),
        "phase-coverage": lambda: phased.coverage_table(given.curves),
        "phase-null": lambda: phased.null_table(given.curves),
        "suite": lambda: (
            suite,
            gated.suite_rows([one for one in means() if "hits" not in one.name], given.runs),
        ),
    }
    if given.real is None:
        del found["coverage-real"]
    return found


def show(table: Table) -> str:
    """Return a table as Markdown."""
    head, rows = table
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    return "\n".join([*lines, *("| " + " | ".join(row) + " |" for row in rows)]) + "\n"


def fill(page: str, made: Mapping[str, str]) -> str:
    """Return a page with tables put in their places; others stay.

    Args:
        page: its text.
        made: name -> table.

    Raises:
        ValueError: the page has no place for a table.
    """
    lacking = sorted(made.keys() - {name for _, name, _ in MARKED.findall(page)})
    if lacking:
        raise ValueError(f"the page has no place for {', '.join(lacking)}")
    return MARKED.sub(lambda at: f"{at[1]}{made[at[2]]}{at[3]}" if at[2] in made else at[0], page)


def main() -> None:
    """Make the tables; print them, or write them into the page."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--write", type=Path, metavar="PAGE", help="the page to put tables into")
    parser.add_argument("--only", nargs="+", metavar="NAME", help="make these tables only")
    parser.add_argument("--runs", type=int, default=4000, help="intervals, and gates of means")
    parser.add_argument("--gates", type=int, default=1000, help="gates of other metrics, p-values")
    parser.add_argument("--margins", type=int, default=100, help="models of a cell; 3 x for luck")
    parser.add_argument("--curves", type=int, default=200, help="training runs per cell")
    parser.add_argument("--model", default="builtin:induction-2l", help="spec of the model")
    parser.add_argument("--real", metavar="SPEC", help="a second model, for `coverage-real`")
    given = parser.parse_args()
    every = tables(given)
    unknown = set(given.only or ()) - every.keys()
    if unknown:
        parser.error(f"no table {', '.join(sorted(unknown))}; there are {', '.join(every)}")
    for name in given.only or every:
        text = show(every[name]())
        if given.write is None:
            print(f"{name}:\n\n{text}", flush=True)
        else:
            # Each as it comes: the later ones take minutes.
            given.write.write_text(fill(given.write.read_text(), {name: text}))
            print(f"{name}: written", flush=True)


if __name__ == "__main__":
    main()
