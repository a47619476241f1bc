"""The leaderboard files of a report folder: written on demand and after runs of several models."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from icl_bench.errors import IclError, SettingsError

if TYPE_CHECKING:
    from icl_bench.ranking import Board
    from icl_bench.render.html.page import Plotly

FORMATS = ("md", "html", "csv", "json")
"""Endings of the files, in the order in which they are written."""


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
    from icl_bench.records.writing import Writer, write_atomically
    from icl_bench.render.html.leaderboard import leaderboard_page
    from icl_bench.render.html.page import share_plotly
    from icl_bench.render.leaderboard import leaderboard_markdown
    from icl_bench.render.leaderboard_data import leaderboard_json, write_csv

    def page(path: Path) -> Path:
        source = share_plotly(folder).name if plotly == "shared" else None
        return write_atomically(path, leaderboard_page(board, source))

    writers: dict[str, Callable[[Path], Path]] = {
        "md": lambda path: write_atomically(path, leaderboard_markdown(board)),
        "html": page,
        "csv": lambda path: write_csv(board, path),
        "json": lambda path: write_atomically(path, leaderboard_json(board)),
    }
    writer = Writer()
    for name in formats or FORMATS:
        writer.attempt(Path(folder) / f"leaderboard.{name}", writers[name])
    if told := writer.explain():
        raise SettingsError(f"{folder}: the leaderboard cannot be written there ({told})")
    return writer.written


def update_leaderboard(folder: str | os.PathLike[str], plotly: Plotly = "inline") -> list[Path]:
    """Rank everything in a report folder after a run of several models; return what was written.

    Records that cannot be read are named in it, and nothing is written where no suite of them
    ranks: the run itself went well.

    Args:
        folder: the report folder.
        plotly: whether the page carries the charting script, or the folder already does.

    Raises:
        SettingsError: the folder cannot be written.
    """
    from icl_bench.ranking import rank, read_entries

    try:
        found = read_entries([folder])
        board = rank(found.read, broken=found.broken)
    except IclError:
        return []
    return write_leaderboard(board, folder, plotly=plotly)
