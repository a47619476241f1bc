"""`icl-bench list`: shipped suites, built-in models, probes and metrics."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from typing import Any

from icl_bench.commands.parsing import OK, add_command, completed_by, names_of, one_of

DESCRIPTION = """\
List what there is to choose from: shipped suites (--suite), built-in models (SPEC), probes (a
suite's `probe:`) and their metrics (a check's `metric:`). Without a word, all of it.

  icl-bench list suites
  icl-bench list metrics --json"""

Row = dict[str, Any]


def add_parser(commands: Any) -> None:
    """Add the command to the command line.

    Args:
        commands: what `add_subparsers` returned.
    """
    parser = add_command(
        commands, "list", "list shipped suites, built-in models, probes and metrics", DESCRIPTION
    )
    kind = parser.add_argument(
        "kind",
        metavar="suites|models|probes|metrics",
        nargs="?",
        type=one_of(*LISTS),
        help="what to list (default: all)",
    )
    completed_by(kind, names_of(*LISTS))
    parser.add_argument("--json", action="store_true", help="print it as JSON")
    parser.set_defaults(command=run)


def run(given: argparse.Namespace) -> int:
    """Carry the command out; return its exit code.

    Args:
        given: the parsed command line.
    """
    kinds = [given.kind] if given.kind else [kind for kind in LISTS if kind != "probes"]
    if given.json:
        found = {kind: LISTS[kind][1]() for kind in kinds}
        print(json.dumps(found[given.kind] if given.kind else found, indent=1))
        return OK
    for kind in kinds:
        title, rows = LISTS[kind]
        print(title)
        if kind == "metrics":
            _print_metrics(rows())
            continue
        for row in rows():
            print(f"  {row['name']:22} {row['description']}")
    return OK


def _print_metrics(rows: list[Row]) -> None:
    probe = None
    for row in rows:
        if row["probe"] != probe:
            probe = row["probe"]
            print(f"  {probe}")
        unit = f" [{row['unit']}]" if row["unit"] else ""
        print(f"    {row['name']:24} {row['meaning']}{unit}")


def _suites() -> list[Row]:
    from icl_bench.suite import load_suite, shipped_suites

    loaded = {name: load_suite(path) for name, path in shipped_suites().items()}
    return [
        {
            "name": name,
            "description": suite.description or "",
            "version": suite.version,
            "measurements": len(suite.measure),
            "checks": len(suite.checks),
            "quiz": len(suite.quiz),
        }
        for name, suite in loaded.items()
    ]


def _models() -> list[Row]:
    from icl_bench.reference import DESCRIPTIONS

    return [{"name": f"builtin:{name}", "description": text} for name, text in DESCRIPTIONS.items()]


def _probes() -> list[Row]:
    from icl_bench.probes import get_probe, probe_names

    return [
        {
            "name": name,
            "description": get_probe(name).summary,
            "metrics": list(get_probe(name).metrics),
        }
        for name in probe_names()
    ]


def _metrics() -> list[Row]:
    from icl_bench.probes import get_probe, probe_names

    return [
        {
            "probe": name,
            "name": metric,
            "meaning": info.meaning,
            "better": info.direction,
            "unit": info.unit,
            "exact": info.exact,
        }
        for name in probe_names()
        for metric, info in get_probe(name).metrics.items()
    ]


LISTS: dict[str, tuple[str, Callable[[], list[Row]]]] = {
    "suites": ("suites (--suite=NAME, under pytest --icl-suite=NAME):", _suites),
    "models": ("built-in models (SPEC, under pytest --icl-model=SPEC):", _models),
    "probes": ("probes (probe: NAME in a suite):", _probes),
    "metrics": ("probes and their metrics (metric: NAME in a check):", _metrics),
}
"""What can be listed -> its title, and what gives the rows."""
