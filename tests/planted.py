"""Models with one planted edit each, for tests of what a diff names."""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import cache
from typing import Any

import torch

import icl_bench
from icl_bench.models.model import Model

Edit = Callable[[Any], None]
"""Gets the decoder layers."""
PREVIOUS, INDUCTION = (0, 9), (1, 4)
"""The previous-token head of `builtin:induction-2l`, and the stronger of its induction heads."""

SUITE = """\
icl_suite: 1
name: small
defaults: {sequences: 16, period: 20}
measure:
  repeats: {probe: induction, control: false}
  copying: {probe: losses, varied: false}
checks:
  - {id: heads, on: repeats, metric: induction_max, above: 0.4}
  - {id: copies, on: copying, metric: gain, above: 1}
"""
"""A suite that takes seconds on it."""


@cache
def original() -> Model:
    """Return the model that is edited."""
    return icl_bench.load_model("builtin:induction-2l")


def scale(layer: int, head: int, factor: float) -> Edit:
    """What a head writes, times a factor."""
    width = original().anatomy.layers[layer].width

    def edit(layers: Any) -> None:
        own = slice(head * width, (head + 1) * width)
        layers[layer].self_attn.o_proj.weight[:, own] *= factor

    return edit


def skip(layer: int) -> Edit:
    """A layer that writes nothing."""
    return lambda layers: layers[layer].self_attn.o_proj.weight.zero_()


def round_rows(bits: int) -> Edit:
    """Every matrix rounded, with a scale for each row."""

    def edit(layers: Any) -> None:
        for module in layers.modules():
            if isinstance(module, torch.nn.Linear):
                most = 2 ** (bits - 1) - 1
                step = module.weight.abs().amax(1, keepdim=True) / most
                module.weight.copy_((module.weight / step).round() * step)

    return edit


def to_bfloat16(layers: Any) -> None:
    """Every weight as bfloat16 keeps it."""
    for parameter in layers.parameters():
        parameter.copy_(parameter.bfloat16().float())


def keep(layers: Any) -> None:
    """Nothing."""


def plant(edit: Edit) -> Model:
    """Return an edited copy, open."""
    module = copy.deepcopy(original().model)
    with torch.no_grad():
        edit(module.model.layers)
    return icl_bench.wrap(module, original().tokenizer)
