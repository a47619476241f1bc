"""What one call of an attention function computes with."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class AttentionCall:
    """What an attention call computes with.

    Args:
        query: (rows, heads, length, width).
        key: (rows, kv_heads, length, width).
        value: (rows, kv_heads, length, value_width).
        mask: additive, or boolean with True where a key is seen, broadcastable to (rows, heads,
            length, length); None for none.
        causal: whether keys after the query are hidden as well.
        scale: factor of q.k.
        softcap: scores become softcap * tanh(score / softcap) before the mask; None for no cap.
    """

    query: Tensor
    key: Tensor
    value: Tensor
    mask: Tensor | None
    causal: bool
    scale: float
    softcap: float | None = None
