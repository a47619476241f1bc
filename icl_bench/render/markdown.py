"""RunRecord -> report.md."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator

from icl_bench.records.parts import Metric
from icl_bench.records.record import RunRecord
from icl_bench.render import tables
from icl_bench.render.blocks import show_blocks
from icl_bench.render.details import show_ablations, show_circuits, show_phases, show_steps
from icl_bench.render.quiz import show_quiz
from icl_bench.render.steps import describe_steps
from icl_bench.render.writing import numbers
from icl_bench.render.writing.markup import bounds, escape, estimate, table
from icl_bench.render.writing.text import (
    WORDS,
    count_cached,
    count_verdicts,
    cut,
    overall,
)

_LONGEST_SETTING = 200


def report(record: RunRecord) -> str:
    """Return the Markdown report of one run.

    Args:
        record: the run; nothing else is needed, no model and no suite file.
    """
    sections = (
        *(_glance, _gates, show_checks, show_quiz, show_phases, show_steps, _heads),
        *(show_circuits, show_ablations, show_blocks, _measurements, _provenance),
    )
    lines = [line for section in sections for line in (*section(record), "")]
    text = "\n".join(lines)
    return re.sub(r"\n{3,}", "\n\n", text).strip() + "\n"


def _glance(record: RunRecord) -> Iterator[str]:
    yield f"# icl_bench: {escape(record.model.label)}"
    yield ""
    yield f"**{overall(record.checks)}**: {count_verdicts(record.checks)}"
    yield ""
    if record.step is not None:
        yield f"Measured in training, after optimizer step {numbers.count(record.step)}."
        yield ""
    if told := describe_steps(record):
        yield f"A series of {told}. Checks are on the last one, or on the whole series where they"
        yield "ask about it; the architecture and heads below are the last one's."
        yield ""
    if cached := count_cached(record.measurements.values()):
        yield f"{cached}: weights, settings and code are those of the run that took them."
        yield ""
    if record.status != "complete":
        why = {
            "partial": "some of the suites' checks were not run",
            "interrupted": "it did not end by itself; what it had measured is kept",
        }[record.status]
        yield f"This run is **{record.status}**: {why}."
        yield ""
    for suite in record.suites:
        told = f": {escape(suite.description)}" if suite.description else ""
        yield f"- suite {escape(suite.name)}{told}"


def _gates(record: RunRecord) -> Iterator[str]:
    """The gates of the training run that the record was taken in."""
    if not record.gates:
        return
    yield "## Gates"
    yield ""
    rows = [[gate.gate, WORDS[gate.verdict], gate.reason] for gate in record.gates]
    yield from table(["Must hold", "Verdict", "Reason"], rows)


def show_checks(record: RunRecord) -> Iterator[str]:
    """Lines of the section about checks, without quiz items; nothing where there are none.

    Args:
        record: of one model or series.
    """
    checks = [check for check in record.checks if check.kind == "check"]
    if not checks:
        return
    several = len(record.suites) > 1
    header = [*tables.CHECK_HEADER[:6], "95% interval", *tables.CHECK_HEADER[6:], "Asks", "Reason"]
    rows = []
    for check in checks:
        cells = tables.check_row(check)
        cells[0] = f"{check.suite}::{check.id}" if several else check.id
        interval = bounds(check.ci_low, check.ci_high)
        rows.append([*cells[:6], interval, *cells[6:], check.description or "", check.reason or ""])
    yield "## Checks"
    yield ""
    yield from table(header, rows, right=("Value",))


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
        yield from table(header, rows, right=set(header) - set(tables.HEAD_LEFT))


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
            [name, estimate(metric), bounds(metric.ci_low, metric.ci_high), _samples(metric)]
            for name, metric in measurement.metrics.items()
        ]
        rows += [[name, "not measured", why, ""] for name, why in measurement.unmeasured.items()]
        yield from table(["Metric", "Value ± stderr", "95% interval", "n"], rows, right=("n",))
        yield ""
        for name, value in measurement.settings.items():
            shown = json.dumps(value, ensure_ascii=False, default=str)
            yield f"- {escape(name)}: {escape(cut(shown, _LONGEST_SETTING))}"
        if measurement.package:
            yield f"- package: {escape(measurement.package)}"
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
        if value == []:
            continue
        shown = numbers.count(value) if name == "parameters" else str(value)
        if name == "remarks":
            shown = "; ".join(value)
        rows.append([f"model {name.replace('_', ' ')}", shown])
    rows += [[name, str(value)] for name, value in record.environment.model_dump().items() if value]
    for suite in record.suites:
        rows.append([f"suite {suite.name} version", str(suite.version)])
        rows.append([f"suite {suite.name} SHA-256", suite.sha256])
    yield from table(["", ""], rows)


def _samples(metric: Metric) -> str:
    return "exact" if metric.exact else str(metric.n or "")
