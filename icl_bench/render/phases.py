"""Phase changes: rows and pictures for Markdown, a sentence for the terminal."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

from icl_bench.records.parts import Measurement
from icl_bench.records.record import RunRecord
from icl_bench.render.content import read_rows
from icl_bench.render.writing import numbers
from icl_bench.render.writing.sparkline import over_log_steps, sparkline
from icl_bench.render.writing.text import one_line

CURVES = {
    "induction": "induction score",
    "induction_excess": "the same above its control",
    "previous_token": "previous-token score",
    "first_loss": "loss on the first copy (nats)",
    "repeated_loss": "loss on repeats (nats)",
    "gain": "gain from repetition (nats)",
    "copy_accuracy": "copy accuracy",
    "text": "ICL score on text (nats)",
    "training_loss": "recorded training loss (nats)",
}
"""Curve -> its name in reports; the order is that of the tables."""

PICTURE = 48
"""Characters of a curve drawn over log-steps."""

_CHANGE_HEADER = (
    *("Curve", "First", "Last", "10%", "Half", "between", "90%"),
    *("In the steepest tenth", "95% interval", "p"),
)


_LOCATED = {"onset", "midpoint", "end", "sharpness"}
"""What a curve that changes has in the table `changes`."""


def phase_changes(record: RunRecord) -> Iterator[tuple[str, Measurement]]:
    """Key and measurement of every phase change that was measured.

    Args:
        record: the run.
    """
    for key, measurement in record.measurements.items():
        rows = read_rows(measurement, "curves", "step")
        if any(name in row for row in rows for name in CURVES):
            yield key, measurement


def pictures(measurement: Measurement, width: int = PICTURE) -> list[str]:
    """Return every curve in a line of its own, the detected steps under them.

    Args:
        measurement: of the probe `phase_change`.
        width: characters of a curve.
    """
    drawn = {
        name: points
        for name in CURVES
        if len(points := [p for p in _points(measurement, name) if p[0] >= 1]) > 1
    }
    if not drawn:
        return []
    side = max(len(CURVES[name]) for name in drawn)
    lines = []
    for name, points in drawn.items():
        low, high = min(v for _, v in points), max(v for _, v in points)
        ends = f"{numbers.number(low)} – {numbers.number(high)}"
        drawn_curve = sparkline(over_log_steps(points, width))
        lines.append(f"{CURVES[name]:<{side}}  {drawn_curve}  {ends}")
    steps = [row["step"] for row in measurement.tables["curves"] if row["step"] >= 1]
    for title, metric in (
        ("induction half formed", "midpoint_step"),
        ("loss on repeats falls", "loss_step"),
        ("training loss falls", "training_loss_step"),
    ):
        if metric in measurement.metrics and steps[-1] > steps[0]:
            step = max(measurement.metrics[metric].value, steps[0])
            share = math.log(step / steps[0]) / math.log(steps[-1] / steps[0])
            place = min(int(share * width), width - 1)
            lines.append(f"{title:<{side}}  {' ' * place}^ {numbers.number(round(step))}")
    scale = f"step {steps[0]}".ljust(width - len(str(steps[-1]))) + str(steps[-1])
    lines.append(f"{'':<{side}}  {scale}")
    return lines


def changes_table(measurement: Measurement) -> tuple[list[str], list[list[str]]]:
    """Return header and rows of where each curve changes.

    Args:
        measurement: of the probe `phase_change`.
    """
    rows: list[list[str]] = []
    for row in read_rows(measurement, "changes"):
        name = row["curve"]
        points = [value for step, value in _points(measurement, name) if step >= 1]
        if not points:
            continue
        cells = [str(CURVES.get(name, name)), numbers.number(points[0]), numbers.number(points[-1])]
        if not row.keys() >= _LOCATED:
            rows.append([*cells, "no change", "", "", "", "", "", ""])
            continue
        steps = [numbers.number(round(row[part])) for part in ("onset", "midpoint", "end")]
        between = _between(row, "midpoint")
        interval = ""
        if {"sharpness_ci_low", "sharpness_ci_high"} <= row.keys():
            interval = numbers.interval(row["sharpness_ci_low"], row["sharpness_ci_high"])
        p_value = numbers.number(row["null_p_value"]) if "null_p_value" in row else ""
        share = numbers.number(row["sharpness"])
        rows.append([*cells, *steps[:2], between, steps[2], share, interval, p_value])
    return list(_CHANGE_HEADER), rows


def curves_table(measurement: Measurement) -> tuple[list[str], list[list[str]]]:
    """Return header and rows of every curve at every step.

    Args:
        measurement: of the probe `phase_change`.
    """
    table = measurement.tables["curves"]
    names = [name for name in CURVES if any(name in row for row in table)]
    rows = [
        [str(row["step"]), *(numbers.number(row[name]) if name in row else "" for name in names)]
        for row in table
    ]
    return ["Step", *(CURVES[name] for name in names)], rows


def summarize(measurement: Measurement) -> str:
    """Return a phase change in one sentence.

    Args:
        measurement: of the probe `phase_change`.
    """
    metrics = measurement.metrics
    if "midpoint_step" not in metrics:
        return one_line(measurement.reason or "not located")
    size, midpoint, sharp = (metrics[name] for name in ("size", "midpoint_step", "sharpness"))
    text = f"induction +{numbers.number(size.value)}, half of it at step "
    text += numbers.number(round(midpoint.value))
    if midpoint.ci_low is not None and midpoint.ci_high is not None:
        text += f" (between {midpoint.ci_low:g} and {midpoint.ci_high:g})"
    text += f", {numbers.number(sharp.value)} of it in the steepest tenth of log-steps"
    if "null_p_value" in metrics:
        text += f" (p {numbers.number(metrics['null_p_value'].value)})"
    told = [
        f"{title} {numbers.number(round(metrics[name].value))}"
        for title, name in (
            ("previous-token score", "previous_token_midpoint_step"),
            ("gain", "icl_midpoint_step"),
            ("loss on repeats", "loss_step"),
            ("training loss", "training_loss_step"),
        )
        if name in metrics
    ]
    return f"{text}; {', '.join(told)}" if told else text


def _points(measurement: Measurement, name: str) -> list[tuple[float, float]]:
    if name == "training_loss":
        return [(row["step"], row["loss"]) for row in read_rows(measurement, name)]
    return [(row["step"], row[name]) for row in measurement.tables["curves"] if name in row]


def _between(row: dict[str, Any], part: str) -> str:
    low = row.get(f"{part}_ci_low", row.get(f"{part}_after"))
    high = row.get(f"{part}_ci_high", row.get(f"{part}_before"))
    return "" if low is None or high is None else f"{low:g} – {high:g}"
