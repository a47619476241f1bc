"""`icl-bench leaderboard`: many records in one ranking, no model needed."""

from __future__ import annotations

import argparse
import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from icl_bench.errors import IclError, SettingsError

if TYPE_CHECKING:
    from icl_bench.ranking import Board
    from icl_bench.render.html.page import Plotly

FORMATS = ("md", "html", "csv", "json")
WIDEST = 200
"""Characters of a line at most, however wide the terminal is."""

DESCRIPTION = """\
Rank the models of many runs. Reads results.json in every folder given and in the folders of these.

A rank is a range: two models are told apart when the interval of their difference excludes 0,
sample by sample where both measured the same tokens, else by both standard errors; all intervals
of a column hold together at 95%. What was measured in another way (another suite, seed, text)
stands in a group of its own; what a model has not measured is said, and never counts as low.

  icl-bench leaderboard reports/
  icl-bench leaderboard reports/ other/results.json --score gain --md --output ranks
  icl-bench leaderboard reports/ --suite quiz --score quiz/text.icl_score_windowed

Exit codes: 0 ok, 1 some files could not be read, 4 nothing could be, or an option is wrong.
"""


def add_parser(commands: Any) -> None:
    """Add the command to the command line.

    Args:
        commands: what `add_subparsers` returned.
    """
    parser = commands.add_parser(
        "leaderboard",
        help="rank the models of many runs, from their records alone",
        description=DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "paths", metavar="FILE|DIR", nargs="*", default=["reports"], help="default: reports/"
    )
    parser.add_argument(
        "--score",
        metavar="METRIC",
        help="what ranks: METRIC, MEASUREMENT.METRIC or SUITE/MEASUREMENT.METRIC (default: "
        "induction_max of suite core, else the first check's metric of the suite that most "
        "records share)",
    )
    parser.add_argument("--suite", metavar="NAME", help="rank by this suite's metrics")
    for name in FORMATS:
        parser.add_argument(f"--{name}", action="store_true", help=f"write leaderboard.{name}")
    parser.add_argument(
        "--output",
        metavar="DIR",
        help="folder for the files (default: the first folder given); all four when none is named",
    )
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

    found = read_entries(given.paths)
    board = rank(found.read, given.score, given.suite)
    unicode = "utf" in (sys.stdout.encoding or "").lower()
    width = min(shutil.get_terminal_size((80, 24)).columns, WIDEST)
    print(leaderboard_text(board, width=width, unicode=unicode))
    formats = [name for name in FORMATS if getattr(given, name)] or list(FORMATS)
    folder = Path(given.output) if given.output else _first_folder(given.paths)
    written = write_leaderboard(board, folder, formats)
    print(f"Written to {folder}{os.sep}: {', '.join(path.name for path in written)}")
    sys.stdout.flush()
    for message in found.broken:
        print(f"icl-bench: left out: {message}", file=sys.stderr)
    return 1 if found.broken else 0


def _first_folder(paths: list[str]) -> Path:
    """The first folder given, or that of the first file."""
    return next((Path(path) for path in paths if Path(path).is_dir()), Path(paths[0]).parent)


def write_leaderboard(
    board: Board,
    folder: str | os.PathLike[str],
    formats: list[str] | None = None,
    plotly: Plotly = "inline",
) -> list[Path]:
    """Write leaderboard files and return their paths.

    Args:
        board: the leaderboard.
        folder: where they go; made if it is not there.
        formats: of md, html, csv, json; None for all.
        plotly: whether the page carries the charting script, or the folder does.

    Raises:
        SettingsError: the folder cannot be written.
    """
    from icl_bench.record import write_atomically
    from icl_bench.render.html.leaderboard import leaderboard_page
    from icl_bench.render.html.page import plotly_name
    from icl_bench.render.leaderboard import leaderboard_markdown
    from icl_bench.render.leaderboard_data import leaderboard_json, write_csv

    source = plotly_name() if plotly == "shared" else None
    writers: dict[str, Callable[[Path], Path]] = {
        "md": lambda path: write_atomically(path, leaderboard_markdown(board)),
        "html": lambda path: write_atomically(path, leaderboard_page(board, source)),
        "csv": lambda path: write_csv(board, path),
        "json": lambda path: write_atomically(path, leaderboard_json(board)),
    }
    try:
        return [writers[name](Path(folder) / f"leaderboard.{name}") for name in formats or FORMATS]
    except OSError as error:
        raise SettingsError(
            f"{folder}: the leaderboard cannot be written there ({error.strerror or error})"
        ) from None


def update_leaderboard(folder: str | os.PathLike[str], plotly: Plotly = "inline") -> list[Path]:
    """Rank everything in a report folder after a run of several models; return what was written.

    Records that cannot be read are left out, and nothing is written where no suite of them ranks:
    the run itself went well.

    Args:
        folder: the report folder.
        plotly: whether the page carries the charting script, or the folder already does.
    """
    from icl_bench.ranking import rank, read_entries

    try:
        return write_leaderboard(rank(read_entries([folder]).read), folder, plotly=plotly)
    except IclError:
        return []
