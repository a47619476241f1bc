"""The quiz with its measured answers."""

from __future__ import annotations

from typing import Any

from icl_bench.records.parts import Check
from icl_bench.records.record import RunRecord
from icl_bench.render.html.checks import anchor, verdict_cell
from icl_bench.render.quiz import option_rules
from icl_bench.render.writing import numbers
from icl_bench.render.writing.markup import bounds, estimate


def section(record: RunRecord) -> dict[str, Any] | None:
    """Return the items with options, measured answer, and what that supports."""
    items = [check for check in record.checks if check.kind == "quiz"]
    if not items:
        return None
    verdicts = dict.fromkeys(item.verdict for item in items)
    several = len({item.suite for item in items}) > 1
    return {
        "items": [_item(item, record, several) for item in items],
        "filters": [
            (verdict_cell(verdict), sum(item.verdict == verdict for item in items))
            for verdict in verdicts
        ],
    }


def _item(item: Check, record: RunRecord, several: bool) -> dict[str, Any]:
    rules = option_rules(item)
    measurement = record.measurements.get(item.measurement)
    metrics = measurement.metrics if measurement else {}
    beside = [name for name in item.beside or () if name in metrics]
    measured = ""
    if item.value is not None:
        interval = bounds(item.ci_low, item.ci_high)
        measured = f"{item.metric} = {numbers.estimate(item.value, item.stderr)}"
        measured += f", 95% interval {interval}" if interval else ""
    return {
        "id": f"{item.suite}::{item.id}" if several else item.id,
        "anchor": anchor(record, item),
        "verdict": verdict_cell(item.verdict),
        "about": item.description or "",
        "question": item.question or "",
        "options": [
            {
                "key": key,
                "text": text,
                "rule": f"{item.metric} {rules[key]}" if key in rules else "",
                "expected": key == item.expected,
                "supported": key == item.supports,
            }
            for key, text in (item.options or {}).items()
        ],
        "measured": measured,
        "beside": "; ".join(f"{name} = {estimate(metrics[name])}" for name in beside),
        "reason": item.reason or "",
    }
