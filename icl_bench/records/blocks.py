"""What a probe's part of a report is made of: text, tables, curves, grids of heads. Plain data.

A probe's `report(measurement)` returns such blocks, and every report draws them in its own way. A
number stands in them as it was measured; how many digits are shown is the report's matter.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from icl_bench.records.parts import Measurement

MOST_ROWS = 50
"""Rows of a table that nobody has chosen the rows of."""
_OF_SERIES = ("steps", "broken_steps")
"""Tables that every measurement of a series has, and every report draws."""


@dataclass(frozen=True)
class Quantity:
    """A number with its uncertainty, as a cell of a table.

    Args:
        value: the estimate.
        stderr: its standard error, where there is one.
    """

    value: float
    stderr: float | None = None


Cell = str | int | float | Quantity | None
"""None is an empty cell."""


@dataclass(frozen=True, kw_only=True)
class Block:
    """What all blocks have.

    Args:
        title: what it shows; the measurement's name is added.
        heading: what stands above it in Markdown where that is not the title; "" for nothing.
        note: a remark beside it.
        method: how heads were ablated for it, as `Measurement.method` says it; "" where none were.
    """

    title: str = ""
    heading: str | None = None
    note: str = ""
    method: str = ""


@dataclass(frozen=True, kw_only=True)
class Text(Block):
    """A paragraph.

    Args:
        text: plain text, no markup.
    """

    text: str


@dataclass(frozen=True, kw_only=True)
class Table(Block):
    """Rows and columns.

    Args:
        columns: their titles, with units.
        rows: as many cells each as there are columns.
        named: whether the first column names the rows; it is then aligned left.
    """

    columns: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    named: bool = True

    def __post_init__(self) -> None:
        for row in self.rows:
            if len(row) != len(self.columns):
                told = f"{len(row)} cells in a row of {len(self.columns)} columns"
                raise ValueError(f"table {self.title!r}: {told}")


@dataclass(frozen=True)
class Line:
    """One line of a curve.

    Args:
        name: in the legend.
        rows: with a number under `x` and `y` each, rows without either are left out; a band is
            drawn where all have `Y_ci_low` and `Y_ci_high`, or `Y_stderr`.
        x: key of the horizontal axis.
        y: key of the values.
        dash: whether the line is broken.
    """

    name: str
    rows: Sequence[Mapping[str, Any]]
    x: str
    y: str
    dash: bool = False


@dataclass(frozen=True, kw_only=True)
class Curve(Block):
    """Lines over one axis.

    Args:
        x: name of the horizontal axis, with its unit.
        y: name of the vertical axis, with its unit.
        lines: what is drawn.
        log: whether the horizontal axis is logarithmic.
        table: the curve in numbers; None for all of its points.
    """

    x: str
    y: str
    lines: Sequence[Line]
    log: bool = False
    table: Table | None = None

    def __post_init__(self) -> None:
        if not all(isinstance(line, Line) for line in self.lines):
            raise TypeError(f"curve {self.title!r}: lines are no Line")


@dataclass(frozen=True, kw_only=True)
class HeadGrid(Block):
    """One score of every head: a heat map of layers and heads.

    Args:
        score: key of the score in `rows`; `SCORE_stderr` and such are taken with it.
        rows: with `layer` and `head`, as `Measurement.heads` has them.
        unit: of the score.
    """

    score: str
    rows: Sequence[Mapping[str, Any]]
    unit: str = ""


def tabulate(measurement: Measurement) -> list[Block]:
    """Return every table and every score of heads as it stands in the record.

    This is the part of a probe that says nothing of reports, or is not installed.

    Args:
        measurement: any probe's.
    """
    rows = measurement.heads
    ends = ("_stderr", "_ci_low", "_ci_high")
    names = dict.fromkeys(name for row in rows for name in row if not name.endswith(ends))
    scores = [name for name in names if name not in ("layer", "head")]
    blocks: list[Block] = [HeadGrid(title=name, score=name, rows=rows) for name in scores]
    for title, found in measurement.tables.items():
        if not found or title in _OF_SERIES:
            continue
        columns = list(dict.fromkeys(name for row in found for name in row))
        cells = [[_cell(row.get(name)) for name in columns] for row in found[:MOST_ROWS]]
        more = f"The first {MOST_ROWS} of {len(found)} rows; results.json has all of them."
        note = more if len(found) > MOST_ROWS else ""
        blocks.append(Table(title=title, columns=columns, rows=cells, note=note))
    return blocks


def _cell(value: Any) -> Cell:
    if value is None or (isinstance(value, (str, int, float)) and not isinstance(value, bool)):
        return value
    return json.dumps(value, ensure_ascii=False)
