"""Records of one training run -> training.html: its gates, its curves, its checks step by step."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from icl_bench.records.parts import Check, GateVerdict
from icl_bench.records.record import RunRecord
from icl_bench.records.steps import summarize
from icl_bench.render import steps, tables
from icl_bench.render.html.checks import verdict_cell
from icl_bench.render.html.page import make_page
from icl_bench.render.html.panels import panel, series
from icl_bench.render.writing import numbers
from icl_bench.render.writing.text import WORDS, one_line

_LONGEST = 300
"""Characters of a gate's reason."""


def training_run_page(
    records: Sequence[RunRecord],
    pages: Mapping[int, str] | None = None,
    plotly: str | None = None,
) -> str:
    """Return the page of a training run.

    Args:
        records: of its evaluations, each with another `step`; heads and tables are not read.
        pages: step -> relative address of that evaluation's own report.
        plotly: relative address of the charting script; None packs it into the page.
    """
    records = sorted(records, key=_step)
    last = records[-1]
    counted = Counter(gate.verdict for gate in last.gates)
    whole = _whole(records)
    changes = {gate.gate: _changes(records, gate.gate) for gate in last.gates}
    panels = _panels(whole, changes)
    name = one_line(last.model.label.removesuffix(f"@{_step(last)}"))
    return make_page(
        "training.html.j2",
        title=f"{name} · training · icl_bench",
        data={"training": {"panels": panels}},
        scripts=("charts.js",),
        styles=("report.css",),
        plotly=plotly,
        name=name,
        told=f"{len(records)} evaluations, steps {numbers.count(_step(records[0]))} to "
        f"{numbers.count(_step(last))}",
        remarks=list(_remarks(records)),
        counts=[(verdict_cell(one), counted[one]) for one in WORDS if counted[one]],
        gates=[
            {
                "verdict": verdict_cell(gate.verdict),
                "name": gate.gate,
                "changes": _told(gate, changes[gate.gate]),
            }
            for gate in last.gates
        ],
        panels=panels,
        steps=[
            {"step": numbers.count(_step(one)), "page": (pages or {}).get(_step(one))}
            for one in records
        ],
        checks=[_check_row(check, found) for check, found in tables.match_checks(records)],
        tables=[
            {"key": key, "header": header, "rows": rows}
            for key in steps.series_measurements(whole)
            for header, rows in [steps.steps_table(whole, key)]
            if len(header) > 1
        ],
        broken=[(why, ", ".join(keys)) for why, keys in steps.broken_steps(whole)],
        created=last.created.replace("T", " ").split(".")[0],
    )


def _step(record: RunRecord) -> int:
    assert record.step is not None
    return record.step


def _whole(records: Sequence[RunRecord]) -> RunRecord:
    """The last record, its measurements with a table of all steps, as of a series."""
    keys = dict.fromkeys(key for record in records for key in record.measurements)
    taken = {
        key: {_step(one): one.measurements[key] for one in records if key in one.measurements}
        for key in keys
    }
    merged = {key: summarize(by_step, needed=1) for key, by_step in taken.items()}
    return records[-1].model_copy(update={"measurements": merged})


def _changes(records: Sequence[RunRecord], name: str) -> list[tuple[int, GateVerdict]]:
    """The steps at which a gate's verdict became another, the first one among them."""
    found: list[tuple[int, GateVerdict]] = []
    for record in records:
        for gate in record.gates:
            if gate.gate == name and (not found or found[-1][1].verdict != gate.verdict):
                found.append((_step(record), gate))
    return found


def _told(now: GateVerdict, found: Sequence[tuple[int, GateVerdict]]) -> list[dict[str, Any]]:
    """A line per change; the last one with the reason that the last evaluation gave."""
    return [
        {
            "step": ("since step " if place == len(found) else "step ") + numbers.count(step),
            "verdict": verdict_cell(gate.verdict),
            "why": _reason(now if place == len(found) else gate),
        }
        for place, (step, gate) in enumerate(found, start=1)
    ]


def _reason(gate: GateVerdict) -> str:
    """The reason, of a gate that was not due only that; each evaluation's report has all of it."""
    why = one_line(gate.reason)
    if gate.verdict == "skipped":
        return why.partition(";")[0]
    return why if len(why) <= _LONGEST else why[:_LONGEST] + " …"


def _panels(
    whole: RunRecord, changes: Mapping[str, list[tuple[int, GateVerdict]]]
) -> list[dict[str, Any]]:
    """A panel per metric that a gate or a check reads, those of gates first, with their changes."""
    gated: list[dict[str, Any]] = []
    others: list[dict[str, Any]] = []
    for key, one in steps.series_measurements(whole).items():
        there = {name for row in one.tables["steps"] for name in steps.metrics_of(row)}
        asked = {gate: name for gate in changes if (name := _metric_of(gate, key)) in there}
        for name in dict.fromkeys([*asked.values(), *steps.shown_metrics(whole, key)]):
            marks = [
                {"x": step, "label": f"{gate.partition(' ')[2]}: {_word(verdict)}"}
                for gate, metric in asked.items()
                if metric == name
                for step, verdict in changes[gate][1:]
            ]
            line = series(name, one.tables["steps"], "step", name)
            if made := panel(f"{name} ({key})", "optimizer step", name, [line], marks=marks):
                (gated if name in asked.values() else others).append(made)
    return gated + others


def _word(gate: GateVerdict) -> str:
    return verdict_cell(gate.verdict)["word"].lower()


def _metric_of(gate: str, key: str) -> str:
    """The metric of a measurement that a gate's words begin with; empty where it is another's."""
    where, _, name = gate.split(" ")[0].rpartition("/")
    return name if not where or f"/{key}".endswith(f"/{where}") else ""


def _check_row(check: Check, found: Sequence[Check | None]) -> dict[str, Any]:
    return {
        "name": one_line(f"{check.suite}::{check.id}"),
        "asks": f"{one_line(check.metric)} {tables.rule_cell(check)}",
        "verdicts": [verdict_cell(one.verdict) if one else None for one in found],
    }


def _remarks(records: Sequence[RunRecord]) -> Iterator[str]:
    for before, after in zip(records, records[1:]):
        if after.created < before.created:
            yield (
                f"Step {numbers.count(_step(after))} was evaluated before step "
                f"{numbers.count(_step(before))}: records of an earlier run lie in the same folder."
            )
            break
    if len({tuple((suite.name, suite.sha256) for suite in one.suites) for one in records}) > 1:
        yield "Not every step was evaluated with the same suites."
