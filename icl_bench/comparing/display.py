"""How a comparison shows itself to somebody who looks at it in Python."""

from __future__ import annotations

from collections import Counter
from html import escape
from typing import TYPE_CHECKING

from icl_bench.records.display import make_table

if TYPE_CHECKING:
    from icl_bench.comparing.comparison import Comparison

UNCHANGED = ("same", "kept")


def describe_comparison(found: Comparison) -> str:
    """Return what was found in a line.

    Args:
        found: the comparison.
    """
    states = Counter[str](check.state for check in found.checks)
    states.update(metric.state for metric in found.metrics)
    told = ", ".join(f"{count} {state}" for state, count in states.most_common())
    word = "passes" if found.passes() else "does not pass"
    return f"Comparison of {found.model} with {found.baseline}: {word}; {told or 'nothing'}"


def show_comparison(found: Comparison) -> str:
    """Return what was found as a small piece of HTML, what changed first.

    Args:
        found: the comparison.
    """
    rows: list[tuple[str, str, str, str]] = [
        (check.state, f"{check.suite}::{check.id}", check.before or "", check.after or "")
        for check in found.checks
    ]
    rows += [
        (metric.state, f"{metric.key}.{metric.metric}", _show(metric.baseline), _show(metric.value))
        for metric in found.metrics
    ]
    rows += [
        (head.state, f"{head.key} {head.name}", _show(head.baseline), _show(head.value))
        for head in found.heads
    ]
    rows.sort(key=lambda row: row[0] in UNCHANGED)
    table = make_table(("state", "what", "before", "now"), rows)
    return f"<div><p>{escape(describe_comparison(found))}</p>{table}</div>"


def _show(value: float | None) -> str:
    return "" if value is None else f"{value:.3g}"
