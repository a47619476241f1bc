"""RunRecord -> report.md.

Text from models and suites is data: `escape` keeps it from becoming markup, in tables too.
"""

from __future__ import annotations

import json
import re
import statistics
from collections.abc import Collection, Iterator, Sequence
from typing import Any

from icl_bench.record import Check, Measurement, Metric, RunRecord
from icl_bench.render import circuits, numbers, sweeps, tables
from icl_bench.render.text import (
    WORDS,
    count_cached,
    count_verdicts,
    one_line,
    overall,
    shorten,
)

_LONGEST_SETTING = 200
_ABLATED = (
    ("loss on the first copy (nats)", "first_loss"),
    ("loss on the repeats (nats)", "repeated_loss"),
    ("gain (nats)", "gain"),
    ("copy accuracy", "copy_accuracy"),
)
_NULLS = (("null", "layer-matched random heads"), ("uniform_null", "random heads of any layer"))


def escape(text: object) -> str:
    """Return text as one line of Markdown that shows exactly that text, in a table cell too.

    The result must not stand at the start of a line: `- ` and `# ` are left as they are. So are
    `<` before and `>` after a space, which are no markup, so that rules stay legible in the source.
    """
    line = one_line(text).replace("&", "&amp;")
    line = re.sub(r"<(?=\S)", "&lt;", line)
    line = re.sub(r"(?<=\S)>", "&gt;", line)
    line = re.sub(r"([\\`*|~$]|\](?=[(\[:]))", r"\\\1", line)
    # An underscore inside of a word is no markup, and names are full of them.
    return re.sub(r"(?<![A-Za-z0-9])_|_(?![A-Za-z0-9])", r"\\_", line)


def report(record: RunRecord) -> str:
    """Return the Markdown report of one run.

    Args:
        record: the run; nothing else is needed, no model and no suite file.
    """
    sections = (
        *(_glance, _checks, _quiz, _heads, _circuits, _ablations, _sweeps),
        *(_measurements, _provenance),
    )
    lines = [line for section in sections for line in (*section(record), "")]
    text = "\n".join(lines)
    return re.sub(r"\n{3,}", "\n\n", text).strip() + "\n"


def _glance(record: RunRecord) -> Iterator[str]:
    yield f"# icl_bench: {escape(record.model.spec)}"
    yield ""
    yield f"**{overall(record.checks)}**: {count_verdicts(record.checks)}"
    yield ""
    if cached := count_cached(record.measurements.values()):
        yield f"{cached}: weights, settings and code are those of the run that took them."
        yield ""
    if record.status != "complete":
        why = {
            "partial": "some of the suites' checks were deselected",
            "interrupted": "it did not end by itself; what it had measured is kept",
        }[record.status]
        yield f"This run is **{record.status}**: {why}."
        yield ""
    for suite in record.suites:
        told = f": {escape(suite.description)}" if suite.description else ""
        yield f"- suite {escape(suite.name)}{told}"


def _checks(record: RunRecord) -> Iterator[str]:
    checks = [check for check in record.checks if check.kind == "check"]
    if not checks:
        return
    several = len(record.suites) > 1
    header = [*tables.CHECK_HEADER[:6], "95% interval", *tables.CHECK_HEADER[6:], "Asks", "Reason"]
    rows = []
    for check in checks:
        cells = tables.check_row(check)
        cells[0] = f"{check.suite}::{check.id}" if several else check.id
        interval = _interval(check.ci_low, check.ci_high)
        rows.append([*cells[:6], interval, *cells[6:], check.description or "", check.reason or ""])
    yield "## Checks"
    yield ""
    yield from _table(header, rows, right=("Value",))


