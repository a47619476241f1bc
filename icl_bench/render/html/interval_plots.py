"""A check as a small picture: its interval, its value, and where the rule wants it."""

from __future__ import annotations

import math
from typing import Any

from markupsafe import Markup

from icl_bench.records.parts import Check
from icl_bench.render.writing import numbers

WIDTH, HEIGHT = 180, 26
_PAD = 6.0


def draw_strip(check: Check) -> Markup | None:
    """Return the picture as SVG: the zone that passes, the interval, the value.

    Args:
        check: one that was measured, with a rule over one number or two; None for others.
    """
    zone = _zone(check.rule, check.threshold)
    if check.value is None or zone is None:
        return None
    low, high = check.ci_low, check.ci_high
    ends = [check.value, *(v for v in (low, high, *zone) if v is not None and math.isfinite(v))]
    first, last = min(ends), max(ends)
    room = (last - first) * 0.18 or max(abs(last) * 0.2, 1e-9)
    first, last = first - room, last + room

    def place(value: float) -> float:
        share = (min(max(value, first), last) - first) / (last - first)
        return round(_PAD + share * (WIDTH - 2 * _PAD), 1)

    zone_left, zone_right = place(zone[0]), place(zone[1])
    middle = HEIGHT / 2
    parts = [
        f'<rect class="zone" x="{zone_left}" y="3" width="{max(zone_right - zone_left, 1.5):.1f}" '
        f'height="{HEIGHT - 6}" rx="3"/>',
        f'<line class="axis" x1="{_PAD}" x2="{WIDTH - _PAD}" y1="{middle}" y2="{middle}"/>',
    ]
    for edge in zone:
        if math.isfinite(edge):
            x = place(edge)
            parts.append(f'<line class="edge" x1="{x}" x2="{x}" y1="3" y2="{HEIGHT - 3}"/>')
    if low is not None and high is not None:
        parts.append(
            f'<line class="interval" x1="{place(low)}" x2="{place(high)}" '
            f'y1="{middle}" y2="{middle}"/>'
        )
    parts.append(f'<circle class="value" cx="{place(check.value)}" cy="{middle}" r="4"/>')
    told = f"{numbers.number(check.value)}"
    if low is not None and high is not None:
        told += f", interval {numbers.interval(low, high)}"
    told += f"; required {numbers.rule(check.rule, check.threshold)}"
    label = Markup("{}").format(told)
    # Every number above is ours and every text is escaped by the line before.
    return Markup(
        f'<svg class="strip" viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" height="{HEIGHT}" '
        f'role="img" aria-label="{label}"><title>{label}</title>{"".join(parts)}</svg>'
    )


def _zone(rule: str, threshold: Any) -> tuple[float, float] | None:
    """The numbers that pass, from and to; None for a rule that has no such range."""
    try:
        if rule in ("above", "at_least"):
            return float(threshold), math.inf
        if rule in ("below", "at_most"):
            return -math.inf, float(threshold)
        if rule == "between":
            return float(threshold[0]), float(threshold[1])
        if rule == "equals":
            if isinstance(threshold, dict):
                middle, side = float(threshold["value"]), float(threshold["tolerance"])
                return middle - side, middle + side
            return float(threshold), float(threshold)
    except (TypeError, ValueError, KeyError, IndexError):
        return None
    return None
