"""The run that others start from, and what enters each layer in it.

A pass that changes nothing below layer l can start at l from the stored residual stream. Whether
that gives the logits of a whole pass is found out on a tiny batch, once per model and layer.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from icl_bench.models.attention.ablation import ZEROS, Ablation, Head, Replacement, mark_heads
from icl_bench.models.attention.forward_hooks import ForwardHooks
from icl_bench.models.attention.prefix import Capture, Stream, resume, same_logits
from icl_bench.models.attention.tiny_batch import tiny_batch
from icl_bench.models.module.batching import STREAM_BYTES, Advance, run_in_batches
from icl_bench.models.module.losses import TokenLosses, join_losses, score_targets
from icl_bench.models.module.memory import ran_out_of_memory

if TYPE_CHECKING:
    from icl_bench.models.model import Model


@dataclass(frozen=True)
class HeadsOff:
    """Heads that are off in the run that others start from, and what stands in for them."""

    heads: Sequence[Head] = ()
    replacement: Replacement = ZEROS


@dataclass
class BaseRun:
    """A run that others start from: the clean one, or one in which some heads are off.

    Args:
        input_ids: (sequences, length).
        targets: physical positions of the target tokens, each >= 1.
        losses: of these targets, shape (sequences, targets).
        answers: ids whose losses are wanted in place of those that stand at the targets, shape
            (sequences, targets) or, for several, (sequences, targets, choices); None for none.
        streams: layer -> what enters it, for the layers that have been asked for.
        off: heads that are off in it.
        offset: number of the first sequence, when these are a part of more.
    """

    input_ids: Tensor
    targets: Tensor
    losses: TokenLosses
    answers: Tensor | None = None
    streams: dict[int, Stream] = field(default_factory=dict)
    off: HeadsOff = HeadsOff()
    offset: int = 0

    def part(self, start: int, stop: int) -> BaseRun:
        """Return the run of sequences start..stop-1, sharing memory with this one."""
        chosen = slice(start, stop)
        streams = {
            layer: Stream(layer, stream.residual[chosen], stream.wrapped)
            for layer, stream in self.streams.items()
        }
        losses = TokenLosses(self.losses.nll[chosen], self.losses.correct[chosen])
        return replace(
            self,
            input_ids=self.input_ids[chosen],
            losses=losses,
            answers=None if self.answers is None else self.answers[chosen],
            streams=streams,
            offset=self.offset + start,
        )

    def wanted(self, rows: Tensor, targets: Tensor) -> Tensor:
        """Return the ids whose losses are wanted at some of the targets.

        Args:
            rows: numbers of sequences.
            targets: physical positions, all of them among `self.targets` where there are answers.

        Returns:
            shape (rows, targets), or (rows, targets, choices).
        """
        if self.answers is None:
            return self.input_ids[rows][:, targets]
        return self.answers[rows][:, self.columns(targets)]

    def columns(self, targets: Tensor) -> Tensor:
        """Return the places of some targets among `self.targets`."""
        position = {int(target): index for index, target in enumerate(self.targets)}
        return torch.tensor([position[int(target)] for target in targets])


def run_base(
    model: Model,
    input_ids: Tensor,
    targets: Tensor,
    layers: Collection[int] = (),
    *,
    answers: Tensor | None = None,
    advance: Advance | None = None,
) -> BaseRun:
    """Run sequences as they are; what enters layers is kept on the way.

    Args:
        model: the model.
        input_ids: (sequences, length).
        targets: physical positions of the target tokens, each >= 1.
        layers: layers whose input is wanted; as many are kept as memory is meant for.
        answers: ids whose losses are wanted, as in `BaseRun`; a target may then be the position
            after the last one.
        advance: called with the number of sequences done.
    """
    base = BaseRun(input_ids, targets, TokenLosses.none(), answers)
    return _run(model, base, layers, advance)


def run_base_without(
    model: Model,
    input_ids: Tensor,
    targets: Tensor,
    off: HeadsOff,
    layers: Collection[int] = (),
    *,
    advance: Advance | None = None,
) -> BaseRun:
    """Run sequences with some heads off; arguments as in `run_base`."""
    base = BaseRun(input_ids, targets, TokenLosses.none(), off=off)
    return _run(model, base, layers, advance)


def _run(model: Model, base: BaseRun, layers: Collection[int], advance: Advance | None) -> BaseRun:
    parts: list[TokenLosses] = []
    captured: list[dict[int, Stream]] = []
    ids, targets = base.input_ids, base.targets
    wanted = [layer for layer in sorted(layers) if layer > 0][: layers_that_fit(model, ids)]

    def work(start: int, stop: int) -> None:
        capture = Capture(wanted, stop=False)
        with capture.watching(model.runner):
            hooks = _base_hooks(model, base, start, stop)
            logits = model.run_pass(ids[start:stop], hooks, targets - 1)
        parts.append(score_targets(logits, base.wanted(torch.arange(start, stop), targets)))
        captured.append(capture.streams)

    run_in_batches(ids.shape, model.limit, work, targets=len(targets), advance=advance)
    base.losses = join_losses(parts)
    base.streams.update(_join_streams(captured, wanted))
    return base


def _base_hooks(model: Model, base: BaseRun, start: int, stop: int) -> ForwardHooks:
    if not base.off.heads:
        # The clean run never goes through the ablation's code.
        return ForwardHooks()
    rows = torch.arange(start, stop) + base.offset
    off, how = mark_heads([base.off.heads] * len(rows), model.heads), base.off.replacement
    return ForwardHooks(ablation=Ablation(off, how.values, rows, how.at))


def stream_into(model: Model, base: BaseRun, layer: int, later: Sequence[int]) -> Stream | None:
    """Return what enters `layer`, when resuming there is proven to change nothing.

    Args:
        model: the model.
        base: keeps streams; one pass adds those of `layer` and of `later` layers, as many as
            memory is meant for.
        layer: the layer.
        later: layers that will be asked for next, ascending.
    """
    if not model.resumes.get(layer, False):
        return None
    if layer not in base.streams:
        room = layers_that_fit(model, base.input_ids)
        if room == 0:
            return None
        if len(base.streams) + 1 > room:
            base.streams.clear()
        wanted = [other for other in (layer, *later) if other not in base.streams]
        wanted = wanted[: room - len(base.streams)]
        captured: list[dict[int, Stream]] = []

        def work(start: int, stop: int) -> None:
            capture = Capture(wanted, stop=True)
            hooks = _base_hooks(model, base, start, stop)
            if hooks.ablation is not None:
                # Layers from the highest wanted one on are never reached.
                hooks.ablation = hooks.ablation.below(wanted[-1])
            with capture.watching(model.runner):
                model.run_pass(base.input_ids[start:stop], hooks, None, logits=False)
            captured.append(capture.streams)

        run_in_batches(base.input_ids.shape, model.limit, work)
        base.streams.update(_join_streams(captured, wanted))
    return base.streams.get(layer)


def _join_streams(parts: Sequence[dict[int, Stream]], layers: Sequence[int]) -> dict[int, Stream]:
    return {
        layer: Stream(
            layer, torch.cat([part[layer].residual for part in parts]), parts[0][layer].wrapped
        )
        for layer in layers
        if all(layer in part for part in parts)
    }


def layers_that_fit(model: Model, input_ids: Tensor) -> int:
    """How many layers' residual streams of these sequences may be kept at once."""
    weight = model.embedding
    return STREAM_BYTES // (input_ids.numel() * weight.shape[1] * weight.element_size())


