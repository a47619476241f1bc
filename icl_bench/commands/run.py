"""`icl-bench run`: suites on models, without pytest."""

from __future__ import annotations

import argparse
import os
import sys
from typing import TYPE_CHECKING, Any

from icl_bench.commands import choices
from icl_bench.commands.parsing import add_color, add_command, add_options, completed_by
from icl_bench.options import OPTIONS
from icl_bench.render.writing.logs import escape_ci_commands

if TYPE_CHECKING:
    from icl_bench.running.outcome import Outcome

DESCRIPTION = """\
Measure models, judge the checks of suites on them, print a summary and write reports. The same as
pytest with --icl-model, and with the same options. Progress goes to standard error.

  icl-bench run builtin:induction-2l
  icl-bench run ./changed --suite=gate --baseline=good.json --limit='repeated_loss=5%'

With --baseline the run is compared with an earlier one and fails if something got worse;
--save-baseline writes one. On GitHub (GITHUB_ACTIONS=true) failed checks are annotated at their
line, and the job's page shows a summary."""


def add_parser(commands: Any) -> None:
    """Add the command to the command line.

    Args:
        commands: what `add_subparsers` returned.
    """
    parser = add_command(commands, "run", "run suites on a model, without pytest", DESCRIPTION)
    model = parser.add_argument("model", metavar="SPEC", nargs="+", help=OPTIONS["model"].help)
    completed_by(model, choices.complete_models)
    add_options(parser, *(name for name in OPTIONS if name != "model"))
    add_color(parser)
    parser.set_defaults(command=run)


def run(given: argparse.Namespace) -> int:
    """Carry the command out; return its exit code.

    Args:
        given: the parsed command line.

    Raises:
        InputError: a model, a suite or an option is wrong; nothing was measured.
    """
    from icl_bench.progress.bars import command_progress
    from icl_bench.running.job import Job
    from icl_bench.running.request import Request
    from icl_bench.suite import find_suite

    suites = [find_suite(name) for name in dict.fromkeys(given.suite or ["core"])]
    job = Job(Request.read(lambda dest: getattr(given, dest), suites, prefix="--"))
    job.check()
    for line in job.tell_names():
        print(escape_ci_commands(line), file=sys.stderr)
    outcome = job.run(command_progress(job.names, given.color, job.earlier_seconds()))
    _tell(outcome, given.color, keeps=job.cache is not None)
    return outcome.exit_code


def _tell(outcome: Outcome, color: str, *, keeps: bool) -> None:
    """Print what came out; what went wrong goes to standard error.

    Args:
        outcome: of the run.
        color: whether to use colours.
        keeps: whether measurements are in the cache.
    """
    from icl_bench.render.terminal import summary
    from icl_bench.render.writing.outlet import outlet_of
    from icl_bench.render.writing.text import fold

    outlet = outlet_of(sys.stdout, color)
    if outcome.interrupted:
        left = "; the same command continues from there" if keeps else ""
        told = f": what was measured is kept{left}" if outcome.records else ": nothing was measured"
        print(f"icl-bench: interrupted{told}", file=sys.stderr)
    paths = [os.fspath(path) for path in outcome.paths]
    print(escape_ci_commands(summary(outcome.records, **outlet.options(), paths=paths)))
    hints = outcome.hints("--")
    for line in ["", *hints] if hints else []:
        print(*fold(escape_ci_commands(line), outlet.width), sep="\n")
    if outcome.baseline is not None:
        print("", *outcome.baseline.texts(outlet), sep="\n")
    for line in outcome.ci_lines:
        print(line)
    if outcome.removed:
        print(escape_ci_commands(outcome.removed))
    trouble = outcome.baseline.trouble if outcome.baseline else None
    for line in filter(None, (outcome.undecided, trouble, *outcome.troubles)):
        print(escape_ci_commands(f"icl-bench: {line}"), file=sys.stderr)
