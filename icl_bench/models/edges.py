"""Attention knockout: single edges of single heads removed, everything else left."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from icl_bench.measures.tokens import Pairs


@dataclass
class Knockout:
    """Edges to remove before the softmax, per row of the batch and head.

    Args:
        off: layer -> heads that lose the edges, boolean, shape (rows, heads).
        pairs: the edges, the same for every row: query and key of shape (pairs,).

    After a pass:
        applied: the layers in which it was applied.
    """

    off: dict[int, Tensor]
    pairs: Pairs
    applied: set[int] = field(default_factory=set)

    def apply(
        self,
        layer: int,
        output: Tensor,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        mask: Tensor | None,
        causal: bool,
        scale: float,
    ) -> Tensor:
        """Return attention output (rows, heads, length, width), recomputed where edges are gone.

        Args:
            layer: the decoder layer.
            output: attention output with every edge.
            q: queries (rows, heads, length, width).
            k: keys (rows, kv_heads, length, width).
            v: values, heads as in `k`.
            mask: additive mask, or None.
            causal: whether keys after the query are hidden, without a mask.
            scale: factor of q.k.
        """
        off = self.off.get(layer)
        if off is None:
            return output
        self.applied.add(layer)
        rows, heads = off.nonzero(as_tuple=True)
        rows, heads = rows.to(q.device), heads.to(q.device)
        groups = heads // (q.shape[1] // k.shape[1])
        own = None
        if mask is not None:
            full = mask.expand(q.shape[0], q.shape[1], -1, -1)
            own = full[rows, heads][:, None]
        scores = q[rows, heads].float() @ k[rows, groups].float().transpose(1, 2) * scale
        if own is not None:
            scores = scores + own[:, 0].float()
        elif causal:
            hidden = torch.ones_like(scores[0], dtype=torch.bool).triu(1)
            scores.masked_fill_(hidden, float("-inf"))
        scores[:, self.pairs.query.to(q.device), self.pairs.key.to(q.device)] = float("-inf")
        changed = output.clone()
        changed[rows, heads] = (scores.softmax(-1) @ v[rows, groups].float()).to(output.dtype)
        return changed

    @property
    def missed(self) -> set[int]:
        """Layers that were to lose edges in which no attention call has applied it yet."""
        return self.off.keys() - self.applied
