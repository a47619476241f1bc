"""`icl-bench diff`: what changed between two models, and which layer or head explains it."""

from __future__ import annotations

import argparse
import json
import sys
from typing import TYPE_CHECKING, Any

from icl_bench.commands import choices
from icl_bench.commands.parsing import (
    FAILED,
    OK,
    add_color,
    add_command,
    add_options,
    completed_by,
)
from icl_bench.render.writing.logs import escape_ci_commands

if TYPE_CHECKING:
    from icl_bench.diffing.difference import Diff

DESCRIPTION = """\
Compare two models: what is worse in B than in A, which heads died, weakened, moved or appeared, and
which layer or head explains it. A and B are models (anything that `icl-bench run` opens) or records
of earlier runs (results.json, or its folder). What is missing is measured, one model in memory at a
time: suite gate unless --suite is given, and the loss on natural text.

If copying or the loss on text got worse and both are models of one shape, every layer of B is
restored from A in turn, then the heads and MLPs of the layers that bring most back.

  icl-bench diff gpt2 ./gpt2-finetuned
  icl-bench diff good.json ./new --suite=gate --limit='gain=5%'
  icl-bench diff base ./int8 ./int4            several changed models: one table

Standard output begins with the verdict. The exit code is 1 if something got worse."""

OPTIONS = (
    *("suite", "report-dir", "cache-dir", "no-cache", "device", "dtype", "batch-size", "seed"),
    *("limit", "inconclusive", "trust-remote-code", "allow-pickle"),
)


def add_parser(commands: Any) -> None:
    """Add the command to the command line.

    Args:
        commands: what `add_subparsers` returned.
    """
    parser = add_command(
        commands, "diff", "what changed between two models, and what explains it", DESCRIPTION
    )
    a = parser.add_argument("a", metavar="A", help="the model before, or its record")
    b = parser.add_argument("b", metavar="B", nargs="+", help="the model after, or its record")
    for argument in (a, b):
        completed_by(argument, choices.complete_models)
    add_options(parser, *OPTIONS, suites="gate and text-loss")
    parser.add_argument("--json", action="store_true", help="print the result as JSON")
    add_color(parser)
    parser.set_defaults(command=run)


def run(given: argparse.Namespace) -> int:
    """Carry the command out; return its exit code.

    Args:
        given: the parsed command line.

    Raises:
        InputError: a model, a record, a suite or an option is wrong; nothing was measured.
    """
    from icl_bench.diffing.measuring import Rules, check_rules, diff_sides
    from icl_bench.diffing.sides import read_sides
    from icl_bench.options import RunOptions
    from icl_bench.progress.bars import command_progress
    from icl_bench.reports.diffs import write_diffs
    from icl_bench.reports.places import check_report_dir

    given.cache_limit = None
    options = RunOptions.read(lambda dest: getattr(given, dest), "--")
    rules = Rules.read(given.limit or (), given.inconclusive)
    folder = check_report_dir(given.report_dir, "--report-dir")
    sides = read_sides([given.a, *given.b], given.suite, options, report_dir=given.report_dir)
    check_rules(rules, sides)
    names = [side.name for side in sides if side.job is not None]
    found = diff_sides(sides, rules, command_progress(names, given.color))
    paths = write_diffs(found, folder)
    _tell(found, given)
    for path in [] if given.json else paths:
        print(escape_ci_commands(str(path)))
    return OK if all(diff.passes for diff in found) else FAILED


def _tell(found: list[Diff], given: argparse.Namespace) -> None:
    from icl_bench.render.diff import diff_text, diffs_text
    from icl_bench.render.writing.outlet import outlet_of

    if given.json:
        data = [diff.as_data() for diff in found]
        print(json.dumps(data[0] if len(data) == 1 else data, indent=1, ensure_ascii=False))
        return
    outlet = outlet_of(sys.stdout, given.color).options()
    text = diff_text(found[0], **outlet) if len(found) == 1 else diffs_text(found, **outlet)
    print(escape_ci_commands(text))
    print()