def _quiz(record: RunRecord) -> Iterator[str]:
    items = [check for check in record.checks if check.kind == "quiz"]
    if not items:
        return
    yield "## Quiz"
    for check in items:
        yield ""
        yield f"### {WORDS[check.verdict]}: {escape(check.id)}"
        yield ""
        if check.description:
            yield f"**About:** {escape(check.description)}"
            yield ""
        yield f"**Question:** {escape(check.question or 'not recorded')}"
        yield ""
        for key, text in (check.options or {}).items():
            marks = ["expected"] if key == check.expected else []
            marks += ["supported by the measurement"] if key == check.supports else []
            note = f" ← {', '.join(marks)}" if marks else ""
            yield f"- {escape(key)}: {escape(text)}{note}"
        yield ""
        yield f"**Measured:** {escape(check.metric)} {_measured(check)}"
        if check.reason:
            yield ""
            yield f"**Reason:** {escape(check.reason)}"


def _measured(check: Check) -> str:
    if check.value is None:
        return "was not measured"
    interval = _interval(check.ci_low, check.ci_high)
    shown = f"= {numbers.estimate(check.value, check.stderr)}"
    told = f"{shown}, 95% interval {interval}" if interval else shown
    supported = escape(check.supports) if check.supports else "none of the options"
    return f"{told}, which supports {supported}; expected {escape(check.expected or '?')}"


def _heads(record: RunRecord) -> Iterator[str]:
    measured = tables.head_measurements(record)
    if not measured:
        return
    yield "## Top heads"
    for keys, measurement in measured:
        header, rows = tables.head_table(measurement.heads)
        yield ""
        yield f"Of {escape(', '.join(keys))}, which has {len(measurement.heads)} heads. Layers and"
        yield "heads count from 0: head 5.1 is head 1 of layer 5."
        yield ""
        yield from _table(header, rows, right=set(header) - set(tables.HEAD_LEFT))


def _circuits(record: RunRecord) -> Iterator[str]:
    for suite, header, rows in circuits.circuit_tables(record):
        yield f"## The circuit, head by head: {escape(suite)}"
        yield ""
        yield "Keys, queries, values need: the one earlier head that costs most when it is taken"
        yield "out of that side alone, with the induction score (for values: the logits written)"
        yield "before and after. Written by: the largest part of what makes the head attend."
        yield ""
        yield from _table(header, rows)
        yield ""


def _ablations(record: RunRecord) -> Iterator[str]:
    found = {
        key: measurement
        for key, measurement in record.measurements.items()
        if measurement.probe == "ablation" and measurement.metrics
    }
    if found:
        yield "## Ablation"
    for key, measurement in found.items():
        yield ""
        yield f"### {escape(key)}"
        yield ""
        yield from _ablation(measurement)


def _ablation(measurement: Measurement) -> Iterator[str]:
    metrics = measurement.metrics
    rows = []
    for title, name in _ABLATED:
        clean, ablated = metrics.get(name), metrics.get(f"{name}_ablated")
        if clean or ablated:
            rows.append([title, _shown(clean), _shown(ablated)])
    yield from _table(["", "clean", "off"], rows, right=("clean", "off"))
    yield ""
    if switched_off := sweeps.list_switched_off(measurement):
        yield f"- switched off: {escape(switched_off)}{_method(measurement)}"
    for name in ("heads", "loss_ratio", "copying_lost", "null_p_value"):
        metric = metrics.get(name)
        if metric is not None:
            interval = _interval(metric.ci_low, metric.ci_high)
            yield f"- {name}: {_shown(metric)}" + (f", 95% interval {interval}" if interval else "")
    for table, title in _NULLS:
        ratios = [row.get("loss_ratio") for row in measurement.tables.get(table, [])]
        drawn = [float(ratio) for ratio in ratios if isinstance(ratio, (int, float))]
        if not drawn:
            continue
        middle, most = numbers.number(statistics.median(drawn)), numbers.number(max(drawn))
        yield ""
        yield f"Null of {len(drawn)} draws of {title}: loss_ratio median {middle}, largest {most}."
        yield ""
        yield "```text"
        yield from tables.histogram(drawn)
        # On the null's own sequences, which may be fewer than the main effect's.
        observed = metrics.get("null_observed_ratio") or metrics.get("loss_ratio")
        if observed is not None:
            yield f"observed: {numbers.number(observed.value)}"
        yield "```"


