"""Direct logit attribution: what each head writes towards the correct next token.

The final norm is frozen to what it was on the clean run, so that the logit is a sum: embedding,
every head, every MLP, biases. Contributions are to the correct token's logit minus the mean over
the vocabulary, before a final soft-cap where a model has one. Source: Elhage et al. 2021,
"A Mathematical Framework for Transformer Circuits"; Wang et al. 2022.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from icl_bench.errors import NotMeasurable
from icl_bench.models.module.quantization import on_exact_layers
from icl_bench.models.residual.contributions import CleanRun, Wanted, read_logits, run_clean

if TYPE_CHECKING:
    from icl_bench.models.model import Model

WITHIN = 1e-3
"""How far the sum of the parts may be from the whole, as a share of the largest whole."""
WITHIN_HALF = 5e-2


@dataclass
class Attribution:
    """Parts of the correct tokens' centred logits, means over the targets of each row.

    Args:
        heads: layer -> what each head adds, (rows, heads), float32.
        rest: layer -> what its MLP adds (the whole layer where it has no heads), (rows,).
        embedding: what the embeddings add, (rows,).
        bias: what biases add, of output projections, norms and unembedding, (rows,).
        total: the centred logit itself, (rows,).
    """

    heads: dict[int, Tensor]
    rest: dict[int, Tensor]
    embedding: Tensor
    bias: Tensor
    total: Tensor


@on_exact_layers
def attribute_logits(
    model: Model,
    input_ids: Tensor,
    targets: Tensor,
    *,
    advance: Callable[[int], None] | None = None,
) -> Attribution:
    """Split the correct tokens' centred logits into what wrote them.

    Args:
        model: the model.
        input_ids: (rows, length).
        targets: physical positions of the target tokens, each >= 1.
        advance: called with the number of rows done.

    Returns:
        parts that add up to the whole, checked on every batch.

    Raises:
        NotMeasurable: the model has no heads, or its logits are not the sum of parts that are
            known; the message names the layer and what failed.
    """
    model.require_heads()
    rows, length = input_ids.shape
    model.require_context(length)
    anatomy = model.anatomy
    anatomy.require_heads(range(len(anatomy.layers)))
    anatomy.require_unembedding()
    wanted = Wanted(heads=sorted(model.heads), rest=True, final=True, positions=targets - 1)
    parts = []
    step = model.limit.rows(length)
    for start in range(0, rows, step):
        batch = input_ids[start : start + step]
        run = run_clean(model, batch, wanted)
        parts.append(_attribute(run, batch[:, targets], targets - 1))
        if advance:
            advance(len(batch))
    return Attribution(
        {index: torch.cat([part.heads[index] for part in parts]) for index in parts[0].heads},
        {index: torch.cat([part.rest[index] for part in parts]) for index in parts[0].rest},
        torch.cat([part.embedding for part in parts]),
        torch.cat([part.bias for part in parts]),
        torch.cat([part.total for part in parts]),
    )


def _attribute(run: CleanRun, answer: Tensor, positions: Tensor) -> Attribution:
    reading = read_logits(run, answer)
    direction, bias = reading.direction, reading.fixed
    embedding = (run.entered[0][:, positions.to(direction.device)].float() * direction).sum(-1)
    heads, rest = {}, {}
    whole = embedding
    for index, outputs in run.outputs.items():
        heads[index] = (run.pull_back(index, direction) * outputs.float()).sum(-1)
        whole = whole + heads[index].sum(-1)
        if (constant := run.constant(index)) is not None:
            bias = bias + (constant * direction).sum(-1)
    for index, part in run.rest.items():
        rest[index] = (part * direction).sum(-1)
        whole = whole + rest[index]
    _check_sum(whole + bias, reading.total, run)
    return Attribution(
        {index: part.mean(1).cpu() for index, part in heads.items()},
        {index: part.mean(1).cpu() for index, part in rest.items()},
        embedding.mean(1).cpu(),
        bias.mean(1).cpu(),
        reading.total.mean(1).cpu(),
    )


def _check_sum(whole: Tensor, total: Tensor, run: CleanRun) -> None:
    assert run.last is not None
    within = WITHIN if run.last.dtype in (torch.float32, torch.float64) else WITHIN_HALF
    off = float((whole - total).abs().max()) / max(float(total.abs().max()), 1e-20)
    if not off <= within:
        raise NotMeasurable(
            f"embedding, heads, MLPs and biases miss the logits by {off:.2g} of the largest one"
        )
