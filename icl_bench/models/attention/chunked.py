"""Attention over the queries a chunk at a time, for calls that no fused kernel takes.

Memory is O(length * chunk): the whole matrix of scores never exists. Scores are kept in float32
(float64 where the model is), whatever the model's own data type.
"""

from __future__ import annotations

import torch
from torch import Tensor

from icl_bench.measures.tokens import Pairs
from icl_bench.models.attention.call import AttentionCall

CHUNK = 128
"""Queries in a chunk: large enough for the products to be efficient."""


def attend_in_chunks(
    call: AttentionCall, hidden: Pairs | None = None, chunk: int = CHUNK
) -> tuple[Tensor, Tensor]:
    """Return attention output and log-sum-exp of every row's scores, without the whole matrix.

    Args:
        call: what to compute with.
        hidden: pairs between which no head attends, the same for all rows or each row's own.
        chunk: queries taken at once.

    Returns:
        output (batch, heads, length, value_width) in the type of the values, and log-sum-exp
        (batch, heads, length) in float32 at least. A query that sees no key gets zeros and -inf.
    """
    query, value = call.query, call.value
    batch, heads, length, _ = query.shape
    kv_heads = call.key.shape[1]
    exact = torch.float64 if query.dtype == torch.float64 else torch.float32
    columns, values = call.key.to(exact).transpose(2, 3), value.to(exact)
    output = value.new_empty(batch, heads, length, value.shape[-1])
    norms = torch.empty(batch, heads, length, dtype=exact, device=query.device)
    for start in range(0, length, chunk):
        stop = min(length, start + chunk)
        scores = _score_chunk(call, columns, start, stop)
        if hidden is not None:
            _hide(scores, hidden, start, stop)
        norm = torch.logsumexp(scores, dim=-1)
        reference = norm.masked_fill(norm == float("-inf"), 0)
        weights = torch.exp(scores - reference[..., None])
        seen = scores.shape[-1]
        mixed = weights.reshape(batch, kv_heads, -1, seen) @ values[:, :, :seen]
        output[:, :, start:stop] = mixed.reshape(batch, heads, stop - start, -1).to(value.dtype)
        norms[:, :, start:stop] = norm
    return output, norms


def _score_chunk(call: AttentionCall, columns: Tensor, start: int, stop: int) -> Tensor:
    """Return the masked scores (batch, heads, stop - start, keys) of queries start..stop-1.

    `columns` are the keys, (batch, kv_heads, width, keys), in the type of the scores.
    """
    batch, heads, _, _ = call.query.shape
    kv_heads, keys = columns.shape[1], columns.shape[3]
    # Keys that no query of the chunk sees are not worth a product.
    seen = min(keys, stop) if call.causal else keys
    rows = call.query[:, :, start:stop].to(columns.dtype) * call.scale
    grouped = rows.reshape(batch, kv_heads, heads // kv_heads * (stop - start), -1)
    scores = (grouped @ columns[..., :seen]).reshape(batch, heads, stop - start, seen)
    if call.softcap is not None:
        scores = torch.tanh(scores / call.softcap) * call.softcap
    if call.mask is not None:
        scores = _add_mask(scores, call.mask, start, stop)
    if call.causal:
        later = torch.ones(stop - start, seen, dtype=torch.bool, device=scores.device)
        scores = scores.masked_fill(later.triu(start + 1), float("-inf"))
    return scores


def _add_mask(scores: Tensor, mask: Tensor, start: int, stop: int) -> Tensor:
    part = mask if mask.shape[-2] == 1 else mask[..., start:stop, :]
    part = part[..., : scores.shape[-1]]
    if part.dtype == torch.bool:
        return scores.masked_fill(~part, float("-inf"))
    return scores + part.to(scores.dtype)


def _hide(scores: Tensor, hidden: Pairs, start: int, stop: int) -> None:
    """Set the scores of hidden pairs to -inf, in place."""
    query, key = hidden.query.to(scores.device), hidden.key.to(scores.device)
    inside = (query >= start) & (query < stop) & (key < scores.shape[-1])
    if hidden.weight is not None:
        inside &= hidden.weight.to(scores.device) > 0
    if query.ndim == 1:
        scores[:, :, query[inside] - start, key[inside]] = float("-inf")
    else:
        row, pair = torch.nonzero(inside, as_tuple=True)
        scores[row, :, query[row, pair] - start, key[row, pair]] = float("-inf")
