"""The verdict at a glance, and the table of checks with their intervals drawn."""

from __future__ import annotations

from collections import Counter
from typing import Any

from icl_bench.record import Check, RunRecord, Verdict
from icl_bench.render import numbers, tables
from icl_bench.render.html.strips import draw_strip
from icl_bench.render.markup import bounds
from icl_bench.render.steps import describe_steps
from icl_bench.render.text import WORDS, count_cached, one_line, overall

SIGNS: dict[Verdict, str] = {
    "pass": "✓",
    "fail": "✗",
    "inconclusive": "?",
    "skipped": "–",
    "error": "!",
}
"""Beside the colour, so that no verdict is told by colour alone."""

_MISSED: tuple[Verdict, ...] = ("error", "fail", "inconclusive")
_MOST_MISSED = 8
"""Named at the top of the page; the rest is counted."""

_STATUS = {
    "partial": "some of the suites' checks were deselected",
    "interrupted": "the run did not end by itself; what it had measured is kept",
}
_TILES = (
    ("induction", "induction_max", "strongest induction head"),
    ("induction", "previous_token_max", "strongest previous-token head"),
    ("ablation", "gain", "nats gained by repetition"),
    ("ablation", "copying_lost", "of that lost without induction heads"),
    ("ablation", "null_p_value", "p, against random heads"),
    ("phase_change", "midpoint_step", "step at which half of induction is there"),
)
"""Probe, metric, words: the first of each that was measured stands large at the top."""


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


def glance(record: RunRecord) -> dict[str, Any]:
    """Return the head of the page: model, verdict, counts, the numbers that tell most."""
    model = record.model
    word = overall(record.checks)
    counts = Counter(check.verdict for check in record.checks)
    facts = [model.architecture]
    if model.layers is not None:
        facts.append(f"{model.layers} layers × {_each(model.heads)} heads")
    if model.parameters is not None:
        facts.append(f"{numbers.count(model.parameters)} parameters")
    facts += [model.dtype, model.attention and f"{model.attention} attention"]
    notes = []
    if told := describe_steps(record):
        notes.append(
            f"A series of {told}. Checks are on the last one, or on the whole series where they "
            "ask about it; architecture and heads are the last one's."
        )
    if record.status != "complete":
        notes.append(f"This run is {record.status}: {_STATUS[record.status]}.")
    if model.attention_note:
        notes.append(f"Attention: {model.attention_note}")
    if cached := count_cached(record.measurements.values()):
        notes.append(f"{cached}: weights, settings and code are those of the run that took them.")
    missed = [check for word in _MISSED for check in record.checks if check.verdict == word]
    verdict: Verdict = next((v for v, text in WORDS.items() if text == word), "skipped")
    return {
        "spec": one_line(model.spec) + (f"@{model.revision}" if _single(record) else ""),
        "verdict": {**verdict_cell(verdict), "word": word},
        "counts": [(verdict_cell(one), counts[one]) for one in WORDS if counts[one]],
        "missed": [_missed(record, check) for check in missed[:_MOST_MISSED]],
        "more": max(len(missed) - _MOST_MISSED, 0),
        "facts": " · ".join(one_line(fact) for fact in facts if fact),
        "created": record.created.replace("T", " ").split(".")[0],
        "notes": notes,
        "suites": [(suite.name, suite.description or "") for suite in record.suites],
        "tiles": _tiles(record),
    }


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


def _missed(record: RunRecord, check: Check) -> dict[str, Any]:
    several = len({one.suite for one in record.checks}) > 1
    return {
        "verdict": verdict_cell(check.verdict),
        "anchor": anchor(record, check),
        "name": f"{check.suite}::{check.id}" if several else check.id,
        "why": one_line(check.reason or ""),
    }


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


def _tiles(record: RunRecord) -> list[dict[str, str]]:
    found = []
    for probe, name, words in _TILES:
        for measurement in record.measurements.values():
            if measurement.probe == probe and name in measurement.metrics:
                metric = measurement.metrics[name]
                interval = bounds(metric.ci_low, metric.ci_high)
                found.append(
                    {"value": numbers.number(metric.value), "interval": interval, "words": words}
                )
                break
    return found


def _single(record: RunRecord) -> bool:
    return bool(record.model.revision and not record.model.steps)


def _each(heads: int | list[int] | None) -> str:
    if isinstance(heads, list) and heads:
        return f"{min(heads)}–{max(heads)}"
    return str(heads) if heads else "?"
