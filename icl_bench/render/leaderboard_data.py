"""A leaderboard -> plain data, JSON and CSV."""

from __future__ import annotations

import json
import math
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from icl_bench import __version__
from icl_bench.render.csv import write_rows
from icl_bench.render.leaderboard import record_name

if TYPE_CHECKING:
    from icl_bench.ranking import Board, Cell, Column, Group, Row

SCHEMA = 1
"""Version of leaderboard.json; readers pass over fields that they do not know."""

ALL_PAIRS = 50
"""Models of a group up to which all pairs are listed; beyond it only neighbours are."""

FIGURES = ("value", "stderr", "ci_low", "ci_high")

_MODEL = (
    *("architecture", "parameters", "layers", "heads", "kv_heads", "dtype", "attention", "bos"),
    *("quantization", "adapter", "base", "base_revision"),
)
_ENVIRONMENT = ("device", "platform", "python", "torch", "transformers", "git")


def leaderboard_json(board: Board) -> str:
    """Return a leaderboard as JSON text.

    Args:
        board: what to write.
    """
    return json.dumps(as_data(board), ensure_ascii=False, allow_nan=False, indent=1) + "\n"


def as_data(board: Board) -> dict[str, Any]:
    """Return everything in a leaderboard as plain data.

    Args:
        board: the leaderboard.
    """
    return {
        "schema": SCHEMA,
        "icl_bench": __version__,
        "suite": board.suite,
        "score": board.column.name,
        "direction": board.column.direction,
        "confidence": 0.95,
        "columns": [_column(column) for column in board.columns],
        "groups": [_group(board, group) for group in board.groups],
        "absent": [{"model": name, "suites": suites} for name, suites in board.absent],
        "broken": board.broken,
    }


def _column(column: Column) -> dict[str, Any]:
    return {
        "name": column.name,
        "measurement": column.key,
        "metric": column.metric,
        "probe": column.probe,
        "meaning": column.meaning,
        "unit": column.unit,
        "direction": column.direction,
        "read_by_a_check": column.read,
        "not_ranked": column.no_rank,
    }


def _group(board: Board, group: Group) -> dict[str, Any]:
    return {
        "suite_sha256": group.digest,
        "why": group.why,
        "ranked": group.ranked,
        "remarks": group.remarks,
        "rows": [_row(board, group, row) for row in group.rows],
        "pairs": list_pairs(board, group),
        "pairs_are": "all" if group.ranked <= ALL_PAIRS else "neighbours",
    }


def _row(board: Board, group: Group, row: Row) -> dict[str, Any]:
    entry = row.entry
    return {
        "model": row.name,
        "rank": row.cells[board.score].rank,
        "no_circuit": row.cells[board.score].no_circuit,
        "record": record_name(row),
        "spec": entry.model.spec,
        "slug": entry.model.slug,
        "origin": entry.model.origin,
        "revision": entry.model.revision,
        "fingerprint": entry.model.fingerprint,
        **{name: getattr(entry.model, name) for name in _MODEL},
        "last_step": entry.model.steps[-1] if entry.model.steps else None,
        "status": entry.status,
        "created": entry.created,
        "icl_bench": entry.version,
        "environment": {name: getattr(entry.environment, name) for name in _ENVIRONMENT},
        "same_weights_as": None if row.twin is None else group.rows[row.twin].name,
        "checks": dict(row.verdicts),
        "remarks": row.remarks,
        "metrics": {
            column.name: _cell(cell) for column, cell in zip(board.columns, row.cells, strict=True)
        },
    }


def _cell(cell: Cell) -> dict[str, Any]:
    figure = cell.figure
    told: dict[str, Any] = {}
    if figure is not None:
        told = {name: getattr(figure, name) for name in (*FIGURES, "n")}
        told = {name: value for name, value in told.items() if value is not None}
        if figure.exact:
            told["exact"] = True
    if cell.rank is not None:
        told["rank"] = cell.rank
    if cell.no_circuit is not None:
        told["no_circuit"] = cell.no_circuit
    if cell.reason is not None:
        told["reason"] = cell.reason
    return told


def list_pairs(board: Board, group: Group) -> list[dict[str, Any]]:
    """Return the differences of the score between ranked models: the first minus the second.

    Args:
        board: the leaderboard.
        group: one of its groups.

    Returns:
        All pairs of up to `ALL_PAIRS` models, of more those that stand next to each other.
    """
    pairs, m = group.pairs, group.ranked
    reach = m if m <= ALL_PAIRS else 1
    found = []
    for i in range(m):
        for j in range(i + 1, min(i + reach, m - 1) + 1):
            half, centre = float(pairs.half[i, j]), float(pairs.centre[i, j])
            known = math.isfinite(half)
            found.append(
                {
                    "first": group.rows[i].name,
                    "second": group.rows[j].name,
                    "difference": float(pairs.difference[i, j]),
                    "ci_low": centre - half if known else None,
                    "ci_high": centre + half if known else None,
                    "paired": bool(pairs.paired[i, j]),
                    "told_apart": known and abs(centre) > half,
                }
            )
    return found


def write_csv(board: Board, path: str | os.PathLike[str]) -> Path:
    """Write one row per record to a CSV file, atomically, and return the path.

    Args:
        board: the leaderboard.
        path: the file to write.
    """
    fixed = (
        "group",
        "rank_low",
        "rank_high",
        "no_circuit",
        "model",
        *_MODEL,
        "status",
        "created",
        "icl_bench",
    )
    counts = ("passed", "failed", "inconclusive", "skipped", "errors")
    ends = (*FIGURES, "rank_low", "rank_high", "reason")
    order = [board.score, *(i for i in range(len(board.columns)) if i != board.score)]
    names = [f"{board.columns[index].name}{_end(end)}" for index in order for end in ends]
    rows = []
    for number, group in enumerate(board.groups, start=1):
        for row in group.rows:
            entry = row.entry
            cells = {name: getattr(entry.model, name) for name in _MODEL}
            cells |= {"group": number, "model": row.name, "status": entry.status}
            cells |= {"no_circuit": row.cells[board.score].no_circuit}
            cells |= {"created": entry.created, "icl_bench": entry.version}
            cells |= dict(zip(("rank_low", "rank_high"), row.cells[board.score].rank or ()))
            kinds = ("pass", "fail", "inconclusive", "skipped", "error")
            cells |= {name: row.verdicts[kind] for name, kind in zip(counts, kinds)}  # type: ignore[index]
            for column, cell in zip(board.columns, row.cells, strict=True):
                told = _cell(cell)
                told |= dict(zip(("rank_low", "rank_high"), cell.rank or ()))
                cells |= {f"{column.name}{_end(end)}": told.get(end) for end in ends}
            rows.append(cells)
    return write_rows(path, rows, [*fixed, *counts, *names])


def _end(end: str) -> str:
    return "" if end == "value" else f"_{end}"
