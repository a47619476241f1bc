"""How records show themselves to somebody who looks at them in Python: on a line, in a notebook."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from html import escape
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from icl_bench.records.parts import ModelInfo
    from icl_bench.records.record import RunRecord

SHOWN_ROWS = 60
"""Checks that a notebook shows."""
GOOD, BAD, OPEN = "#1a7f37", "#cf222e", "#9a6700"
COLOURS = {
    **dict.fromkeys(("pass", "improved"), GOOD),
    **dict.fromkeys(("fail", "error", "regressed", "vanished", "died", "gone", "unpaired"), BAD),
    **dict.fromkeys(("inconclusive", "unclear"), OPEN),
}
"""Verdict, or what became of one -> its colour."""


def count_verdicts(record: RunRecord) -> str:
    """Return how many checks of a record have which verdict, in words.

    Args:
        record: any.
    """
    counts = Counter[str](check.verdict for check in record.checks)
    order = ("pass", "fail", "inconclusive", "error", "skipped")
    return ", ".join(f"{counts[name]} {name}" for name in order if counts[name]) or "no checks"


def describe_model(record: RunRecord) -> str:
    """Return which model a record is about, and what it is.

    Args:
        record: any.
    """
    model = record.model
    heads = sum(model.heads) if isinstance(model.heads, list) else model.heads
    per_layer = "heads in all" if isinstance(model.heads, list) else "heads"
    size = f"{model.layers} layers × {heads} {per_layer}" if model.layers and heads else None
    steps = f"{len(model.steps)} checkpoints" if model.steps else None
    facts = (model.label, model.architecture, size, model.dtype, model.quantization, steps)
    return ", ".join(filter(None, facts))


def describe_weights(model: ModelInfo) -> list[tuple[str, str]]:
    """Return what has been done to a model's weights, as pairs of a heading and a text.

    Args:
        model: of a record.
    """
    told = [("quantization", model.quantization), ("adapter", model.adapter)]
    if model.base:
        at = f"@{model.base_revision}" if model.base_revision else ""
        told.append(("base", f"{model.base}{at}"))
    told += [("weights", remark) for remark in model.remarks]
    return [(name, text) for name, text in told if text]


def show_record(record: RunRecord) -> str:
    """Return a record as a small piece of HTML.

    Args:
        record: any.
    """
    suites = ", ".join(suite.name for suite in record.suites)
    parts = [
        f"<p><b>{escape(describe_model(record))}</b><br>{escape(suites)}: "
        f"{count_verdicts(record)}{_state(record)}</p>"
    ]
    rows = [
        (check.suite, check.id, check.verdict, _value(check), f"{check.metric} {_rule(check)}")
        for check in record.checks
    ]
    if rows:
        parts.append(make_table(("suite", "check", "verdict", "value", "rule"), rows))
    lacking = [
        f"{escape(key)}: {taken.status} ({escape(taken.reason or 'no reason was recorded')})"
        for key, taken in record.measurements.items()
        if taken.status != "measured"
    ]
    if lacking:
        parts.append(f"<p>Not measured: {'; '.join(lacking[:SHOWN_ROWS])}</p>")
    return "<div>" + "".join(parts) + "</div>"


def make_table(columns: Sequence[str], rows: Sequence[Iterable[str]]) -> str:
    """Return an HTML table of at most `SHOWN_ROWS` rows; verdicts have their colours.

    Args:
        columns: their names.
        rows: their cells, as plain text.
    """
    head = "".join(f"<th>{escape(name)}</th>" for name in columns)
    body = "".join(
        "<tr>" + "".join(f"<td{_style(cell)}>{escape(cell)}</td>" for cell in row) + "</tr>"
        for row in rows[:SHOWN_ROWS]
    )
    more = len(rows) - SHOWN_ROWS
    rest = f"<p>and {more} more</p>" if more > 0 else ""
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>{rest}"


def _style(cell: str) -> str:
    return f' style="color: {COLOURS[cell]}"' if cell in COLOURS else ""


def _state(record: RunRecord) -> str:
    return "" if record.status == "complete" else f" ({record.status})"


def _value(check: Any) -> str:
    if check.value is None:
        return ""
    ends = (check.ci_low, check.ci_high)
    interval = "" if None in ends else f" [{ends[0]:.3g}, {ends[1]:.3g}]"
    return f"{check.value:.3g}{interval}"


def _rule(check: Any) -> str:
    if check.kind == "quiz":
        return f"supports {check.supports or 'none'}, expected {check.expected}"
    return f"{check.rule} {check.threshold}"


class Told(str):
    """Text that stands for a value in a `repr`, without quotes."""

    def __repr__(self) -> str:
        return str(self)


def shorten(value: Any, most: int = 60) -> Any:
    """Return what stands for a value in the `repr` of a part: of long data, how much there is.

    Args:
        value: of a field.
        most: characters of a text.
    """
    if isinstance(value, (list, dict)) and len(value) > 4:
        return Told(f"<{len(value)} entries>")
    if isinstance(value, str) and len(value) > most:
        return value[: most - 3] + "..."
    return value
