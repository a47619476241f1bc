"""The table of checks with their intervals drawn, and how verdicts are shown."""

from __future__ import annotations

from typing import Any

from icl_bench.records.parts import Check, Verdict
from icl_bench.records.record import RunRecord
from icl_bench.render import tables
from icl_bench.render.html.interval_plots import draw_strip
from icl_bench.render.writing import numbers
from icl_bench.render.writing.markup import bounds
from icl_bench.render.writing.text import WORDS

SIGNS: dict[Verdict, str] = {
    "pass": "✓",
    "fail": "✗",
    "inconclusive": "?",
    "skipped": "–",
    "error": "!",
}
"""Beside the colour, so that no verdict is told by colour alone."""


def verdict_cell(verdict: Verdict) -> dict[str, str]:
    """Return a verdict as the template shows it: class, sign and word."""
    return {"class": verdict, "sign": SIGNS[verdict], "word": WORDS[verdict]}


def anchor(record: RunRecord, check: Check) -> str:
    """Return the name that a check goes by in the page's addresses.

    Args:
        record: the run.
        check: one of its checks.
    """
    return f"check-{next(i for i, one in enumerate(record.checks) if one is check)}"


def section(record: RunRecord) -> dict[str, Any] | None:
    """Return the rows of the table of checks, a group per suite."""
    found = [check for check in record.checks if check.kind == "check"]
    if not found:
        return None
    suites = dict.fromkeys(check.suite for check in found)
    groups = [
        (name, [_row(record, check) for check in found if check.suite == name]) for name in suites
    ]
    return {"groups": groups}


def _row(record: RunRecord, check: Check) -> dict[str, Any]:
    return {
        "anchor": anchor(record, check),
        "id": check.id,
        "description": check.description or "",
        "metric": check.metric,
        "arrow": {"up": "↑", "down": "↓", None: ""}[check.direction],
        "value": "" if check.value is None else numbers.number(check.value),
        "stderr": "" if check.stderr is None else f"± {numbers.stderr(check.stderr)}",
        "interval": bounds(check.ci_low, check.ci_high),
        "rule": tables.rule_cell(check),
        "strip": draw_strip(check),
        "verdict": verdict_cell(check.verdict),
        "reason": check.reason or "",
        "measurement": check.measurement,
    }
