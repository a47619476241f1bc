"""Prefix reuse: an ablation in layer l leaves the layers below l as they were.

While many sets of heads are tried on the same sequences, the residual stream that enters each
layer is computed once; a pass that changes nothing below layer l starts there, and the layers
below hand on what they get. Whether that gives the same logits is checked once per model and
layer, because families that share keys and values across layers would break it.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from icl_bench.models.attention.forward_hooks import Enough
from icl_bench.models.attention.paths import Runner
from icl_bench.models.module.families import find_decoder_layers


@dataclass
class Stream:
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
    """Return the decoder layers, or None when they cannot be identified."""
    layers = find_decoder_layers(runner.model)
    count = getattr(runner.model.config.get_text_config(), "num_hidden_layers", None)
    return layers if layers is not None and len(layers) == count else None


class Capture:
    """Keeps what enters chosen layers while a forward pass runs.

    Args:
        layers: indices of decoder layers.
        stop: whether the pass ends where the highest of them begins.

    After a pass:
        streams: layer -> its stream, for the layers where it could be had.
    """

    def __init__(self, layers: Collection[int], *, stop: bool) -> None:
        self.layers, self.stop = sorted(layers), stop
        self.streams: dict[int, Stream] = {}
        self._wrapped: dict[int, bool] = {}

    @contextmanager
    def watching(self, runner: Runner) -> Iterator[Capture]:
        """Watch the passes inside the block; `Enough` ends it early where `stop` is set."""
        modules = decoder_layers(runner)
        with ExitStack() as stack:
            for layer in self.layers if modules is not None else []:
                assert modules is not None
                if not 0 <= layer < len(modules):
                    continue
                handle = modules[layer].register_forward_pre_hook(
                    self._keeper(layer), with_kwargs=True
                )
                stack.callback(handle.remove)
                if layer:
                    before = modules[layer - 1]
                    stack.callback(before.register_forward_hook(self._judge(layer)).remove)
            with suppress(Enough):
                yield self

    def _keeper(self, layer: int) -> Any:
        def keep(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            residual = args[0] if args else kwargs.get("hidden_states")
            if isinstance(residual, Tensor):
                wrapped = self._wrapped.get(layer, False)
                self.streams[layer] = Stream(layer, residual.detach(), wrapped)
            if self.stop and layer == self.layers[-1]:
                raise Enough

        return keep

    def _judge(self, layer: int) -> Any:
        def judge(module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
            self._wrapped[layer] = isinstance(output, tuple)

        return judge


@contextmanager
def resume(runner: Runner, stream: Stream, rows: Tensor) -> Iterator[None]:
    """Let every forward pass inside the block start at `stream.layer`.

    Args:
        runner: the model.
        stream: what enters that layer.
        rows: for each row of the coming batch, its sequence in `stream.residual`.
    """
    layers = decoder_layers(runner)
    assert layers is not None
    start = stream.residual[rows.to(stream.residual.device)]

    def hand_on(hidden_states: Tensor, *args: Any, **kwargs: Any) -> Any:
        return (hidden_states,) if stream.wrapped else hidden_states

    def replace(
        module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        if args:
            return (start, *args[1:]), kwargs
        return args, {**kwargs, "hidden_states": start}

    lower = [layers[index] for index in range(stream.layer)]
    own = [module.__dict__.get("forward") for module in lower]
    handle = layers[stream.layer].register_forward_pre_hook(replace, with_kwargs=True)
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
