"""`icl-bench list`: shipped suites, built-in models, probes and metrics."""

from __future__ import annotations

import argparse
import json
import shutil
import textwrap
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

from icl_bench.commands.parsing import OK, add_command, completed_by, names_of, one_of
from icl_bench.errors import SettingsError, nearest

DESCRIPTION = """\
List shipped suites (--suite), built-in models (SPEC), probes (a suite's `probe:`) with their
settings and an example, and their metrics (a check's `metric:`). Without arguments, list everything
except the settings; with a name, only that suite, model or probe.

  icl-bench list suites
  icl-bench list probes ablation
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
    parser.add_argument("name", metavar="NAME", nargs="?", help="list only this one")
    parser.add_argument("--json", action="store_true", help="print it as JSON")
    parser.set_defaults(command=run)


def run(given: argparse.Namespace) -> int:
    """Carry the command out; return its exit code.

    Args:
        given: the parsed command line.

    Raises:
        SettingsError: there is nothing of the name that is asked for.
    """
    kinds = [given.kind] if given.kind else [kind for kind in LISTS if kind != "probes"]
    found = {kind: LISTS[kind][1]() for kind in kinds}
    if given.name:
        # Metrics are chosen by their probe.
        names = {str(row.get("probe", row["name"])) for row in found[given.kind]}
        if given.name not in names:
            raise SettingsError(f"{given.kind} has no {given.name!r}; {nearest(given.name, names)}")
        found[given.kind] = [
            row for row in found[given.kind] if row.get("probe", row["name"]) == given.name
        ]
    if given.json:
        print(json.dumps(found[given.kind] if given.kind else found, indent=1))
        return OK
    for kind in kinds:
        print(LISTS[kind][0])
        if kind in PRINTED:
            PRINTED[kind](found[kind])
            continue
        for row in found[kind]:
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


def _print_probes(rows: list[Row]) -> None:
    from icl_bench.suite.guide import inline

    width = min(max(shutil.get_terminal_size().columns, 60), 100)
    for row in rows:
        print(f"\n  {row['name']}")
        print(textwrap.fill(row["description"], width, **_indented(4)))
        for setting in row["settings"]:
            default = f" = {setting['default']}" if setting["default"] else ""
            values = f" ({', '.join(setting['values'])})" if setting["values"] else ""
            print(f"    {setting['name']}{default}")
            if told := f"{setting['meaning']}{values}".strip():
                print(textwrap.fill(told, width, **_indented(8)))
        print("    example:")
        for name, entry in row["example"].items():
            print(f"        {name}: {inline(entry)}")


def _indented(columns: int) -> dict[str, Any]:
    space = " " * columns
    return {"initial_indent": space, "subsequent_indent": space, "break_on_hyphens": False}


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
    from icl_bench.suite.guide import example_of, settings_of

    return [
        {
            "name": name,
            "description": get_probe(name).summary,
            "settings": [asdict(setting) for setting in settings_of(get_probe(name))],
            "metrics": list(get_probe(name).metrics),
            "example": example_of(get_probe(name)),
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
PRINTED = {"metrics": _print_metrics, "probes": _print_probes}
"""What is printed in a way of its own."""
