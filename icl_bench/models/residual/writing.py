"""What heads write, as weights: W_O with the norm after attention folded in."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from icl_bench.errors import NotMeasurable
from icl_bench.models.residual.anatomy import Anatomy, LayerAnatomy
from icl_bench.models.residual.norms import FrozenNorm


def require_output_maps(anatomy: Anatomy, layers: Iterable[int]) -> None:
    """Raise NotMeasurable where what heads write is no linear map of their attention's output."""
    wanted = list(layers)
    anatomy.require_heads(wanted)
    for index in wanted:
        if not anatomy.layers[index].plain:
            raise NotMeasurable(f"layer {index} has a gate or norm between heads and W_O")


def fold_norm(norm: FrozenNorm, direction: Tensor) -> Tensor:
    """Return the direction before a norm that moves `direction` after it, the scale left out.

    Args:
        norm: the norm.
        direction: (..., width).
    """
    direction = direction * norm.gain.to(direction)
    return direction - direction.mean(-1, keepdim=True) if norm.centres else direction


def pull_back_weights(layer: LayerAnatomy, direction: Tensor) -> Tensor:
    """Return the direction in the heads' outputs that moves `direction` in the residual stream.

    A norm after attention counts with its gain and centring; its scale, a positive number for
    each position, is left out.

    Args:
        layer: the heads' layer.
        direction: (..., residual width).

    Returns:
        (..., heads, head width), in the direction's dtype.
    """
    direction = direction * layer.multiplier
    if layer.norm is not None:
        direction = fold_norm(layer.norm, direction)
    flat = direction @ layer.output_matrix().detach().to(direction)
    return flat.reshape(*flat.shape[:-1], layer.heads, layer.width)


def output_maps(layer: LayerAnatomy) -> Tensor:
    """Return what each head's output becomes in the residual stream, (heads, width, head width)."""
    width = len(layer.output_matrix())
    return pull_back_weights(layer, torch.eye(width, dtype=torch.float64)).transpose(0, 1)
