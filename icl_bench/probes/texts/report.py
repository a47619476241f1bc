"""What reports show of few-shot tasks and of the loss by position on text."""

from __future__ import annotations

from typing import Any

from icl_bench.records.blocks import Block, Cell, Curve, Line, Quantity, Table
from icl_bench.records.parts import Measurement

BINS = ((0, 7), (8, 15), (16, 31), (32, 63), (64, 127), (128, 255), (256, 510), (511, 10**6))
"""First and last position of the stretches that a table of losses has."""
WINDOW = 16
"""Positions whose mean is one point of a long curve."""
_LOSSES = ("loss", "loss_ablated")


def report_fewshot(measurement: Measurement) -> list[Block]:
    """Return accuracy by number of examples, and what each task gains.

    Args:
        measurement: of the probe `fewshot`.
    """
    curve, tasks = (measurement.tables.get(name, []) for name in ("curve", "tasks"))
    ablated = any("gain_ablated" in row for row in tasks)
    right, first = "accuracy", "first_token_accuracy"
    names = ("Right among the choices", "First token ranks first")
    rows = [[row["shots"], _cell(row, right), _cell(row, first)] for row in curve]
    gains = [
        [str(row["task"]), row["queries"], _cell(row, "fewshot_gain")]
        + ([_cell(row, "gain_ablated")] if ablated else [])
        for row in tasks
    ]
    more = ["With the heads off"] if ablated else []
    return [
        Curve(
            title="Accuracy by examples in the prompt",
            heading="Examples in the prompt",
            method=_method(measurement),
            x="examples",
            y="accuracy",
            lines=[
                Line(names[0].lower(), curve, "shots", right),
                Line(names[1].lower(), curve, "shots", first, dash=True),
            ],
            table=Table(columns=["Examples", *names], rows=rows),
        ),
        Table(
            title="Each task",
            heading="",
            columns=["Task", "Queries", "Gain from examples", *more],
            rows=gains,
        ),
    ]


def report_icl_score(measurement: Measurement) -> list[Block]:
    """Return the loss by position, clean and with heads off.

    Args:
        measurement: of the probe `icl_score`.
    """
    rows = measurement.tables.get("positions", [])
    names = [name for name in _LOSSES if name == "loss" or any(name in row for row in rows)]
    stretches: list[list[Cell]] = []
    for first, last in BINS:
        if inside := [row for row in rows if first <= row["position"] <= last]:
            ends = f"{inside[0]['position']} – {inside[-1]['position']}"
            stretches.append([ends, *(_mean(inside, name) for name in names)])
    columns = ["Positions", "Loss (nats)", "With the heads off"][: len(names) + 1]
    pooled = _pool(rows)
    return [
        Curve(
            title="Loss by position on natural text",
            heading="Loss by position on text",
            method=_method(measurement),
            x=f"position (mean of {WINDOW})",
            y="loss (nats)",
            lines=[
                Line("clean", pooled, "position", "loss"),
                Line("heads off", pooled, "position", "loss_ablated", dash=True),
            ],
            table=Table(columns=columns, rows=stretches),
        )
    ]


def _method(measurement: Measurement) -> str:
    return measurement.method if measurement.settings.get("heads") else ""


def _cell(row: dict[str, Any], name: str) -> Cell:
    return None if row.get(name) is None else Quantity(row[name], row.get(f"{name}_stderr"))


def _mean(rows: list[dict[str, Any]], name: str) -> float:
    return sum(float(row[name]) for row in rows) / len(rows)


def _pool(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Means over neighbouring positions; the first few positions stay alone."""
    groups: dict[int, list[dict[str, Any]]] = {}
    for row in rows:
        position = int(row["position"])
        start = position if position < WINDOW else position // WINDOW * WINDOW
        groups.setdefault(start, []).append(row)
    return [
        {"position": _mean(own, "position")}
        | {name: _mean(own, name) for name in _LOSSES if all(name in row for row in own)}
        for own in groups.values()
    ]
