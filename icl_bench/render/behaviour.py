"""Rows of the tables about few-shot tasks and about loss by position, for the Markdown report."""

from __future__ import annotations

from typing import Any

from icl_bench.records.record import Measurement
from icl_bench.render.writing import numbers

BINS = ((0, 7), (8, 15), (16, 31), (32, 63), (64, 127), (128, 255), (256, 510), (511, 10**6))
"""First and last position of the stretches that a curve of losses is shown in."""


def shots_table(measurement: Measurement) -> tuple[list[str], list[list[str]]]:
    """Return header and rows of accuracy by number of examples.

    Args:
        measurement: of the probe `fewshot`.
    """
    rows = [
        [str(row["shots"]), _cell(row, "accuracy"), _cell(row, "first_token_accuracy")]
        for row in measurement.tables.get("curve", [])
    ]
    return ["Examples", "Right among the choices", "First token ranks first"], rows


def tasks_table(measurement: Measurement) -> tuple[list[str], list[list[str]]]:
    """Return header and rows of what each task gains, and what is left with heads off.

    Args:
        measurement: of the probe `fewshot`.
    """
    tasks = measurement.tables.get("tasks", [])
    ablated = any("gain_ablated" in row for row in tasks)
    header = ["Task", "Queries", "Gain from examples"]
    rows = [
        [str(row["task"]), numbers.number(row["queries"]), _cell(row, "fewshot_gain")]
        + ([_cell(row, "gain_ablated")] if ablated else [])
        for row in tasks
    ]
    return header + (["With the heads off"] if ablated else []), rows


def positions_table(measurement: Measurement) -> tuple[list[str], list[list[str]]]:
    """Return header and rows of the mean loss in stretches of positions.

    Args:
        measurement: of the probe `icl_score`.
    """
    positions = measurement.tables.get("positions", [])
    ablated = any("loss_ablated" in row for row in positions)
    rows = []
    for first, last in BINS:
        inside = [row for row in positions if first <= row["position"] <= last]
        if inside:
            ends = f"{inside[0]['position']} – {inside[-1]['position']}"
            names = ["loss", "loss_ablated"] if ablated else ["loss"]
            means = [sum(row[name] for row in inside) / len(inside) for name in names]
            rows.append([ends, *(numbers.number(mean) for mean in means)])
    return ["Positions", "Loss (nats)", *(["With the heads off"] if ablated else [])], rows


def _cell(row: dict[str, Any], name: str) -> str:
    value = row.get(name)
    return "" if value is None else numbers.estimate(value, row.get(f"{name}_stderr"))