def check_resumes(model: Model, layers: Collection[int]) -> None:
    """Find out at which layers a pass may start and still give the logits of a whole one.

    Done on a tiny batch, once per model and layer, and kept in `model.resumes`; rows are
    switched, so that a pass that ignores the stand-in is noticed.
    """
    unknown = sorted(layer for layer in layers if layer > 0 and layer not in model.resumes)
    if not unknown:
        return
    ids = tiny_batch(model.vocabulary)
    keep, rows = torch.arange(ids.shape[1]), torch.arange(len(ids)).flip(0)
    capture = Capture(unknown, stop=False)
    with capture.watching(model.runner):
        full = model.run_pass(ids, ForwardHooks(), keep)
    assert full is not None
    for layer in unknown:
        stream = capture.streams.get(layer)
        model.resumes[layer] = False
        if stream is None:
            continue
        try:
            with resume(model.runner, stream, rows):
                short = model.run_pass(ids[rows], ForwardHooks(), keep)
        except (RuntimeError, TypeError, ValueError, IndexError, AttributeError, KeyError) as error:
            if ran_out_of_memory(error):
                del model.resumes[layer]
                raise
            # A family whose layers want more from those below than the residual stream.
            continue
        assert short is not None
        model.resumes[layer] = same_logits(full[rows], short)
