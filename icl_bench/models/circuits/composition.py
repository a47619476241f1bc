"""Composition from weights: whether a later head's W_QK or W_OV reads what an earlier one writes.

Products of weights say what could pass, not what does: a pattern may never let it. Where the
residual stream is rotated by position before queries and keys meet, W_QK is that of one and the
same position. Norms count with gain and centring, their scales are left out. Biases are.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from icl_bench.errors import NotMeasurable
from icl_bench.measures.composition import composition_scores, random_composition
from icl_bench.models.attention.ablation import Head
from icl_bench.models.residual.reading import Reading, Side, read_layers
from icl_bench.models.residual.writing import output_maps, require_output_maps

if TYPE_CHECKING:
    from icl_bench.models.model import Model

OUTER: dict[Side, Side] = {"key": "query", "query": "key"}


@dataclass
class Composition:
    """One earlier head's composition with one side of a later one.

    Args:
        sender: the earlier head.
        receiver: the later head.
        side: query, key or value.
        score: ||A B|| / (||A|| ||B||), NaN where a matrix is 0.
        random: mean of the same for random matrices of the same shapes.
    """

    sender: Head
    receiver: Head
    side: Side
    score: float
    random: float

    @property
    def known(self) -> bool:
        """Whether neither matrix is 0."""
        return not math.isnan(self.score)

    @property
    def excess(self) -> float:
        """What of the score is above random."""
        return self.score - self.random


@torch.no_grad()
def compose_heads(
    model: Model,
    receivers: Sequence[Head],
    senders: Sequence[Head],
    sides: Sequence[Side],
    *,
    seed: int = 0,
    advance: Callable[[int], None] | None = None,
) -> list[Composition]:
    """Return the composition of every receiver with every sender in a layer below.

    Args:
        model: the model.
        receivers: the later heads.
        senders: the earlier heads.
        sides: sides of the receivers' input.
        seed: seed of the random matrices.
        advance: called with the number of layers of senders done.

    Raises:
        NotMeasurable: what these heads read or write is no linear map.
    """
    layers = sorted({layer for layer, _ in receivers})
    below = sorted({layer for layer, _ in senders if layer < layers[-1]})
    require_output_maps(model.anatomy, [*below, *(layers if "value" in sides else ())])
    readings = read_layers(model, sorted({*layers, *below}))
    levels: dict[tuple[tuple[int, int], int], float] = {}
    compositions = []
    for low in below:
        chosen = [head for layer, head in senders if layer == low]
        output = output_maps(model.anatomy.layers[low])[chosen]
        value = readings[low].map_of("value")[chosen]
        for layer in layers:
            if layer <= low:
                continue
            heads = [head for own, head in receivers if own == layer]
            for side in sides:
                outer, reads = _factors(model, readings[layer], side, heads)
                scores = composition_scores(outer, reads, output, value)
                shape = ((reads.shape[1], reads.shape[2]), value.shape[1])
                if shape not in levels:
                    levels[shape] = random_composition(*shape, seed)
                compositions += [
                    Composition((low, j), (layer, i), side, float(score), levels[shape])
                    for i, row in zip(heads, scores)
                    for j, score in zip(chosen, row)
                ]
        if advance:
            advance(1)
    return compositions


def _factors(model: Model, reading: Reading, side: Side, heads: list[int]) -> tuple[Tensor, Tensor]:
    """Return the two factors of W_QK, of its transpose, or of W_OV: the outer one, what reads."""
    reads = reading.map_of(side)[heads]
    if side == "value":
        outer = output_maps(model.anatomy.layers[reading.layer])[heads].transpose(1, 2)
    else:
        outer = reading.map_of(OUTER[side])[heads]
    if outer.shape != reads.shape:
        raise NotMeasurable(f"layer {reading.layer}: its factors differ in width")
    return outer, reads


def every_sender(model: Model, receivers: Sequence[Head]) -> list[Head]:
    """Return every head below the last of the receivers' layers."""
    last = max((layer for layer, _ in receivers), default=0)
    return [head for head in model.every_head if head[0] < last]