def _method(measurement: Measurement) -> str:
    """How, in words and in brackets; nothing where the record does not say."""
    method = str(measurement.settings.get("method", "")).replace("_", " ")
    frozen = ", patterns frozen" if measurement.settings.get("patterns") == "frozen" else ""
    return f" ({escape(method + frozen)})" if method else ""


def _sweeps(record: RunRecord) -> Iterator[str]:
    measured = [(key, one) for key, one in record.measurements.items() if one.metrics]
    for key, measurement in measured:
        if measurement.probe == "sweep":
            header, rows = sweeps.sweep_table(measurement)
            yield ""
            yield f"## Every head on its own: {escape(key)}{_method(measurement)}"
        elif measurement.probe == "minimal_set":
            header, rows = sweeps.curve_table(measurement)
            yield ""
            yield f"## Minimal set: {escape(key)}{_method(measurement)}"
            yield ""
            kept = sweeps.list_heads(measurement.tables.get("kept_heads", []))
            share = measurement.settings.get("share")
            yield f"Kept on the sequences chosen on, at least {escape(str(share))} of the gain: "
            yield f"{escape(kept)}. Share of copying kept on other sequences, by the first heads of"
            yield "each order:"
        else:
            continue
        yield ""
        yield from _table(header, rows, right=header)


def _measurements(record: RunRecord) -> Iterator[str]:
    if record.measurements:
        yield "## Measurements"
    for key, measurement in record.measurements.items():
        yield ""
        yield f"### {escape(key)} (probe {escape(measurement.probe)}): {measurement.status}"
        yield ""
        if measurement.reason:
            yield f"Reason: {escape(measurement.reason)}"
            yield ""
        rows = [
            [name, _shown(metric), _interval(metric.ci_low, metric.ci_high), _samples(metric)]
            for name, metric in measurement.metrics.items()
        ]
        rows += [[name, "not measured", why, ""] for name, why in measurement.unmeasured.items()]
        yield from _table(["Metric", "Value ± stderr", "95% interval", "n"], rows, right=("n",))
        yield ""
        for name, value in measurement.settings.items():
            shown = json.dumps(value, ensure_ascii=False, default=str)
            yield f"- {escape(name)}: {escape(shorten(shown, _LONGEST_SETTING))}"
        if measurement.tokens_sha256:
            yield f"- tokens SHA-256: {escape(measurement.tokens_sha256)}"
        if measurement.seconds is not None:
            when = " (in the run that took it, from the cache)" if measurement.cached else ""
            yield f"- seconds: {numbers.number(measurement.seconds)}{when}"


def _provenance(record: RunRecord) -> Iterator[str]:
    yield "## Provenance"
    yield ""
    rows = [["icl_bench", record.icl_bench], ["created", record.created]]
    for name, value in record.model.model_dump(exclude_none=True).items():
        shown = numbers.count(value) if name == "parameters" else str(value)
        rows.append([f"model {name.replace('_', ' ')}", shown])
    rows += [[name, str(value)] for name, value in record.environment.model_dump().items() if value]
    rows += [[f"suite {suite.name} SHA-256", suite.sha256] for suite in record.suites]
    yield from _table(["", ""], rows)


def _table(
    header: Sequence[str], rows: Sequence[Sequence[Any]], right: Collection[str] = ()
) -> Iterator[str]:
    """Lines of a Markdown table of escaped cells; nothing without rows."""
    if not rows:
        return
    from tabulate import tabulate

    yield from tabulate(
        [[escape(cell) for cell in row] for row in rows],
        headers=header,
        tablefmt="pipe",
        disable_numparse=True,
        colalign=["right" if title in right else "left" for title in header],
    ).split("\n")


def _shown(metric: Metric | None) -> str:
    return "" if metric is None else numbers.estimate(metric.value, metric.stderr)


def _interval(low: float | None, high: float | None) -> str:
    return "" if low is None or high is None else numbers.interval(low, high)


def _samples(metric: Metric) -> str:
    return "exact" if metric.exact else str(metric.n or "")
