"""Rows of documents, positions and heads that `icl_score` reports."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from icl_bench.probes.design.context import Context
from icl_bench.records.record import Measurement

if TYPE_CHECKING:
    from icl_bench.measures.positions import PositionLosses, Windows
    from icl_bench.models.model import Model


def score_previous(
    result: Measurement,
    model: Model,
    windows: Windows,
    context: Context,
    confidence: float = 0.95,
) -> None:
    """Give every head its attention to the previous token, mean over documents."""
    from icl_bench.measures import statistics as st
    from icl_bench.measures.positions import average_documents, previous_pairs

    with context.task("attention on text", len(windows.input_ids)) as advance:
        pairs = {"previous": previous_pairs(windows)}
        found = model.head_scores(windows.input_ids, pairs, advance=advance)["previous"]
    layers = [found[layer].double().numpy() for layer in sorted(found)]
    scores = average_documents(windows, np.concatenate(layers, axis=1))
    best = st.cross_fitted_max(scores)
    highest = st.mean_metric(best, unit=True, confidence=confidence)
    result.metrics["previous_token_text_max"] = highest
    for (layer, head), values in zip(model.every_head, scores.T):
        metric = st.mean_metric(values, keep=False, unit=True)
        row: dict[str, Any] = {"layer": layer, "head": head, "previous_token_text": metric.value}
        if metric.stderr is not None:
            row["previous_token_text_stderr"] = metric.stderr
        result.heads.append(row)


def tabulate_documents(
    documents: list[tuple[str, list[int]]], windows: Windows, clean: PositionLosses
) -> list[dict[str, Any]]:
    """One row per document: its name, size, and scores in nats."""
    counts = np.bincount(windows.documents)
    return [
        {
            "document": name,
            "tokens": len(ids),
            "windows": int(counts[number]),
            "text_loss": float(clean.mean[number]),
            "icl_score_windowed": float(clean.icl_score_windowed[number]),
        }
        for number, (name, ids) in enumerate(documents)
    ]


def tabulate_positions(losses: PositionLosses, suffix: str = "") -> list[dict[str, Any]]:
    """One row per position: mean loss over documents and its standard error, nats."""
    from icl_bench.measures.statistics import mean_metric

    rows: list[dict[str, Any]] = []
    for position, values in zip(losses.positions, losses.losses.T):
        metric = mean_metric(values, keep=False)
        row: dict[str, Any] = {"position": int(position), f"loss{suffix}": metric.value}
        if metric.stderr is not None:
            row[f"loss{suffix}_stderr"] = metric.stderr
        rows.append(row)
    return rows
