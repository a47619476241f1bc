"""The report's section on quiz items: question, options, what was measured, what that supports."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from icl_bench.records.parts import Check, Measurement
from icl_bench.records.record import RunRecord
from icl_bench.render.writing import numbers
from icl_bench.render.writing.markup import bounds, escape, estimate, table
from icl_bench.render.writing.text import WORDS, cut

_LONGEST_OPTION = 90


def show_quiz(record: RunRecord) -> Iterator[str]:
    """All items at a glance, then each with its options and numbers.

    Args:
        record: the run.
    """
    items = [check for check in record.checks if check.kind == "quiz"]
    if not items:
        return
    yield "## Quiz"
    if len(items) > 1:
        yield ""
        rows = [[item.id, WORDS[item.verdict], *_answer(item)] for item in items]
        yield from table(["Item", "Verdict", "Measured", "The measurement supports"], rows)
    for item in items:
        yield from _item(item, record.measurements.get(item.measurement))


def _answer(item: Check) -> tuple[str, str]:
    """What was measured, and the option that it supports, in short."""
    if item.value is None:
        return "", ""
    measured = f"{item.metric} = {numbers.estimate(item.value, item.stderr)}"
    if item.supports is None:
        return measured, _undecided(item)
    text = (item.options or {}).get(item.supports, "")
    return measured, cut(f"{item.supports}: {text}" if text else item.supports, _LONGEST_OPTION)


def _item(item: Check, measurement: Measurement | None) -> Iterator[str]:
    yield ""
    yield f"### {WORDS[item.verdict]}: {escape(item.id)}"
    yield ""
    if item.description:
        yield f"**About:** {escape(item.description)}"
        yield ""
    yield f"**Question:** {escape(item.question or 'not recorded')}"
    yield ""
    rules = option_rules(item)
    for key, text in (item.options or {}).items():
        marks = [f"if {item.metric} {rules[key]}"] if key in rules else []
        marks += ["expected"] if key == item.expected else []
        marks += ["supported by the measurement"] if key == item.supports else []
        note = f" ← {escape(', '.join(marks))}" if marks else ""
        yield f"- {escape(key)}: {escape(text)}{note}"
    yield ""
    yield f"**Measured:** {escape(item.metric)} {_measured(item)}"
    if beside := _beside(item, measurement):
        yield ""
        yield f"**Beside it:** {escape('; '.join(beside))}"
    if item.reason:
        yield ""
        yield f"**Reason:** {escape(item.reason)}"


def option_rules(item: Check) -> dict[str, str]:
    """Option -> the rule under which the metric speaks for it, as in `> 0.4`."""
    rows: list[dict[str, Any]] = item.threshold if isinstance(item.threshold, list) else []
    found: dict[str, list[str]] = {}
    for row in rows:
        if isinstance(row, dict) and {"option", "rule", "threshold"} <= row.keys():
            rule = numbers.rule(str(row["rule"]), row["threshold"])
            found.setdefault(str(row["option"]), []).append(rule)
    return {option: " or ".join(some) for option, some in found.items()}


def _measured(item: Check) -> str:
    if item.value is None:
        return "was not measured"
    interval = bounds(item.ci_low, item.ci_high)
    shown = f"= {numbers.estimate(item.value, item.stderr)}"
    told = f"{shown}, 95% interval {interval}" if interval else shown
    supported = escape(item.supports) if item.supports else _undecided(item)
    return f"{told}, which supports {supported}; expected {escape(item.expected or '?')}"


def _undecided(item: Check) -> str:
    return "no option for sure" if item.verdict == "inconclusive" else "none of the options"


def _beside(item: Check, measurement: Measurement | None) -> list[str]:
    """The other metrics that the suite wants seen, those that were measured."""
    metrics = measurement.metrics if measurement else {}
    return [f"{name} = {estimate(metrics[name])}" for name in item.beside or () if name in metrics]
