"""Prefix reuse under a suite: what an edit of layer l cannot change below l is not computed again.

Passes of the unedited model that change nothing are remembered: what entered some layers, and what
the heads below scored. A pass of the edited model on the same sequences starts at the lowest layer
that the edit may change, and takes the scores below from there.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from icl_bench.models.attention.forward_hooks import ForwardHooks
from icl_bench.models.attention.prefix import Capture, Stream, resume
from icl_bench.models.model import Model
from icl_bench.models.module.batching import STREAM_BYTES


@dataclass
class Prefixes:
    """What passes of the unedited model left behind.

    Args:
        modules: the decoder layers.
        layers: the layers whose input is remembered; passes may start there.
        room: bytes that it may take.
    """

    modules: nn.ModuleList
    layers: tuple[int, ...]
    room: int = STREAM_BYTES
    used: int = 0
    _passes: dict[str, tuple[dict[int, Stream], dict[str, dict[int, Tensor]]]] = field(
        default_factory=dict
    )
    _shapes: dict[int, tuple[int, int, int]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        # Some versions of transformers have hooks of their own.
        self._own_hooks = [len(module._forward_pre_hooks) for module in self.modules]

    def remember(self, ids: Tensor, hooks: ForwardHooks, streams: dict[int, Stream]) -> None:
        """Keep what one pass left, while there is room.

        Args:
            ids: (rows, length).
            hooks: of the pass, after it.
            streams: layer -> what entered it.
        """
        kept = {
            layer: Stream(layer, stream.residual.clone(), stream.wrapped)
            for layer, stream in streams.items()
        }
        size = sum(one.residual.numel() * one.residual.element_size() for one in kept.values())
        if size <= self.room:
            self.room -= size
            scores = {name: dict(layers) for name, layers in hooks.scores.items()}
            self._passes[_key(ids, hooks)] = (kept, scores)
            self._shapes.update(hooks.shapes)

    def find(self, ids: Tensor, hooks: ForwardHooks, lowest: int) -> Stream | None:
        """Return what enters the lowest changed layer in a pass, if the pass may start there.

        Args:
            ids: (rows, length).
            hooks: of the pass.
            lowest: the lowest layer that may have changed.
        """
        watched = any(
            len(self.modules[layer]._forward_pre_hooks) > self._own_hooks[layer]
            for layer in range(lowest + 1)
        )
        early = hooks.stop_after is not None and hooks.stop_after < lowest
        if watched or early or not changes_nothing(hooks):
            return None
        streams, _ = self._passes.get(_key(ids, hooks), ({}, {}))
        return streams.get(lowest)

    def complete(self, ids: Tensor, hooks: ForwardHooks, lowest: int) -> None:
        """Add what heads below the lowest changed layer scored in the unedited pass."""
        self.used += 1
        _, scores = self._passes[_key(ids, hooks)]
        for name, layers in scores.items():
            below = {layer: kept for layer, kept in layers.items() if layer < lowest}
            hooks.scores[name] = {**below, **hooks.scores.get(name, {})}
        below_shapes = {layer: one for layer, one in self._shapes.items() if layer < lowest}
        hooks.shapes = {**below_shapes, **hooks.shapes}


class Remembering(Model):
    """The unedited model, whose passes are remembered."""

    prefixes: Prefixes | None = None

    def run_pass(
        self, ids: Tensor, hooks: ForwardHooks, keep: Tensor | None = None, *, logits: bool = True
    ) -> Tensor | None:
        """Run one batch, and remember what it left."""
        if self.prefixes is None or not changes_nothing(hooks):
            return super().run_pass(ids, hooks, keep, logits=logits)
        capture = Capture(self.prefixes.layers, stop=False)
        with capture.watching(self.runner):
            result = super().run_pass(ids, hooks, keep, logits=logits)
        self.prefixes.remember(ids, hooks, capture.streams)
        return result


class Edited(Model):
    """The edited model, whose passes start at the lowest layer that may have changed."""

    prefixes: Prefixes | None = None
    lowest = 0

    def run_pass(
        self, ids: Tensor, hooks: ForwardHooks, keep: Tensor | None = None, *, logits: bool = True
    ) -> Tensor | None:
        """Run one batch, from the lowest changed layer on where that is known to be the same."""
        stream = self.prefixes and self.lowest and self.prefixes.find(ids, hooks, self.lowest)
        if not self.prefixes or not isinstance(stream, Stream):
            return super().run_pass(ids, hooks, keep, logits=logits)
        with resume(self.runner, stream, torch.arange(len(ids))):
            result = super().run_pass(ids, hooks, keep, logits=logits)
        self.prefixes.complete(ids, hooks, self.lowest)
        return result


def changes_nothing(hooks: ForwardHooks) -> bool:
    """Whether a pass only reads logits and scores of chosen pairs.

    Args:
        hooks: of the pass.
    """
    changes: tuple[Any, ...] = (
        *(hooks.ablation, hooks.knockout, hooks.clean_rows, hooks.mean_over, hooks.swap),
        hooks.sink_queries,
    )
    return all(one is None for one in changes) and not hooks.keep_outputs


def _key(ids: Tensor, hooks: ForwardHooks) -> str:
    """A digest of the sequences and of the pairs that are looked at."""
    hashed = hashlib.sha256(repr((tuple(ids.shape), hooks.raw)).encode())
    hashed.update(ids.cpu().numpy().tobytes())
    for name, pairs in hooks.pairs.items():
        hashed.update(f"{name}\n".encode())
        for one in (pairs.query, pairs.key, pairs.weight):
            if one is not None:
                hashed.update(one.cpu().contiguous().numpy().tobytes())
    return hashed.hexdigest()
