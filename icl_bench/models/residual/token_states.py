"""What a single token looks like to the heads of a layer: its residual stream, alone after BOS."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from icl_bench.errors import NotMeasurable
from icl_bench.models.attention.forward_hooks import ForwardHooks
from icl_bench.models.attention.prefix import Capture

if TYPE_CHECKING:
    from icl_bench.models.model import Model

BLOCK = 4096
"""Tokens whose states are held at once."""


def token_states(
    model: Model, layers: Iterable[int], *, advance: Callable[[int], None] | None = None
) -> Iterator[tuple[Tensor, dict[int, Tensor]]]:
    """Run every usable token as a sequence of its own and yield what enters some layers.

    BOS comes first where the model has one. Without it the token itself would stand at the first
    position, where no token stands in the sequences that are measured, and which models treat in
    a way of their own.

    Args:
        model: the model.
        layers: the layers.
        advance: called with the number of tokens done.

    Yields:
        token ids (tokens,), and layer -> the residual stream that enters it, (tokens, width), in
        float32 on the CPU.

    Raises:
        NotMeasurable: what enters these layers cannot be told.
    """
    wanted = sorted(set(layers))
    step = min(BLOCK, model.limit.rows(2))
    for start in range(0, len(model.vocabulary), step):
        ids = torch.tensor(model.vocabulary[start : start + step])
        rows = ids[:, None]
        if model.bos is not None:
            rows = torch.cat([torch.full_like(rows, model.bos), rows], 1)
        with Capture(wanted, stop=True).watching(model.runner) as capture:
            model.run_pass(rows, ForwardHooks(), logits=False)
        if set(capture.streams) != set(wanted):
            raise NotMeasurable("what enters the model's layers cannot be told")
        yield ids, {layer: s.residual[:, -1].float().cpu() for layer, s in capture.streams.items()}
        if advance:
            advance(len(ids))
