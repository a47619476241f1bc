"""`icl-bench leaderboard`: many records in one ranking, no model needed."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path
from typing import Any

from icl_bench.commands.parsing import FAILED, OK, add_color, add_command, add_options
from icl_bench.render.writing.logs import escape_ci_commands
from icl_bench.reports.leaderboard import FORMATS, keep_request, write_leaderboard

WIDEST = 200
"""Characters of a line at most, however wide the terminal is."""

DESCRIPTION = """\
Rank the models of many runs. Reads results.json in every folder given and in their subfolders.

A rank is a range: two models differ significantly when the interval of their difference excludes 0.
Differences are taken sample by sample if both measured the same tokens, else by both standard
errors; all intervals of a column hold together at 95%. Results measured differently (another suite,
seed, text) form a separate group. A missing value is stated and never counts as low. Models whose
chosen head does no better than even attention or its positional control share a rank, "no circuit".
Later runs into the folder update its leaderboard with the same options.

  icl-bench leaderboard reports/
  icl-bench leaderboard reports/ other/results.json --score collapse.gain --md --output ranks
  icl-bench leaderboard reports/ --suite quiz --score quiz/text.icl_score_windowed
"""


def add_parser(commands: Any) -> None:
    """Add the command to the command line.

    Args:
        commands: what `add_subparsers` returned.
    """
    parser = add_command(
        commands,
        "leaderboard",
        "rank the models of many runs, from their records",
        DESCRIPTION,
    )
    parser.add_argument(
        "paths", metavar="FILE|DIR", nargs="*", default=["reports"], help="default: reports/"
    )
    parser.add_argument(
        "--score",
        metavar="METRIC",
        help="metric to rank by: METRIC, MEASUREMENT.METRIC or SUITE/MEASUREMENT.METRIC (default: "
        "induction_max of suite core, else the first check's metric in the suite that most "
        "records share)",
    )
    parser.add_argument("--suite", metavar="NAME", help="rank by this suite's metrics")
    for name in FORMATS:
        parser.add_argument(
            f"--{name}",
            action="store_true",
            help=f"write leaderboard.{name} (default: all)",
        )
    parser.add_argument(
        "--output",
        metavar="DIR",
        help="folder for the files (default: the first folder given)",
    )
    add_options(parser, "plotly")
    add_color(parser)
    parser.set_defaults(command=run)


def run(given: argparse.Namespace) -> int:
    """Carry the command out; return its exit code.

    Args:
        given: the parsed command line.

    Raises:
        InputError: nothing can be read, or an option is wrong.
    """
    from icl_bench.ranking import rank, read_entries
    from icl_bench.render.leaderboard import leaderboard_text
    from icl_bench.render.writing.outlet import outlet_of
    from icl_bench.reports.places import check_report_dir

    if given.output:
        check_report_dir(given.output, "--output")
    found = read_entries(given.paths)
    board = rank(found.read, given.score, given.suite, found.broken)
    outlet = outlet_of(sys.stdout, given.color)
    width = min(outlet.width, WIDEST)
    print(escape_ci_commands(leaderboard_text(board, width=width, unicode=outlet.unicode)))
    formats = [name for name in FORMATS if getattr(given, name)] or list(FORMATS)
    folder = Path(given.output) if given.output else _first_folder(given.paths)
    written = write_leaderboard(board, folder, formats, given.plotly)
    keep_request(folder, given.paths, given.score, given.suite)
    print(f"Written to {folder}{os.sep}: {', '.join(path.name for path in written)}")
    sys.stdout.flush()
    for message in found.broken:
        print(escape_ci_commands(f"icl-bench: left out: {message}"), file=sys.stderr)
    return FAILED if found.broken else OK


def _first_folder(paths: list[str]) -> Path:
    """The first folder given, or that of the first file."""
    return next((Path(path) for path in paths if Path(path).is_dir()), Path(paths[0]).parent)
