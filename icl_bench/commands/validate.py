"""`icl-bench validate`: suite files checked without running them."""

from __future__ import annotations

import argparse
import sys
from typing import Any

from icl_bench.commands.choices import complete_suites
from icl_bench.commands.parsing import FAILED, OK, USAGE, add_command, completed_by
from icl_bench.errors import InputError
from icl_bench.render.writing.logs import escape_ci_commands

DESCRIPTION = """\
Check suites without running them. Mistakes are reported with line and column (exit code 4). Checks
that can never pass, and prompts and choices that join with no whitespace or too much, are warnings
(exit code 0; with --strict 1). Nothing is measured and no model is required. Suitable for a
pre-commit hook.

  icl-bench validate mine.yaml core
  icl-bench validate --strict --only-suites $(git ls-files '*.yaml')"""


def add_parser(commands: Any) -> None:
    """Add the command to the command line.

    Args:
        commands: what `add_subparsers` returned.
    """
    parser = add_command(commands, "validate", "check suites without running them", DESCRIPTION)
    suites = parser.add_argument(
        "suites", metavar="NAME|PATH", nargs="+", help="a shipped suite, or a suite's YAML file"
    )
    completed_by(suites, complete_suites)
    parser.add_argument("--strict", action="store_true", help="exit with code 1 on warnings")
    parser.add_argument(
        "--only-suites", action="store_true", help="ignore YAML files that are not suites"
    )
    parser.set_defaults(command=run)


def run(given: argparse.Namespace) -> int:
    """Carry the command out; return its exit code.

    Args:
        given: the parsed command line.
    """
    from icl_bench.suite import load_suite
    from icl_bench.suite.catalog import is_meant_as_suite, resolve_suite

    code, passed_over = OK, 0
    for name in given.suites:
        try:
            path = resolve_suite(name)
            if given.only_suites and path.is_file() and not is_meant_as_suite(path):
                passed_over += 1
                continue
            suite = load_suite(path)
        except InputError as error:
            print(escape_ci_commands(str(error)), file=sys.stderr)
            code = USAGE
            continue
        for warning in suite.warnings:
            print(escape_ci_commands(f"{warning} (warning)"), file=sys.stderr)
        if given.strict and suite.warnings:
            code = code or FAILED
        counts = (len(suite.measure), len(suite.checks), len(suite.quiz))
        told = (
            f"{name}: ok: suite {suite.name!r}, {counts[0]} measurements, {counts[1]} checks, "
            f"{counts[2]} quiz items"
        )
        told += "" if suite.assertions else "; it only measures"
        print(escape_ci_commands(told))
    if passed_over:
        print(f"{passed_over} passed over: no suites")
    return code
