"""`icl-bench validate`: suite files checked without running them."""

from __future__ import annotations

import argparse
import sys
from typing import Any

from icl_bench.commands.parsing import OK, USAGE, add_command
from icl_bench.errors import InputError
from icl_bench.render.writing.logs import escape_ci_commands

DESCRIPTION = """\
Check suite files without running them. Every mistake is named with its line and column, and so is,
as a warning, where a prompt and its choices meet with no whitespace or with too much; nothing is
measured and no model is needed. Fit for a pre-commit hook.

  icl-bench validate mine.yaml
  icl-bench validate suites/*.yaml"""


def add_parser(commands: Any) -> None:
    """Add the command to the command line.

    Args:
        commands: what `add_subparsers` returned.
    """
    parser = add_command(
        commands, "validate", "check suite files without running them", DESCRIPTION
    )
    parser.add_argument("files", metavar="FILE", nargs="+", help="a suite's YAML file")
    parser.set_defaults(command=run)


def run(given: argparse.Namespace) -> int:
    """Carry the command out; return its exit code.

    Args:
        given: the parsed command line.
    """
    from icl_bench.suite import load_suite

    code = OK
    for file in given.files:
        try:
            suite = load_suite(file)
        except InputError as error:
            print(escape_ci_commands(str(error)), file=sys.stderr)
            code = USAGE
        else:
            for warning in suite.warnings:
                print(escape_ci_commands(f"{warning} (warning)"), file=sys.stderr)
            counts = (len(suite.measure), len(suite.checks), len(suite.quiz))
            print(
                f"{file}: ok: suite {suite.name!r}, {counts[0]} measurements, "
                f"{counts[1]} checks, {counts[2]} quiz items"
            )
    return code
