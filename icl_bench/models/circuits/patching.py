"""Path patching: one head's contribution taken out of a later head's key, query or value only.

The sender's contribution on the clean run is subtracted from what enters the receiver's layer.
That layer's own code then makes queries, keys and values from it (input norm, rotary positions
and all), the wanted side of them is combined with the clean run's other two, and the attention
is computed again. Everything else is as on the clean run. One recomputation for each sender and
layer serves all heads of the layer and every side; the forward pass is left after the attention.
Source: Wang et al. 2022, "Interpretability in the Wild"; Goldowsky-Dill et al. 2023.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from icl_bench.errors import NotMeasurable
from icl_bench.measures.copying import repeated_targets
from icl_bench.measures.tokens import Pairs, RepeatedTokens, induction_pairs
from icl_bench.models.attention.ablation import Head
from icl_bench.models.attention.forward_hooks import ForwardHooks
from icl_bench.models.attention.partial_forward import Left, enter_layer, require_partial_forward
from icl_bench.models.attention.prefix import Stream
from icl_bench.models.module.quantization import on_exact_layers
from icl_bench.models.residual.contributions import CleanRun, Wanted, read_logits, run_clean
from icl_bench.models.residual.reading import SIDES as SIDES
from icl_bench.models.residual.reading import Side
from icl_bench.models.residual.writing import require_output_maps

if TYPE_CHECKING:
    from icl_bench.models.model import Model

RESUMED_WITHIN = 1e-4
RESUMED_WITHIN_HALF = 2e-2


@dataclass
class PathEffect:
    """What heads of one layer read when a sender is taken out of one side of their input.

    Args:
        layer: the receivers' layer.
        side: query, key or value.
        senders: the sets of heads that were taken out, one after the other.
        clean: score on the clean run, (rows, heads).
        patched: the same without each sender, (senders, rows, heads).

    Scores are attention on the pairs for query and key, and the direct attribution to the
    correct tokens' centred logits for value.
    """

    layer: int
    side: Side
    senders: list[tuple[Head, ...]]
    clean: Tensor
    patched: Tensor


@dataclass(frozen=True)
class Scored:
    """Sequences, and what is read on them.

    Args:
        input_ids: (rows, length).
        pairs: pairs whose attention is the score of the query and key sides.
        targets: physical positions of the tokens that the value side's score is about.
    """

    input_ids: Tensor
    pairs: Pairs
    targets: Tensor

    @classmethod
    def repeats(cls, tokens: RepeatedTokens) -> Scored:
        """Return repeated sequences with their induction pairs and predictable targets."""
        return cls(tokens.input_ids, induction_pairs(tokens), repeated_targets(tokens))

    def rows(self, start: int, stop: int) -> Scored:
        """Return sequences start..stop-1."""
        return Scored(self.input_ids[start:stop], self.pairs.rows(start, stop), self.targets)


@dataclass(frozen=True)
class Paths:
    """Paths from earlier heads to one side of the input of later layers' heads.

    Args:
        layers: the receivers' layers.
        senders: sets of heads to take out, each set together; a layer gets those that lie
            wholly below it.
        sides: which sides of the receivers' input are patched, each on its own.
        values: what stands in for the senders' outputs, layer -> (heads, width); None for nothing.
    """

    layers: Sequence[int]
    senders: Sequence[tuple[Head, ...]]
    sides: Sequence[Side] = ("key",)
    values: dict[int, Tensor] | None = None


class _ReceiverHooks(ForwardHooks):
    """Hooks that keep what the heads of one layer give out, and end the pass there."""

    output: Tensor | None = None

    def finish_layer(self, layer: int, output: Tensor) -> Tensor:
        self.output = output
        raise Left


@on_exact_layers
def patch_paths(
    model: Model, scored: Scored, paths: Paths, advance: Callable[[int], None] | None = None
) -> list[PathEffect]:
    """Take senders out of one side of later heads' input and see what these heads read.

    Args:
        model: the model.
        scored: the sequences, and what is read.
        paths: what is taken out, and where.
        advance: called with the number of (sender, row, layer) done.

    Returns:
        one entry for each layer and side.

    Raises:
        NotMeasurable: the model has no heads, its queries, keys and values cannot be replaced,
            or what its heads write is not known.
    """
    rows, length = scored.input_ids.shape
    _require(model, length, paths)
    below = {
        layer: [heads for heads in paths.senders if max(own for own, _ in heads) < layer]
        for layer in paths.layers
    }
    sending = sorted({own for sets in below.values() for heads in sets for own, _ in heads})
    model.anatomy.require_heads(sending)
    kept: dict[tuple[int, Side], list[tuple[Tensor, Tensor]]] = {}
    step = model.limit.rows(length)
    for start in range(0, rows, step):
        batch = _Batch(model, scored.rows(start, min(rows, start + step)), paths)
        batch.run(sending)
        for layer in paths.layers:
            if below[layer]:
                scores = batch.patch(layer, below[layer], advance)
                for side, pair in scores.items():
                    kept.setdefault((layer, side), []).append(pair)
    return [
        PathEffect(
            layer,
            side,
            below[layer],
            torch.cat([clean for clean, _ in parts]),
            torch.cat([patched for _, patched in parts], 1),
        )
        for (layer, side), parts in kept.items()
    ]


def _require(model: Model, length: int, paths: Paths) -> None:
    require_partial_forward(model)
    model.require_context(length)
    if "value" in paths.sides:
        model.anatomy.require_unembedding()
        require_output_maps(model.anatomy, paths.layers)


class _Batch:
    """Clean and patched runs of some rows."""

    def __init__(self, model: Model, scored: Scored, paths: Paths) -> None:
        self.model, self.paths, self.sides = model, paths, paths.sides
        self.ids, self.pairs, self.targets = scored.input_ids, scored.pairs, scored.targets
        self.read: dict[int, Tensor] = {}

    def run(self, sending: Sequence[int]) -> None:
        """Run the rows as they are and keep what patching needs."""
        layers = self.paths.layers
        wanted = Wanted(heads=sending, entered=layers)
        clean = ForwardHooks(pairs={"pairs": self.pairs})
        self.clean: CleanRun = run_clean(self.model, self.ids, wanted, clean)
        self.scores = clean.scores["pairs"]
        if "value" in self.sides:
            wanted = Wanted(heads=layers, final=True, positions=self.targets - 1)
            reading = run_clean(self.model, self.ids, wanted)
            direction = read_logits(reading, self.ids[:, self.targets]).direction
            self.read = {layer: reading.pull_back(layer, direction) for layer in layers}

    def patch(
        self,
        layer: int,
        senders: Sequence[tuple[Head, ...]],
        advance: Callable[[int], None] | None,
    ) -> dict[Side, tuple[Tensor, Tensor]]:
        """Return side -> (clean scores (rows, heads), patched scores (senders, rows, heads))."""
        entered, rows = self.clean.entered[layer], len(self.ids)
        own: list[Tensor] = []

        def keep(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> tuple[Any, ...]:
            own.extend((q, k, v))
            return q, k, v, mask

        before = self._attend(layer, entered, ForwardHooks(pairs={"pairs": self.pairs}, swap=keep))
        self._check_resumed(layer, before)
        unpatched = {side: self._scores(side, layer, before, 0).cpu() for side in self.sides}
        results: dict[Side, list[Tensor]] = {side: [] for side in self.sides}
        group = max(1, self.model.limit.rows(self.ids.shape[1]) // rows)
        for first in range(0, len(senders), group):
            some = senders[first : first + group]
            patched = torch.cat(
                [entered - self.clean.contribution(s, self.paths.values).to(entered) for s in some]
            )
            hooks = ForwardHooks(pairs={"pairs": self._repeat(len(some))}, swap=self._combine(own))
            after = self._attend(layer, patched, hooks)
            for number, side in enumerate(self.sides):
                scores = self._scores(side, layer, after, number, len(some))
                results[side].append(scores.reshape(len(some), rows, -1).cpu())
            if advance:
                advance(len(some) * rows)
        return {side: (unpatched[side], torch.cat(results[side])) for side in self.sides}

    def _attend(self, layer: int, entered: Tensor, hooks: ForwardHooks) -> _ReceiverHooks:
        """Let `entered` into a layer and return what its attention read and gave."""
        times = len(entered) // len(self.ids)
        receiver = _ReceiverHooks(pairs=hooks.pairs, swap=hooks.swap)
        stream = Stream(layer, entered, self.clean.wrapped)
        enter_layer(self.model, self.ids.repeat(times, 1), stream, receiver)
        return receiver

    def _combine(self, own: list[Tensor]) -> Callable[..., tuple[Any, ...]]:
        """Return a swap that puts one patched side beside two clean ones, a block a side."""

        def swap(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> tuple[Any, ...]:
            times = len(q) // len(own[0])
            clean = [part.repeat(times, 1, 1, 1) for part in own]
            parts = []
            for name, patched, unchanged in zip(SIDES, (q, k, v), clean):
                blocks = [patched if side == name else unchanged for side in self.sides]
                parts.append(torch.cat(blocks))
            if mask is not None and mask.shape[0] == len(q) > 1:
                mask = mask.repeat(len(self.sides), 1, 1, 1)
            return *parts, mask

        return swap

    def _repeat(self, times: int) -> Pairs:
        """Return the pairs for `times` copies of the rows, once a side."""
        if self.pairs.query.ndim == 1:
            return self.pairs
        times *= len(self.sides)
        weight = None if self.pairs.weight is None else self.pairs.weight.repeat(times, 1)
        return Pairs(self.pairs.query.repeat(times, 1), self.pairs.key.repeat(times, 1), weight)

    def _scores(
        self, side: Side, layer: int, hooks: _ReceiverHooks, number: int, times: int = 1
    ) -> Tensor:
        """Return the scores (times * rows, heads) of one side's block of the batch."""
        count = times * len(self.ids)
        block = slice(number * count, (number + 1) * count)
        if side != "value":
            return next(iter(hooks.scores["pairs"].values()))[block]
        assert hooks.output is not None
        read = self.read[layer]
        outputs = hooks.output[block][:, (self.targets - 1).to(read.device)].float()
        return (outputs * read.repeat(times, 1, 1, 1)).sum(-1).mean(1)

    def _check_resumed(self, layer: int, resumed: _ReceiverHooks) -> None:
        """Starting at this layer has to give the attention of the whole pass."""
        whole, ours = self.scores[layer], next(iter(resumed.scores["pairs"].values()))
        half = self.clean.entered[layer].dtype not in (torch.float32, torch.float64)
        off = float((whole - ours).abs().max()) if whole.shape == ours.shape else float("inf")
        if not off <= (RESUMED_WITHIN_HALF if half else RESUMED_WITHIN):
            raise NotMeasurable(
                f"the model cannot be run from layer {layer} on: attention differs by {off:.2g}"
            )
