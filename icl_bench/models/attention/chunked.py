"""Attention over the queries a chunk at a time, for calls that no fused kernel takes.

Memory is O(length * chunk): the whole matrix of scores never exists. Scores are kept in float32
(float64 where the model is), whatever the model's own data type.
"""

from __future__ import annotations

import torch
from torch import Tensor

CHUNK = 128
"""Queries in a chunk: large enough for the products to be efficient."""

Edges = tuple[Tensor, Tensor]


def attend_in_chunks(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    mask: Tensor | None,
    causal: bool,
    scale: float,
    softcap: float | None = None,
    hidden: Edges | None = None,
    chunk: int = CHUNK,
) -> tuple[Tensor, Tensor]:
    """Return attention output and log-sum-exp of every row's scores, without the whole matrix.

    Args:
        q: queries, shape (batch, heads, length, width).
        k: keys, shape (batch, kv_heads, length, width).
        v: values, shape (batch, kv_heads, length, value_width).
        mask: additive, or boolean with True where a key is seen; broadcastable to
            (batch, heads, length, length); None for none.
        causal: whether keys after the query are hidden as well.
        scale: factor of q.k.
        softcap: scores become softcap * tanh(score / softcap) before the mask; None for no cap.
        hidden: positions (query, key) between which no head attends, both of shape (pairs,) for
            all rows of the batch, or (batch, pairs).
        chunk: queries taken at once.

    Returns:
        output (batch, heads, length, value_width) in the type of `v`, and log-sum-exp (batch,
        heads, length) in float32 at least. A query that sees no key gets zeros and -inf.
    """
    batch, heads, length, _ = q.shape
    kv_heads, keys = k.shape[1], k.shape[2]
    groups = heads // kv_heads
    exact = torch.float64 if q.dtype == torch.float64 else torch.float32
    columns, values = k.to(exact).transpose(2, 3), v.to(exact)
    output = v.new_empty(batch, heads, length, v.shape[-1])
    norms = torch.empty(batch, heads, length, dtype=exact, device=q.device)
    for start in range(0, length, chunk):
        stop = min(length, start + chunk)
        # Keys that no query of the chunk sees are not worth a product.
        seen = min(keys, stop) if causal else keys
        rows = q[:, :, start:stop].to(exact) * scale
        grouped = rows.reshape(batch, kv_heads, groups * (stop - start), -1)
        scores = (grouped @ columns[..., :seen]).reshape(batch, heads, stop - start, seen)
        if softcap is not None:
            scores = torch.tanh(scores / softcap) * softcap
        if mask is not None:
            scores = _add_mask(scores, mask, start, stop, seen)
        if causal:
            later = torch.ones(stop - start, seen, dtype=torch.bool, device=q.device)
            scores = scores.masked_fill(later.triu(start + 1), float("-inf"))
        if hidden is not None:
            _hide(scores, hidden, start, stop)
        norm = torch.logsumexp(scores, dim=-1)
        reference = norm.masked_fill(norm == float("-inf"), 0)
        weights = torch.exp(scores - reference[..., None])
        mixed = weights.reshape(batch, kv_heads, -1, seen) @ values[:, :, :seen]
        output[:, :, start:stop] = mixed.reshape(batch, heads, stop - start, -1).to(v.dtype)
        norms[:, :, start:stop] = norm
    return output, norms


def _add_mask(scores: Tensor, mask: Tensor, start: int, stop: int, seen: int) -> Tensor:
    part = mask if mask.shape[-2] == 1 else mask[..., start:stop, :]
    part = part[..., :seen]
    if part.dtype == torch.bool:
        return scores.masked_fill(~part, float("-inf"))
    return scores + part.to(scores.dtype)


def _hide(scores: Tensor, hidden: Edges, start: int, stop: int) -> None:
    """Set the scores of hidden pairs to -inf, in place."""
    query, key = (index.to(scores.device) for index in hidden)
    inside = (query >= start) & (query < stop) & (key < scores.shape[-1])
    if query.ndim == 1:
        scores[:, :, query[inside] - start, key[inside]] = float("-inf")
    else:
        row, pair = torch.nonzero(inside, as_tuple=True)
        scores[row, :, query[row, pair] - start, key[row, pair]] = float("-inf")
