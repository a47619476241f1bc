"""Attention scores while lower heads have lost some of their edges."""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from icl_bench.measures.tokens import Pairs
from icl_bench.models.attention.ablation import Head, Replacement, mark_heads
from icl_bench.models.attention.forward_hooks import ForwardHooks
from icl_bench.models.attention.knockout import Knockout
from icl_bench.models.circuits.interventions import require_support
from icl_bench.models.module.batching import run_in_batches

if TYPE_CHECKING:
    from icl_bench.models.model import Model


def score_without_edges(
    model: Model, input_ids: Tensor, pairs: Pairs, cut: Collection[Head], edges: Pairs, layer: int
) -> Tensor:
    """Return the attention of one layer's heads on some pairs while other heads lose edges.

    Args:
        model: the model.
        input_ids: (rows, length).
        pairs: the pairs that are read.
        cut: heads that lose edges.
        edges: the edges, the same for all rows.
        layer: the layer whose heads are read.

    Returns:
        mean over the pairs, shape (rows, heads of the layer).

    Raises:
        NotMeasurable: edges cannot be removed from this family's attention.
    """
    require_support(model, Replacement(edges=edges))
    parts: list[Tensor] = []

    def work(start: int, stop: int) -> None:
        rows = stop - start
        hooks = ForwardHooks(pairs={"read": pairs.rows(start, stop)})
        hooks.knockout = Knockout(mark_heads([cut] * rows, model.heads), edges) if cut else None
        model.run_pass(input_ids[start:stop], hooks, None, logits=False)
        parts.append(hooks.scores["read"][layer].cpu())

    run_in_batches(input_ids.shape, model.limit, work)
    return torch.cat(parts)
