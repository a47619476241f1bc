"""Rows of the tables that the terminal and Markdown share: checks, heads, null draws."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, TypeGuard

from icl_bench.records.parts import Check, Measurement
from icl_bench.records.record import RunRecord
from icl_bench.render.writing import numbers
from icl_bench.render.writing.text import WORDS, one_line

CHECK_HEADER = ("Check", "Metric", "", "Value", "", "Stderr", "Rule", "Verdict")
"""The columns of lm-evaluation-harness, then the rule and the verdict."""

WIDE_CHECK_HEADER = (
    *CHECK_HEADER[:6],
    *("95% interval", "n", "Seconds", "Rule", "Verdict", "Asks"),
)
"""The same where there is room: also the interval, its samples, and the measurement's time."""

HEAD_COLUMNS = {
    "Control": "induction_control",
    "Excess": "induction_excess",
    "Previous": "previous_token",
    "Duplicate": "duplicate_token",
    "First": "first_token",
}
"""Title -> field of the columns after a head's induction score."""

HEAD_LEFT = ("Head", "", "Stderr")
"""The columns of `head_table` that are aligned left; scores are aligned right."""

_ARROWS = {"up": "↑", "down": "↓", None: ""}


def check_row(check: Check) -> list[str]:
    """Return a check's cells under `CHECK_HEADER`."""
    value, error = "", ""
    if check.value is not None:
        value = numbers.number(check.value)
        error = "" if check.stderr is None else numbers.stderr(check.stderr)
    return [
        one_line(check.id),
        one_line(check.metric),
        _ARROWS[check.direction],
        value,
        "±" if error else "",
        error,
        rule_cell(check),
        WORDS[check.verdict],
    ]


def wide_check_row(check: Check, record: RunRecord) -> list[str]:
    """Return a check's cells under `WIDE_CHECK_HEADER`.

    Args:
        check: the check.
        record: the run that it is from.
    """
    cells = check_row(check)
    measurement = record.measurements.get(check.measurement)
    metric = measurement.metrics.get(check.metric) if measurement else None
    interval, samples, seconds = "", "", ""
    if check.ci_low is not None and check.ci_high is not None:
        interval = numbers.interval(check.ci_low, check.ci_high)
    if metric is not None and metric.n is not None:
        samples = numbers.count(metric.n)
    if measurement is not None and measurement.seconds is not None:
        seconds = f"{measurement.seconds:.1f}"
    asks = one_line(check.description or check.question or "")
    return [*cells[:6], interval, samples, seconds, *cells[6:], asks]


def rule_cell(check: Check) -> str:
    """Return what a check demands: `> 0.4`, or for a quiz item `supports a`."""
    if check.rule == "supports":
        return one_line(f"supports {check.expected}")
    return one_line(numbers.rule(check.rule, check.threshold))


def match_checks(records: Sequence[RunRecord]) -> list[tuple[Check, list[Check | None]]]:
    """Return every check of several records once, with what each record says about it.

    Args:
        records: one record per model.
    """
    found: list[dict[tuple[str, str], Check]] = [
        {(check.suite, check.id): check for check in record.checks} for record in records
    ]
    keys = list(dict.fromkeys(key for checks in found for key in checks))
    return [
        (next(checks[key] for checks in found if key in checks), [c.get(key) for c in found])
        for key in keys
    ]


def head_measurements(record: RunRecord) -> list[tuple[list[str], Measurement]]:
    """Return the measurements with per-head scores; those that share their rows come once.

    Args:
        record: the run.

    Returns:
        Pairs of the keys under which the rows stand in the record, and one measurement.
    """
    groups: list[tuple[list[str], Measurement]] = []
    for key, measurement in record.measurements.items():
        if not any(_is_score(row.get("induction")) for row in measurement.heads):
            continue
        for keys, other in groups:
            if other.heads == measurement.heads:
                keys.append(key)
                break
        else:
            groups.append(([key], measurement))
    return groups


def head_table(
    heads: Sequence[dict[str, Any]], top: int = 8, top_previous: int = 3
) -> tuple[list[str], list[list[str]]]:
    """Return header and rows of the heads that matter most; columns without any value are left out.

    Args:
        heads: a measurement's rows, one per head.
        top: how many heads with the highest induction score come first.
        top_previous: how many of the highest previous-token score are added.
    """
    chosen = _highest(heads, "induction", top)
    chosen += [row for row in _highest(heads, "previous_token", top_previous) if row not in chosen]
    columns = {
        title: name
        for title, name in HEAD_COLUMNS.items()
        if any(_is_score(row.get(name)) for row in chosen)
    }
    errors = any(_is_score(row.get("induction_stderr")) for row in chosen)
    header = ["Head", "Induction", *(["", "Stderr"] if errors else []), *columns]
    rows = []
    for row in chosen:
        cells = [one_line(f"{row.get('layer', '?')}.{row.get('head', '?')}")]
        cells.append(_score(row.get("induction")))
        if errors:
            error = row.get("induction_stderr")
            cells += ["±", numbers.stderr(error)] if _is_score(error) else ["", ""]
        rows.append(cells + [_score(row.get(name)) for name in columns.values()])
    return header, rows


def histogram(values: Sequence[float], bins: int = 8, width: int = 24) -> list[str]:
    """Return a small text histogram, one line per bin, empty without values.

    Args:
        values: finite numbers, in any unit.
        bins: number of bins of equal width between the smallest and the largest value.
        width: characters of the longest bar.
    """
    if not values:
        return []
    low, high = min(values), max(values)
    if low == high:
        return [f"{numbers.number(low)}  {'█' * width} {len(values)}"]
    step = (high - low) / bins
    counts = [0] * bins
    for value in values:
        counts[min(int((value - low) / step), bins - 1)] += 1
    edges = _distinct([low + step * index for index in range(bins + 1)])
    side = max(len(edge) for edge in edges)
    lines = []
    for index, size in enumerate(counts):
        bar = "█" * max(round(width * size / max(counts)), 1) + " " if size else ""
        lines.append(f"{edges[index]:>{side}} – {edges[index + 1]:>{side}}  {bar}{size}")
    return lines


def _distinct(values: Sequence[float]) -> list[str]:
    """Numbers with the same decimals each, as many as it takes to tell them apart."""
    shown: list[str] = []
    for decimals in range(2, 12):
        shown = [f"{value:.{decimals}f}" for value in values]
        if len(set(shown)) == len(shown):
            break
    return shown


def _highest(heads: Sequence[dict[str, Any]], name: str, top: int) -> list[dict[str, Any]]:
    scored = [row for row in heads if _is_score(row.get(name))]
    return sorted(scored, key=lambda row: row[name], reverse=True)[:top]


def _is_score(value: Any) -> TypeGuard[float]:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _score(value: Any) -> str:
    return numbers.score(value) if _is_score(value) else ""
