"""Rows of documents, positions and heads that `icl_score` reports."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from icl_bench.measures.bounds import UNIT
from icl_bench.probes.design.context import Context
from icl_bench.records.parts import Measurement

if TYPE_CHECKING:
    from icl_bench.measures.positions import PositionLosses, Windows
    from icl_bench.models.model import Model
    from icl_bench.probes.prompts.corpus import Chosen, Corpus


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
    highest = st.best_metric(scores, bounds=UNIT, confidence=confidence)
    result.metrics["previous_token_text_max"] = highest
    for (layer, head), values in zip(model.every_head, scores.T):
        metric = st.mean_metric(values, keep=False, unit=True)
        row: dict[str, Any] = {"layer": layer, "head": head, "previous_token_text": metric.value}
        if metric.stderr is not None:
            row["previous_token_text_stderr"] = metric.stderr
        result.heads.append(row)


def tabulate_text(corpus: Corpus, chosen: Chosen, windows: Windows) -> list[dict[str, Any]]:
    """Return one row: which text it is, and how much of it was taken.

    Args:
        corpus: the text.
        chosen: the documents that were taken.
        windows: the windows that they were cut into.
    """
    row: dict[str, Any] = {"source": corpus.source, "sha256": corpus.sha256}
    row |= {"documents": len(chosen.documents), "too_short": chosen.short}
    row |= {"windows": len(windows.input_ids), "window": windows.input_ids.shape[1]}
    return [row | {"prefix": " ".join(str(token) for token in chosen.prefix)}]


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
