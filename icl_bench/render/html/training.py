"""Training curves of a series of checkpoints, and when the circuit formed."""

from __future__ import annotations

from typing import Any

from icl_bench.records.parts import Measurement
from icl_bench.records.record import RunRecord
from icl_bench.render import phases, steps
from icl_bench.render.content import read_rows
from icl_bench.render.html.panels import panel, series

_SCORES = ("induction", "induction_excess", "previous_token", "copy_accuracy")
_LOSSES = ("first_loss", "repeated_loss", "gain", "text")


def section(record: RunRecord) -> dict[str, Any] | None:
    """Return the curves over steps, the changes found in them, and what could not be measured."""
    told = steps.describe_steps(record)
    if told is None:
        return None
    panels: list[dict[str, Any] | None] = []
    changes = []
    for key, one in phases.phase_changes(record):
        panels += _phase_panels(one)
        header, rows = phases.changes_table(one)
        changes.append({"key": key, "words": phases.summarize(one), "header": header, "rows": rows})
    if not panels:
        panels += [_metric_panel(record, key) for key in steps.series_measurements(record)]
    drawn = [one for one in panels if one]
    tables = []
    for key in steps.series_measurements(record):
        header, rows = steps.steps_table(record, key)
        if len(header) > 1:
            tables.append({"key": key, "header": header, "rows": rows})
    return {
        "told": told,
        "panels": drawn,
        "changes": changes,
        "tables": tables,
        "broken": [(why, ", ".join(keys)) for why, keys in steps.broken_steps(record)],
        "data": {"panels": drawn},
    }


def _phase_panels(one: Measurement) -> list[dict[str, Any] | None]:
    curves = one.tables["curves"]
    marks = [
        {"x": row["midpoint"], "label": f"half of {phases.CURVES.get(row['curve'], row['curve'])}"}
        for row in read_rows(one, "changes")
        if row.get("curve") in ("induction", "previous_token") and row.get("midpoint") is not None
    ]
    scores = [series(phases.CURVES[name], curves, "step", name) for name in _SCORES]
    losses = [series(phases.CURVES[name], curves, "step", name) for name in _LOSSES]
    noted = read_rows(one, "training_loss")
    recorded = series(phases.CURVES["training_loss"], noted, "step", "loss", dash=True)
    step = "optimizer step"
    return [
        panel("Scores over training", step, "score", scores, log=True, marks=marks),
        panel("Losses over training", step, "nats", [*losses, recorded], log=True, marks=marks),
    ]


def _metric_panel(record: RunRecord, key: str) -> dict[str, Any] | None:
    rows = record.measurements[key].tables["steps"]
    lines = [series(name, rows, "step", name) for name in steps.shown_metrics(record, key)]
    return panel(key, "optimizer step", "value", lines, log=True)
