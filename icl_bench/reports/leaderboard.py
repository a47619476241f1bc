"""The leaderboard files of a report folder: written on demand, and kept up to date by runs."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from icl_bench.errors import IclError, SettingsError

if TYPE_CHECKING:
    from icl_bench.ranking import Board
    from icl_bench.render.html.page import Plotly

FORMATS = ("md", "html", "csv", "json")
"""Endings of the files, in the order in which they are written."""
REQUEST = ".leaderboard.json"
"""Beside them: how they were asked for, where that was not the default."""


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


def keep_request(folder: Path, paths: Sequence[str], score: str | None, suite: str | None) -> None:
    """Remember how the leaderboard of a report folder was asked for, for runs to update it so.

    Args:
        folder: where it lies; a request of files alone, or for another folder, is not remembered.
        paths: files and folders that were given.
        score: the metric that was given; None for the default.
        suite: the suite that was given; None for the default.

    Raises:
        SettingsError: the folder cannot be written.
    """
    from icl_bench.records.writing import write_atomically

    others = [os.path.relpath(path, folder) for path in paths]
    if "." not in others:
        return
    others.remove(".")
    asked = {"score": score, "suite": suite, "others": others}
    try:
        if any(asked.values()):
            write_atomically(folder / REQUEST, json.dumps(asked, indent=1) + "\n")
        else:
            (folder / REQUEST).unlink(missing_ok=True)
    except OSError as error:
        raise _unwritable(folder, error) from None


def _read_request(folder: Path) -> tuple[str | None, str | None, list[str]]:
    """Score, suite and other paths that the folder's leaderboard was asked for with."""
    try:
        asked = json.loads((folder / REQUEST).read_text(encoding="utf-8"))
        return asked["score"], asked["suite"], [str(path) for path in asked["others"]]
    except FileNotFoundError:
        return None, None, []
    except (OSError, ValueError, KeyError, TypeError):
        raise SettingsError(
            f"{folder / REQUEST}: cannot be read; icl-bench leaderboard writes it anew"
        ) from None


def update_leaderboard(
    folder: str | os.PathLike[str], plotly: Plotly = "inline", *, several: bool = True
) -> list[Path]:
    """Rank everything in a report folder after a run; return what was written.

    A leaderboard that is there is made anew, by the score and with the other records that it was
    asked for with; where there is none, a run of several models makes one. Records that cannot be
    read are named in it, and no first one is made where no suite of them ranks: the run itself
    went well.

    Args:
        folder: the report folder.
        plotly: whether the page carries the charting script, or the folder already does.
        several: whether the run had several models.

    Raises:
        SettingsError: the folder cannot be written, or a leaderboard that is there not be updated.
    """
    from icl_bench.ranking import rank, read_entries

    folder = Path(folder)
    there = [name for name in FORMATS if (folder / f"leaderboard.{name}").is_file()]
    if not there and not several:
        return []
    try:
        score, suite, others = _read_request(folder) if there else (None, None, [])
        paths = [folder / other for other in others]
        lost = [f"{path}: there is no such file or folder" for path in paths if not path.exists()]
        found = read_entries([folder, *(path for path in paths if path.exists())])
        board = rank(found.read, score, suite, [*found.broken, *lost])
    except IclError as error:
        if there:
            raise SettingsError(f"{folder}: the leaderboard was not updated: {error}") from None
        return []
    return write_leaderboard(board, folder, None if several else there, plotly)


def _unwritable(folder: str | os.PathLike[str], error: OSError) -> SettingsError:
    why = error.strerror or error
    return SettingsError(f"{folder}: the leaderboard cannot be written there ({why})")
