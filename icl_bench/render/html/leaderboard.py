"""A leaderboard -> leaderboard.html: a table to sort and filter, charts, two models compared."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from icl_bench import __version__
from icl_bench.records.keys import Key
from icl_bench.render.html.packing import pack
from icl_bench.render.html.page import make_page
from icl_bench.render.leaderboard import (
    APART,
    ARROWS,
    RANGES,
    checks_text,
    describe_absent,
    group_title,
    heading,
    mark,
    rank_text,
    record_name,
    say_rank,
    size_text,
)
from icl_bench.render.writing import numbers
from icl_bench.render.writing.markup import bounds
from icl_bench.render.writing.text import one_line

if TYPE_CHECKING:
    from icl_bench.ranking import Board, Cell, Group, Row

TABLE_METRICS = 12
"""Further metrics with a column of their own in the table; the others are chosen one at a time."""

MOST_PAIRS = 2_000_000
"""Pairs of one group that the page carries; of more it names the JSON file."""


def leaderboard_page(board: Board, plotly: str | None = None) -> str:
    """Return a leaderboard as one HTML page.

    Args:
        board: what to show.
        plotly: relative address of the charting script; None packs it into the page.
    """
    further = [i for i, one in enumerate(board.columns) if one.read and i != board.score]
    shown = further[:TABLE_METRICS]
    return make_page(
        "leaderboard.html.j2",
        title=f"Leaderboard: {board.column.name}",
        data=_data(board, shown),
        scripts=("leaderboard.js",),
        styles=("leaderboard.css",),
        plotly=plotly,
        heading=one_line(heading(board)),
        ranges=RANGES,
        absent=describe_absent(board),
        broken=[one_line(line) for line in board.broken],
        score=board.column,
        score_place=Key(board.column.key).name,
        arrow=ARROWS[board.column.direction],
        metrics=[
            {
                "place": Key(one.key).name,
                "title": f"{one.metric} {ARROWS[one.direction]}".rstrip(),
                "meaning": one.meaning,
            }
            for one in (board.columns[index] for index in shown)
        ],
        groups=[
            {
                "title": one_line(group_title(board, number, group)),
                "why": group.why,
                "remarks": group.remarks,
                "rows": [_table_row(board, row, shown) for row in group.rows],
            }
            for number, group in enumerate(board.groups, start=1)
        ],
        version=__version__,
    )


def _table_row(board: Board, row: Row, shown: list[int]) -> dict[str, Any]:
    model, score = row.entry.model, row.cells[board.score]
    figure = score.figure
    interval = "" if figure is None else bounds(figure.ci_low, figure.ci_high)
    facts = [model.architecture, model.dtype, model.attention and f"{model.attention} attention"]
    return {
        "rank": rank_text(score),
        "rank_order": _rank_order(score),
        "name": mark(row),
        "facts": one_line(", ".join(filter(None, facts))),
        "remarks": [one_line(remark) for remark in row.remarks],
        "size": size_text(model.parameters),
        "parameters": model.parameters,
        "score": _shown(score),
        "interval": interval,
        "reason": one_line(score.reason) if score.reason else None,
        "no_circuit": one_line(score.no_circuit) if score.no_circuit else None,
        "checks": checks_text(row),
        "passed": row.verdicts["pass"],
        "cells": [_shown(row.cells[index]) for index in shown],
    }


def _shown(cell: Cell) -> dict[str, Any]:
    """A table cell: what it says, and the number that it is sorted by."""
    if cell.figure is None:
        return {"text": "–", "sub": "", "sort": None, "why": one_line(cell.reason or "")}
    text = numbers.estimate(cell.figure.value, cell.figure.stderr)
    sub = say_rank(cell)
    why = one_line(cell.reason or cell.no_circuit or "")
    if cell.reason:
        sub = f"{APART} not comparable"
    return {"text": text, "sub": sub, "sort": cell.figure.value, "why": why}


def _rank_order(cell: Cell) -> float | None:
    return None if cell.rank is None else cell.rank[0] + cell.rank[1] / 1e7


def _data(board: Board, shown: list[int]) -> dict[str, Any]:
    reasons: dict[str, int] = {}
    groups = [
        {
            "title": one_line(group_title(board, number, group)),
            "ranked": group.ranked,
            "rows": [
                {
                    "name": mark(row),
                    "architecture": one_line(row.entry.model.architecture or ""),
                    "parameters": row.entry.model.parameters,
                    "record": one_line(record_name(row)),
                    "cells": [_packed(cell, reasons) for cell in row.cells],
                }
                for row in group.rows
            ],
            "pairs": _pairs(group),
        }
        for number, group in enumerate(board.groups, start=1)
    ]
    return {
        "score": board.score,
        "shown": shown,
        "columns": [
            {
                "name": one.name,
                "short": one.short,
                "meaning": one.meaning,
                "unit": one.unit,
                "direction": one.direction,
                "arrow": ARROWS[one.direction],
                "read": one.read,
                "no_rank": one.no_rank,
            }
            for one in board.columns
        ],
        "groups": groups,
        "reasons": list(reasons),
    }


def _packed(cell: Cell, reasons: dict[str, int]) -> Any:
    """A cell as [value, stderr, low, high, best rank, worst rank, reason], or its reason alone.

    Where the rank is that of models without a circuit, the reason why stands at the end.
    """
    place = None
    if cell.reason is not None:
        place = reasons.setdefault(one_line(cell.reason), len(reasons))
    figure = cell.figure
    if figure is None:
        return place
    shown = [_rounded(one) for one in (figure.value, figure.stderr, figure.ci_low, figure.ci_high)]
    packed = [*shown, *(cell.rank or (None, None)), place]
    if cell.no_circuit:
        packed.append(reasons.setdefault(one_line(cell.no_circuit), len(reasons)))
    return packed


def _rounded(value: float | None) -> float | None:
    return None if value is None else float(f"{value:.6g}")


def _pairs(group: Group) -> dict[str, Any] | None:
    """The score's differences above the diagonal, row by row; None where there are too many."""
    import numpy as np

    pairs, m = group.pairs, group.ranked
    if m * (m - 1) // 2 > MOST_PAIRS:
        return None
    above = np.triu_indices(m, 1)
    told = {
        "difference": pairs.difference[above],
        "centre": pairs.centre[above],
        "half": pairs.half[above],
    }
    packed = {name: pack(values.astype("<f4").tobytes()) for name, values in told.items()}
    if np.array_equal(told["difference"], told["centre"]):
        packed["centre"] = ""
    bits = {"paired": pairs.paired[above], "apart": np.abs(told["centre"]) > told["half"]}
    return packed | {name: pack(np.packbits(on).tobytes()) for name, on in bits.items()}
