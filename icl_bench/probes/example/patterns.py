"""Whole attention patterns of one short text, small enough for a record."""

from __future__ import annotations

import base64
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from torch import Tensor

    from icl_bench.models.model import Model

MOST_HEADS = 2048
"""Heads whose patterns are kept."""


def read_patterns(model: Model, ids: Tensor) -> np.ndarray:
    """Return the attention of every head from every position to itself and those before.

    Args:
        model: the model.
        ids: one sequence, (1, length).

    Returns:
        (heads of all layers in order, length, length), 0 above the diagonal.

    Raises:
        NotMeasurable: the model has no attention heads.
    """
    import torch

    from icl_bench.measures.tokens import Pairs

    length = ids.shape[1]
    query, key = torch.tril_indices(length, length)
    found = model.head_scores(ids, {"pattern": Pairs(query, key)}, raw=True)["pattern"]
    flat = np.concatenate([found[layer][0].double().numpy() for layer in model.heads])
    patterns = np.zeros((len(flat), length, length))
    patterns[:, query.numpy(), key.numpy()] = flat
    return patterns


def pack_pattern(pattern: np.ndarray) -> str:
    """Return a pattern's lower triangle, row by row, as base64 of round(255 * attention).

    Args:
        pattern: (length, length), probabilities.
    """
    below = pattern[np.tril_indices(len(pattern))]
    return base64.b64encode(np.rint(255 * below).astype(np.uint8).tobytes()).decode("ascii")


def pattern_rows(
    heads: list[tuple[int, int]], patterns: np.ndarray, sources: dict[int, int], prefix: int
) -> list[dict[str, Any]]:
    """Return one row per head: its pattern and the two scores that can be read off it.

    Args:
        heads: (layer, head) of each pattern.
        patterns: (heads, length, length).
        sources: position -> the position that an induction head there reads.
        prefix: positions before the text.

    Returns:
        the rows; `induction` and `previous_token` are absent where no position can have them.
    """
    rows: list[dict[str, Any]] = []
    queries, keys = list(sources), list(sources.values())
    later = np.arange(1 + prefix, patterns.shape[1])
    for (layer, head), pattern in zip(heads, patterns):
        row: dict[str, Any] = {"layer": layer, "head": head, "pattern": pack_pattern(pattern)}
        if queries:
            row["induction"] = round(float(pattern[queries, keys].mean()), 6)
        if len(later):
            row["previous_token"] = round(float(pattern[later, later - 1].mean()), 6)
        rows.append(row)
    return rows


def keep_strongest(rows: list[dict[str, Any]], most: int) -> list[dict[str, Any]]:
    """Return the rows with the highest of their two scores, in the order that they had.

    Args:
        rows: of `pattern_rows`.
        most: how many to keep.
    """
    if len(rows) <= most:
        return rows
    best = [max(row.get("induction", 0.0), row.get("previous_token", 0.0)) for row in rows]
    kept = sorted(range(len(rows)), key=lambda place: -best[place])[:most]
    return [rows[place] for place in sorted(kept)]
