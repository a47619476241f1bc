"""Line charts as data: panels with their series, intervals and marks."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any


def series(
    name: str,
    rows: Iterable[Mapping[str, Any]],
    x: str,
    y: str,
    error: str | None = None,
    dash: bool = False,
) -> dict[str, Any] | None:
    """Return one line of a panel; None when no row has a value.

    Args:
        name: in the legend.
        rows: those of a record's table.
        x: column of the horizontal axis.
        y: column of the values; with `{y}_ci_low` and `{y}_ci_high` a band is drawn.
        error: column of the standard error, for a band of one on each side where there is no
            interval.
        dash: whether the line is broken.
    """
    points = [row for row in rows if _is_number(row.get(x)) and _is_number(row.get(y))]
    if not points:
        return None
    made: dict[str, Any] = {
        "name": name,
        "x": [row[x] for row in points],
        "y": [_short(row[y]) for row in points],
        "dash": dash,
    }
    low, high = f"{y}_ci_low", f"{y}_ci_high"
    if all(_is_number(row.get(low)) and _is_number(row.get(high)) for row in points):
        made["low"] = [_short(row[low]) for row in points]
        made["high"] = [_short(row[high]) for row in points]
        made["band"] = "95% interval"
    elif error and all(_is_number(row.get(error)) for row in points):
        made["low"] = [_short(row[y] - row[error]) for row in points]
        made["high"] = [_short(row[y] + row[error]) for row in points]
        made["band"] = "± standard error"
    return made


def panel(
    title: str,
    x: str,
    y: str,
    lines: Sequence[dict[str, Any] | None],
    *,
    log: bool = False,
    marks: Sequence[dict[str, Any]] = (),
) -> dict[str, Any] | None:
    """Return a panel; None when it has no line.

    Args:
        title: above it.
        x: name of the horizontal axis.
        y: name of the vertical axis, with its unit.
        lines: what `series` returned.
        log: whether the horizontal axis is logarithmic.
        marks: `{"x": ..., "label": ...}` of vertical lines.
    """
    drawn = [line for line in lines if line is not None]
    if not drawn:
        return None
    return {"title": title, "x": x, "y": y, "log": log, "series": drawn, "marks": list(marks)}


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _short(value: float) -> float:
    return float(f"{value:.5g}")
