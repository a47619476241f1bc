"""Rows of the tables about sweeps and minimal sets, for the Markdown report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from icl_bench.records.record import Measurement
from icl_bench.render.writing import numbers
from icl_bench.render.writing.page import Page

TOP = 10
"""Heads that a sweep's table shows."""


def sweep_table(measurement: Measurement) -> tuple[list[str], list[list[str]]]:
    """Return header and rows of the heads with the largest effect on their own.

    Args:
        measurement: of the probe `sweep`.
    """
    full = [row for row in measurement.heads if row.get("sequences")]
    chosen = sorted(full, key=lambda row: -float(row["delta"]))[:TOP]
    rows = [
        [
            f"{row['layer']}.{row['head']}",
            numbers.estimate(row["delta"], row.get("delta_stderr")),
            numbers.number(row["repeated_loss"]),
        ]
        for row in chosen
    ]
    return ["Head", "Rise of the loss (nats)", "Loss on repeats without it"], rows


def effects_text(
    rows: Sequence[Mapping[Any, Any]], *, width: int = 80, color: bool = False, unicode: bool = True
) -> str:
    """Return what heads do on their own, as text for a terminal.

    Args:
        rows: with `layer`, `head`, `repeated_loss`, `delta`, `delta_stderr` (nats).
        width: columns of a line.
        color: whether the header is set off by an ANSI code.
        unicode: whether more than ASCII can be shown.
    """
    page = Page(width, color, unicode)
    header = ["layer", "head", "repeated_loss", "delta", "delta_stderr"]
    cells = [
        [f"{row[name]:.4f}" if place > 1 else str(row[name]) for place, name in enumerate(header)]
        for row in rows
    ]
    page.table(header, cells, ["right"] * len(header), [2] * (len(header) - 1))
    return page.text()


def curve_table(measurement: Measurement) -> tuple[list[str], list[list[str]]]:
    """Return header and rows of the share of copying that the first heads of each order keep.

    Args:
        measurement: of the probe `minimal_set`.
    """
    points: dict[int, dict[str, float]] = {}
    names: dict[str, None] = {}
    for row in measurement.tables.get("curve", []):
        name = str(row["order"])
        if not name.startswith("random"):
            names[name] = None
            points.setdefault(int(row["heads"]), {})[name] = float(row["copying_kept"])
    rows = [
        [str(size), *(numbers.number(kept[n]) if n in kept else "" for n in names)]
        for size, kept in sorted(points.items())
    ]
    return ["Heads kept", *(f"by {name}" for name in names)], rows


def list_heads(rows: Sequence[dict[str, Any]]) -> str:
    """Return heads in words, e.g. `5.1, 6.9`.

    Args:
        rows: with `layer` and `head`.
    """
    return ", ".join(f"{row.get('layer')}.{row.get('head')}" for row in rows)


def describe_method(measurement: Measurement) -> str:
    """Return how heads were switched off, in words; nothing where the record does not say.

    Args:
        measurement: of a probe that switches heads, MLPs or layers off.
    """
    method = str(measurement.settings.get("method", "")).replace("_", " ")
    frozen = ", patterns frozen" if measurement.settings.get("patterns") == "frozen" else ""
    return method + frozen


def describe_kept(measurement: Measurement) -> str:
    """Return which heads a minimal set keeps, and how much of copying they were to keep.

    Args:
        measurement: of the probe `minimal_set`.
    """
    kept = list_heads(measurement.tables.get("kept_heads", []))
    share = measurement.settings.get("share")
    return f"Kept on the sequences chosen on, at least {share} of the gain: {kept}."


def list_switched_off(measurement: Measurement) -> str:
    """Return what an ablation switched off, in words.

    Args:
        measurement: of the probe `ablation`.
    """
    settings, tables = measurement.settings, measurement.tables
    if settings.get("keep_only"):
        kept = list_heads(tables.get("chosen_heads", []))
        return f"every head but {kept}" if kept else "every head"
    words = [list_heads(tables.get("ablated_heads", []))]
    words += [f"the MLP of layer {layer}" for layer in settings.get("mlps") or []]
    words += [f"layer {layer}" for layer in settings.get("layers") or []]
    return ", ".join(filter(None, words))
