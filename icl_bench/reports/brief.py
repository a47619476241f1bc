"""The ranking of one run's models in a line."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator

from icl_bench.errors import IclError
from icl_bench.ranking.board import rank
from icl_bench.ranking.entries import read_entries
from icl_bench.render.leaderboard import rank_text
from icl_bench.render.writing.numbers import number
from icl_bench.render.writing.text import one_line


def describe_ranking(records: Iterable[str | os.PathLike[str]]) -> Iterator[str]:
    """Yield a line for each group of comparable models: their ranks, names and scores.

    Args:
        records: files; nothing is said of fewer than two, or where nothing ranks.
    """
    files = list(records)
    if len(files) < 2:
        return
    try:
        board = rank(read_entries(files).read)
    except IclError:
        return
    for group in board.groups:
        ranked = [(row.name, row.cells[board.score]) for row in group.rows[: group.ranked]]
        told = [
            f"{rank_text(cell)} {one_line(name)} ({number(cell.figure.value)})"
            for name, cell in ranked
            if cell.figure is not None
        ]
        if len(told) > 1:
            yield f"Ranking by {board.column.metric} of {board.suite}: {', '.join(told)}"
