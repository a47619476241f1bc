"""Attention knockout: single edges of single heads removed, everything else left."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from torch import Tensor

from icl_bench.measures.tokens import Pairs
from icl_bench.models.attention.call import AttentionCall
from icl_bench.models.attention.chunked import attend_in_chunks


@dataclass
class Knockout:
    """Edges to remove before the softmax, per row of the batch and head.

    Args:
        off: layer -> heads that lose the edges, boolean, shape (rows, heads).
        pairs: the edges: query and key of shape (pairs,), the same for every row, or (rows, pairs).

    After a pass:
        applied: the layers in which it was applied.
    """

    off: dict[int, Tensor]
    pairs: Pairs
    applied: set[int] = field(default_factory=set)

    def apply(
        self, layer: int, output: Tensor, lse: Tensor, call: AttentionCall
    ) -> tuple[Tensor, Tensor]:
        """Return output and log-sum-exp, computed again for the heads that lose edges.

        Args:
            layer: the decoder layer.
            output: attention output with every edge, (rows, heads, length, value_width).
            lse: log-sum-exp of every row of scores, (rows, heads, length).
            call: what they were computed from.
        """
        off = self.off.get(layer)
        if off is None:
            return output, lse
        self.applied.add(layer)
        rows, heads = off.to(call.query.device).nonzero(as_tuple=True)
        groups = heads // (call.query.shape[1] // call.key.shape[1])
        mask = None
        if call.mask is not None:
            length = call.query.shape[2]
            mask = call.mask.expand(*call.query.shape[:2], length, length)[rows, heads][:, None]
        single = replace(
            call,
            query=call.query[rows, heads][:, None],
            key=call.key[rows, groups][:, None],
            value=call.value[rows, groups][:, None],
            mask=mask,
        )
        own, sums = attend_in_chunks(single, hidden=self.pairs.of(rows.cpu()))
        output, lse = output.clone(), lse.clone()
        output[rows, heads], lse[rows, heads] = own[:, 0].to(output.dtype), sums[:, 0].to(lse.dtype)
        return output, lse

    @property
    def missed(self) -> set[int]:
        """Layers that were to lose edges in which no attention call has applied it yet."""
        return self.off.keys() - self.applied
