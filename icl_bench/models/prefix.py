"""Prefix reuse: an ablation in layer l leaves the layers below l as they were.

While many sets of heads are tried on the same sequences, the residual stream that enters the
earliest ablated layer is computed once; the layers below hand on what they get. Whether that
gives the same logits is checked once per model and layer list, because families that share keys
and values across layers would break it.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from icl_bench.models.families import find_decoder_layers
from icl_bench.models.paths import Runner


@dataclass
class Prefix:
    """The residual stream of some sequences before one layer.

    Args:
        layer: the layer that it enters.
        residual: shape (sequences, length, width).
        wrapped: whether this family's layers return a tuple around the residual stream.
    """

    layer: int
    residual: Tensor
    wrapped: bool


def decoder_layers(runner: Runner) -> nn.ModuleList | None:
    """Return the decoder layers, or None when they cannot be told apart."""
    layers = find_decoder_layers(runner.model)
    count = getattr(runner.model.config.get_text_config(), "num_hidden_layers", None)
    return layers if layers is not None and len(layers) == count else None


def capture_prefix(runner: Runner, input_ids: Tensor, layer: int) -> Prefix | None:
    """Run the sequences once and keep what enters `layer`; None when that cannot be had.

    Args:
        runner: the model.
        input_ids: (sequences, length).
        layer: index of the decoder layer, at least 1.
    """
    layers = decoder_layers(runner)
    if layers is None or not 0 < layer < len(layers):
        return None
    seen: dict[str, Any] = {}

    def keep_input(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        seen["residual"] = args[0] if args else kwargs.get("hidden_states")

    def keep_kind(module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        seen["wrapped"] = isinstance(output, tuple)

    with ExitStack() as stack:
        stack.enter_context(runner.prepared(None))
        handle = layers[layer].register_forward_pre_hook(keep_input, with_kwargs=True)
        stack.callback(handle.remove)
        stack.callback(layers[layer - 1].register_forward_hook(keep_kind).remove)
        runner.forward(input_ids, None, False)
    residual = seen.get("residual")
    if not isinstance(residual, Tensor):
        return None
    return Prefix(layer, residual, bool(seen["wrapped"]))


@contextmanager
def resume(runner: Runner, prefix: Prefix, rows: Tensor) -> Iterator[None]:
    """Let every forward pass inside the block start at `prefix.layer`.

    Args:
        runner: the model.
        prefix: what enters that layer.
        rows: for each row of the coming batch, its sequence in `prefix.residual`.
    """
    layers = decoder_layers(runner)
    assert layers is not None
    start = prefix.residual[rows.to(prefix.residual.device)]

    def hand_on(hidden_states: Tensor, *args: Any, **kwargs: Any) -> Any:
        return (hidden_states,) if prefix.wrapped else hidden_states

    def replace(
        module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        if args:
            return (start, *args[1:]), kwargs
        return args, {**kwargs, "hidden_states": start}

    lower = [layers[index] for index in range(prefix.layer)]
    own = [module.__dict__.get("forward") for module in lower]
    handle = layers[prefix.layer].register_forward_pre_hook(replace, with_kwargs=True)
    try:
        for module in lower:
            module.forward = hand_on
        yield
    finally:
        handle.remove()
        for module, before in zip(lower, own):
            if before is None:
                del module.forward
            else:
                module.forward = before


def same_logits(full: Tensor, resumed: Tensor) -> bool:
    """Whether a resumed pass gave the logits of the whole pass, up to rounding."""
    scale = max(1.0, float(full.abs().max()))
    within = 1e-4 if full.dtype == torch.float32 else 2e-2
    return bool(((full.float() - resumed.float()).abs().max() / scale) <= within)
