"""Ablations in words, and what heads do on their own as a table for a terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from icl_bench.records.parts import Measurement
from icl_bench.records.rows import list_heads
from icl_bench.render.writing.page import Page


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
