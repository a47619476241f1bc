"""Edits of every matrix: rounding, pruning, and rows of the embedding."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from icl_bench.errors import NotMeasurable
from icl_bench.mutating.planting import Site


def matrices(site: Site) -> Iterator[Tensor]:
    """Yield each matrix of the decoder layers as (..., outputs, inputs), to be changed in place."""
    layers, found = site.ground.anatomy.modules, False
    for module in layers.modules():
        for weight in module.parameters(recurse=False):
            if isinstance(module, (nn.Linear, Conv1D)) and weight.ndim == 2:
                kept = site.keep(weight)
                yield kept.T if isinstance(module, Conv1D) else kept
                found = True
            elif weight.ndim == 3:  # the experts of a mixture
                yield site.keep(weight)
                found = True
    if not found:
        raise NotMeasurable("its layers have no matrices")


def round_to(weight: Tensor, bits: int, *, per_row: bool = True) -> Tensor:
    """Return a matrix rounded to whole multiples of a scale, symmetric around 0.

    The scale is the largest absolute value over 2^(bits-1) - 1, as by absmax quantization.

    Args:
        weight: (..., outputs, inputs).
        bits: of a value.
        per_row: whether each row has a scale of its own.
    """
    most = 2 ** (bits - 1) - 1
    size = weight.float().abs()
    largest = size.amax(-1, keepdim=True) if per_row else size.amax()
    scale = (largest / most).clamp_min(1e-30)
    rounded: Tensor = (weight.float() / scale).round() * scale
    return rounded.to(weight)


def _rounded(site: Site, bits: int, *, per_row: bool = True) -> None:
    for weight in matrices(site):
        weight.copy_(round_to(weight, bits, per_row=per_row))


def int8(site: Site) -> None:
    """Round to 8 bits per row."""
    _rounded(site, 8)


def int4(site: Site) -> None:
    """Round to 4 bits per row."""
    _rounded(site, 4)


def int3(site: Site) -> None:
    """Round to 3 bits per row."""
    _rounded(site, 3)


def int8_tensor(site: Site) -> None:
    """Round to 8 bits, with one scale for each matrix."""
    _rounded(site, 8, per_row=False)


def _pruned(site: Site, drop: Callable[[Tensor], Tensor]) -> None:
    for weight in matrices(site):
        weight[drop(weight.float().abs())] = 0


def prune_half(site: Site) -> None:
    """Set the smaller half of each matrix to 0."""

    def drop(size: Tensor) -> Tensor:
        smallest = size.flatten().argsort()[: size.numel() // 2]
        return (
            torch.zeros(size.numel(), dtype=torch.bool)
            .scatter(0, smallest.cpu(), True)
            .reshape(size.shape)
            .to(size.device)
        )

    _pruned(site, drop)


def prune_two_of_four(site: Site) -> None:
    """Of each four neighbouring inputs of a row, set the two smaller weights to 0."""

    def drop(size: Tensor) -> Tensor:
        whole = size.shape[-1] // 4 * 4
        fours = size[..., :whole].unflatten(-1, (-1, 4))
        smaller = torch.zeros_like(fours, dtype=torch.bool)
        smaller.scatter_(-1, fours.argsort(-1)[..., :2], True)
        rest = torch.zeros_like(size[..., whole:], dtype=torch.bool)
        return torch.cat([smaller.flatten(-2), rest], -1)

    _pruned(site, drop)


def permute_embedding(site: Site) -> None:
    """Exchange the rows of the first two usable tokens, which are frequent ones."""
    weight = site.keep(site.model.embedding)
    first, second = site.model.vocabulary[:2]
    weight[[first, second]] = weight[[second, first]]
