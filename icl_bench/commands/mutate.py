"""`icl-bench mutate`: planted edits, and which of them suites notice."""

from __future__ import annotations

import argparse
import sys
from typing import Any

from icl_bench.commands import choices
from icl_bench.commands.parsing import (
    FAILED,
    INTERRUPTED,
    OK,
    add_color,
    add_command,
    add_options,
    completed_by,
    names_of,
)
from icl_bench.errors import SettingsError
from icl_bench.mutating.edits import EDITS, choose_edits
from icl_bench.options import OPTIONS
from icl_bench.render.writing.logs import escape_ci_commands

DESCRIPTION = """\
Plant edits in a model one at a time (a head set to 0, weights rounded to 3 bits, another rotary
base ...) and tell which of them a suite notices: mutation testing for circuits. An edit is killed
if a check or the comparison with the unedited model gets worse. The suite is gate unless --suite is
given.

  icl-bench mutate builtin:induction-2l
  icl-bench mutate ./mine --suite=gate --edits=head-zero,int4 --fail-below=0.9
  icl-bench mutate --list                      the edits

The kill rate counts edits that changed behaviour: the gain on repeated tokens or the loss on text,
measured on sequences that no suite uses. Edits that change nothing must pass. What is finished is
kept in the cache, so an interrupted run continues. Weights are put back to the last bit."""

RUN_OPTIONS = (
    *("suite", "report-dir", "device", "dtype", "batch-size", "seed"),
    *("cache-dir", "no-cache", "trust-remote-code", "allow-pickle"),
)


def add_parser(commands: Any) -> None:
    """Add the command to the command line.

    Args:
        commands: what `add_subparsers` returned.
    """
    parser = add_command(
        commands,
        "mutate",
        "plant edits in a model and see which of them a suite notices",
        DESCRIPTION,
    )
    model = parser.add_argument("model", metavar="SPEC", nargs="?", help=OPTIONS["model"].help)
    completed_by(model, choices.complete_models)
    edits = parser.add_argument(
        "--edits",
        metavar="NAME,...",
        default="",
        help="edits to plant (default: all that the model's family has)",
    )
    completed_by(edits, names_of(*EDITS))
    parser.add_argument("--list", action="store_true", help="list the edits and leave")
    parser.add_argument(
        "--fail-below",
        metavar="SHARE",
        help="exit 1 if the kill rate is below SHARE, from 0 to 1 or as 90%%",
    )
    add_options(parser, *RUN_OPTIONS, suites="gate")
    add_color(parser)
    parser.set_defaults(command=run, cache_limit=None)


def run(given: argparse.Namespace) -> int:
    """Carry the command out; return its exit code.

    Args:
        given: the parsed command line.

    Raises:
        InputError: a model, a suite, an edit or an option is wrong; nothing was measured.
    """
    if given.list:
        _print_edits()
        return OK
    names = [name.strip() for name in given.edits.split(",") if name.strip()]
    edits, least = choose_edits(names), read_share(given.fail_below)
    if given.model is None:
        raise SettingsError(
            "no model is given: icl-bench mutate SPEC (builtin:induction-2l is one that needs no "
            "network)"
        )
    from icl_bench.mutating.mutation import check_job, folder_of, mutate
    from icl_bench.mutating.report import mutation_text, write_mutation
    from icl_bench.options import RunOptions
    from icl_bench.progress.bars import command_progress
    from icl_bench.render.writing.outlet import outlet_of
    from icl_bench.running.job import Job
    from icl_bench.running.request import Request
    from icl_bench.suite import find_suite

    request = Request(
        models=[given.model],
        suites=[find_suite(name) for name in dict.fromkeys(given.suite or ["gate"])],
        options=RunOptions.read(lambda dest: getattr(given, dest), "--"),
        report_dir=given.report_dir,
    )
    job = Job(request)
    job.check()
    check_job(job)
    found = mutate(
        job,
        edits,
        named=bool(names),
        watch=lambda models, earlier: command_progress(models, given.color, earlier),
    )
    paths = write_mutation(found, folder_of(job))
    text = mutation_text(found, **outlet_of(sys.stdout, given.color).options())
    print(escape_ci_commands(text))
    for path in paths:
        print(escape_ci_commands(str(path)))
    if found.left:
        print("icl-bench: interrupted; the same command continues", file=sys.stderr)
        return INTERRUPTED
    if least is None:
        return OK
    rate = found.kill_rate
    if rate is None or rate < least:
        told = "unknown, because no edit changed behaviour" if rate is None else f"{rate:.3g}"
        print(f"icl-bench: --fail-below={given.fail_below}: kill rate {told}", file=sys.stderr)
        return FAILED
    return OK


def read_share(text: str | None) -> float | None:
    """Return a share from 0 to 1; None for None.

    Args:
        text: a number, or a percentage.

    Raises:
        SettingsError: it is none.
    """
    if text is None:
        return None
    try:
        share = float(text.removesuffix("%")) / (100 if text.endswith("%") else 1)
    except ValueError:
        share = -1.0
    if not 0 <= share <= 1:
        raise SettingsError(f"--fail-below={text}: must be a share from 0 to 1, such as 0.9 or 90%")
    return share


def _print_edits() -> None:
    width = max(map(len, EDITS))
    for neutral, title in (
        (False, "edits (--edits=NAME,...):"),
        (True, "edits that change nothing, so that a suite must pass:"),
    ):
        print(title)
        for edit in EDITS.values():
            if edit.neutral == neutral:
                print(f"  {edit.name:<{width}}  {edit.change}")
