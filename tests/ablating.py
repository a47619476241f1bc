"""Ablations the plain way: one whole forward pass, every row with its own set of heads."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from icl_bench.models.attention.ablation import Ablation, mark_heads
from icl_bench.models.attention.forward_hooks import ForwardHooks


def losses(
    model: Any,
    ids: Tensor,
    sets: Sequence[Sequence[tuple[int, int]]],
    targets: Tensor | None = None,
    values: Mapping[int, Tensor] | None = None,
) -> Tensor:
    """Return losses (rows, targets) with the heads of each row's set off."""
    wanted = torch.arange(1, ids.shape[1]) if targets is None else targets
    hooks = ForwardHooks(ablation=Ablation(mark_heads(sets, model.heads), values))
    logits = model.run_pass(ids, hooks, wanted - 1)
    return torch.nn.functional.cross_entropy(
        logits.float().transpose(1, 2), ids[:, wanted], reduction="none"
    )
