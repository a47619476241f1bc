"""A curve as one line of bars."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, TypeGuard

LEVELS = "▁▂▃▄▅▆▇█"
GAP = "–"
"""Stands where there is no value."""


def sparkline(values: Sequence[Any], noise: float = 0.0) -> str:
    """Return values as bars, the smallest at the bottom and the largest at the top.

    The range is cut into as many equal parts as there are bars.

    Args:
        values: one per character, in order; anything but a finite number leaves a dash.
        noise: the line is flat where the values differ by no more than this.
    """
    known = [float(value) for value in values if is_number(value)]
    if not known:
        return ""
    low, span = min(known), max(known) - min(known)
    scale = len(LEVELS) / span if span > noise else 0.0
    return "".join(
        LEVELS[min(int((value - low) * scale), len(LEVELS) - 1)] if is_number(value) else GAP
        for value in values
    )


def pool(values: Sequence[Any], width: int) -> list[float | None]:
    """Return at most `width` values: the means of neighbours, None where all are missing.

    Args:
        values: in order; None where there is none.
        width: how many at most.
    """
    count = min(len(values), width)
    edges = [len(values) * place // count for place in range(count + 1)] if count else []
    pooled: list[float | None] = []
    for low, high in zip(edges, edges[1:]):
        known = [float(value) for value in values[low:high] if is_number(value)]
        pooled.append(sum(known) / len(known) if known else None)
    return pooled


def over_log_steps(points: Sequence[tuple[float, float]], width: int) -> list[float]:
    """Return a curve's values at `width` places, log(step) evenly from the first to the last.

    Each is the value, straight between the points, in the middle of its stretch.

    Args:
        points: (step, value), ascending; those with steps below 1 are left out.
        width: how many values; none without points.
    """
    shown = [(math.log(step), value) for step, value in points if step >= 1]
    if not shown:
        return []
    first, last = shown[0][0], shown[-1][0]
    return [
        _value_at(shown, first + (column + 0.5) / width * (last - first)) for column in range(width)
    ]


def is_number(value: Any) -> TypeGuard[float]:
    """Whether something is a finite number."""
    return isinstance(value, (int, float)) and math.isfinite(value)


def _value_at(points: Sequence[tuple[float, float]], place: float) -> float:
    """A curve's value, straight between its points."""
    before, after = points[0], points[-1]
    for point in points:
        if point[0] <= place:
            before = point
        else:
            after = point
            break
    if after[0] <= before[0]:
        return before[1]
    return before[1] + (place - before[0]) / (after[0] - before[0]) * (after[1] - before[1])
