"""What reports show of ablations, sweeps and minimal sets."""

from __future__ import annotations

from typing import Any

from icl_bench.records.blocks import Block, Curve, Line, Quantity, Table
from icl_bench.records.parts import Measurement
from icl_bench.records.rows import list_heads

TOP = 10
"""Heads that a sweep's table shows, and null sets that an ablation's shows."""


def report_ablation(measurement: Measurement) -> list[Block]:
    """Return what other thresholds would choose, and the lead over other heads of the same layers.

    Args:
        measurement: of the probe `ablation`.
    """
    blocks: list[Block] = []
    if levels := measurement.tables.get("thresholds"):
        blocks.append(
            Table(
                title="Copying lost by threshold",
                method=measurement.method,
                note="Heads that other thresholds would choose, and the share of copying that is "
                "lost without them.",
                columns=["Threshold", "Heads", "Copying lost"],
                rows=[[row["threshold"], row["heads"], row["copying_lost"]] for row in levels],
                named=False,
            )
        )
    if rows := measurement.tables.get("null_margins"):
        blocks.append(_margins(measurement, rows))
    return blocks


def _margins(measurement: Measurement, rows: list[dict[str, Any]]) -> Table:
    """The sets that come nearest to the chosen heads, with columns for what some set has."""
    columns = {
        "heads": "Off instead",
        "margin": "Margin",
        "ci_low": "From",
        "ci_high": "To",
        "sequences": "Sequences",
        "scores": "Induction from 0.1",
        "note": "Remark",
    }
    found = sorted(rows, key=lambda row: float(row["margin"]))[:TOP]
    shown = [name for name in columns if any(row.get(name) for row in found)]
    return Table(
        title="Margin over other heads",
        method=measurement.method,
        note=_tell_margins(rows, len(found)),
        columns=[columns[name] for name in shown],
        rows=[[row.get(name) for name in shown] for row in found],
    )


def _tell_margins(rows: list[dict[str, Any]], shown: int) -> str:
    """Say over how many sets the chosen heads lead, and how many of them the table has."""
    more = sum((row.get("ci_low") or 0) > 0 for row in rows)
    less = sum((row.get("ci_high") or 0) < 0 for row in rows)
    told = "Damage of the chosen heads minus that of others, as a share of the gain: significantly"
    told += f" more in {more} of {len(rows)} comparisons"
    told += f", significantly less in {less}" if less else ""
    return f"{told}; the {shown} smallest margins are shown." if len(rows) > shown else f"{told}."


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
