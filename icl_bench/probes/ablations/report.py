"""What reports show of sweeps and minimal sets."""

from __future__ import annotations

from typing import Any

from icl_bench.records.blocks import Block, Curve, Line, Quantity, Table
from icl_bench.records.parts import Measurement
from icl_bench.records.rows import list_heads

TOP = 10
"""Heads that a sweep's table shows."""


def report_sweep(measurement: Measurement) -> list[Block]:
    """Return the heads with the largest effect on their own.

    Args:
        measurement: of the probe `sweep`.
    """
    full = [row for row in measurement.heads if row.get("sequences")]
    chosen = sorted(full, key=lambda row: -float(row["delta"]))[:TOP]
    return [
        Table(
            title="Every head off on its own",
            heading="Every head on its own",
            method=measurement.method,
            columns=["Head", "Rise of the loss (nats)", "Loss on repeats without it"],
            rows=[
                [
                    list_heads([row]),
                    Quantity(row["delta"], row.get("delta_stderr")),
                    row["repeated_loss"],
                ]
                for row in chosen
            ],
            named=False,
        )
    ]


def report_minimal_set(measurement: Measurement) -> list[Block]:
    """Return the share of copying that the first heads of each order keep.

    Args:
        measurement: of the probe `minimal_set`.
    """
    rows = measurement.tables.get("curve", [])
    kept = list_heads(measurement.tables.get("kept_heads", []))
    share = measurement.settings.get("share")
    return [
        Curve(
            title="Copying kept by few heads",
            heading="Minimal set",
            method=measurement.method,
            x="heads kept",
            y="share of copying kept",
            lines=[
                Line(order, _points(order, rows), "heads", "kept", dash=order.startswith("random"))
                for order in dict.fromkeys(str(row["order"]) for row in rows)
            ],
            note=f"Kept on the sequences chosen on, at least {share} of the gain: {kept}.",
            table=_sizes(rows),
        )
    ]


def _points(order: str, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    own = sorted((row for row in rows if row["order"] == order), key=lambda row: int(row["heads"]))
    ends = ("ci_low", "ci_high")
    return [
        {"heads": row["heads"], "kept": row["copying_kept"]}
        | {f"kept_{end}": row.get(end) for end in ends}
        for row in own
    ]


def _sizes(rows: list[dict[str, Any]]) -> Table:
    """A row for each number of heads, a column for each order that is not random."""
    points: dict[int, dict[str, float]] = {}
    names: dict[str, None] = {}
    for row in rows:
        name = str(row["order"])
        if not name.startswith("random"):
            names[name] = None
            points.setdefault(int(row["heads"]), {})[name] = float(row["copying_kept"])
    return Table(
        title="Share of copying kept on other sequences, by the first heads of each order:",
        columns=["Heads kept", *(f"by {name}" for name in names)],
        rows=[[size, *(kept.get(name) for name in names)] for size, kept in sorted(points.items())],
        named=False,
    )
