"""Losses with heads, MLPs or layers off: many sets on the same sequences, sharing what they can.

Sets are grouped by their earliest layer. What enters that layer is computed once, in the clean
run, and every set of the group starts there; many sets share one forward pass, because an
ablation is per row of the batch.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from icl_bench.errors import MeasurementError, ModelError, NotMeasurable
from icl_bench.models.ablation import (
    ZEROS,
    Ablation,
    Head,
    Part,
    Replacement,
    layer_of,
    mark_heads,
    split_parts,
)
from icl_bench.models.attention import Pass
from icl_bench.models.batching import STREAM_BYTES, Advance, run_in_batches
from icl_bench.models.components import ComponentAblation, list_names, switched_off
from icl_bench.models.edges import Knockout
from icl_bench.models.losses import TokenLosses, join_losses, score_targets
from icl_bench.models.prefix import Capture, Stream, resume, same_logits
from icl_bench.models.selfcheck import tiny_batch

if TYPE_CHECKING:
    from icl_bench.models.model import Model


@dataclass
class BaseRun:
    """A run that others start from: the untouched one, or one in which some heads are off.

    Args:
        input_ids: (sequences, length).
        targets: physical positions of the target tokens, each >= 1.
        losses: of these targets, shape (sequences, targets).
        streams: layer -> what enters it, for the layers that have been asked for.
        off: heads that are off in it.
        replacement: what stands in for them.
        offset: number of the first sequence, when these are a part of more.
    """

    input_ids: Tensor
    targets: Tensor
    losses: TokenLosses
    streams: dict[int, Stream] = field(default_factory=dict)
    off: tuple[Head, ...] = ()
    replacement: Replacement = ZEROS
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
            streams=streams,
            offset=self.offset + start,
        )


def run_base(
    model: Model,
    input_ids: Tensor,
    targets: Tensor,
    layers: Collection[int] = (),
    *,
    off: Sequence[Head] = (),
    replacement: Replacement = ZEROS,
    advance: Advance | None = None,
) -> BaseRun:
    """Run sequences, untouched or with some heads off; what enters layers is kept on the way.

    Args:
        model: the model.
        input_ids: (sequences, length).
        targets: physical positions of the target tokens, each >= 1.
        layers: layers whose input is wanted; as many are kept as memory is meant for.
        off: heads that are off.
        replacement: what stands in for their outputs.
        advance: called with the number of sequences done.
    """
    parts: list[TokenLosses] = []
    captured: list[dict[int, Stream]] = []
    wanted = [layer for layer in sorted(layers) if layer > 0]
    wanted = wanted[: _layers_that_fit(model, input_ids)]
    base = BaseRun(input_ids, targets, TokenLosses.none(), off=tuple(off), replacement=replacement)

    def work(start: int, stop: int) -> None:
        batch = input_ids[start:stop]
        capture = Capture(wanted, stop=False)
        with capture.watching(model.runner):
            logits = model.run_pass(batch, _base_pass(model, base, start, stop), targets - 1)
        parts.append(score_targets(logits, batch[:, targets]))
        captured.append(capture.streams)

    run_in_batches(input_ids.shape, model.limit, work, targets=len(targets), advance=advance)
    base.losses = join_losses(parts)
    base.streams.update(_join_streams(captured, wanted))
    return base


def _base_pass(model: Model, base: BaseRun, start: int, stop: int) -> Pass:
    if not base.off:
        # The clean run never goes through the ablation's code.
        return Pass()
    rows = torch.arange(start, stop) + base.offset
    off = [base.off] * len(rows)
    return Pass(ablation=Ablation.build(off, model.heads, base.replacement.values, rows))


def switch_off(
    model: Model,
    base: BaseRun,
    sets: Sequence[Sequence[Part]],
    replacement: Replacement = ZEROS,
    *,
    targets: Tensor | None = None,
    advance: Advance | None = None,
) -> TokenLosses:
    """Losses of every sequence under every set of heads, MLPs and layers switched off.

    Args:
        model: the model.
        base: the run that they are compared with; streams that are missing are added to it, and
            what is off in it stays off.
        sets: the sets of heads, ("mlp", layer) and ("layer", layer); an empty one gives the
            losses of `base`.
        replacement: what becomes of them.
        targets: physical positions of the target tokens; None for those of `base`.
        advance: called with the number of rows done, sets * sequences in all.

    Returns:
        losses of shape (sets, sequences, targets).

    Raises:
        NotMeasurable: the model has no heads, or its attention cannot be changed in this way.
        ModelError: a pass fails, or an ablation did not act.
    """
    parts = [split_parts(some) for some in sets]
    if any(heads for heads, _ in parts):
        model.require_heads()
    require_support(model, replacement)
    if any(components for _, components in parts):
        for _, layer in (one for _, some in parts for one in some):
            if not 0 <= layer < model.layers:
                raise MeasurementError(f"the model has no layer {layer}; it has {model.layers}")
        # Found now, not in the middle of a pass that starts above the first layer.
        model.anatomy.require_mlps(
            sorted({layer for _, some in parts for kind, layer in some if kind == "mlp"})
        )
    wanted = base.targets if targets is None else targets
    count = len(base.input_ids)
    if count > 1 and _layers_that_fit(model, base.input_ids) == 0:
        # Not even one layer's stream of all sequences: some sequences at a time.
        halves = [base.part(0, count // 2), base.part(count // 2, count)]
        found = [
            switch_off(model, half, sets, replacement, targets=wanted, advance=advance)
            for half in halves
        ]
        return TokenLosses(
            torch.cat([half.nll for half in found], 1),
            torch.cat([half.correct for half in found], 1),
        )
    shape = (len(sets), count, len(wanted))
    nll, correct = torch.empty(shape), torch.empty(shape, dtype=torch.bool)

    if base.off and (replacement.frozen or replacement.edges is not None):
        raise ValueError("patterns and edges are those of a clean run: nothing may be off in it")
    groups: dict[int, list[int]] = {}
    for place, heads in enumerate(sets):
        added = [layer_of(part) for part in heads if part not in base.off]
        groups.setdefault(min(added, default=-1), []).append(place)
    if -1 in groups:
        places = torch.tensor(groups.pop(-1))
        position = {int(target): index for index, target in enumerate(base.targets)}
        columns = torch.tensor([position[int(target)] for target in wanted])
        nll[places], correct[places] = (
            base.losses.nll[:, columns],
            base.losses.correct[:, columns],
        )
        if advance:
            advance(len(places) * count)
    check_resumes(model, groups)
    for layer in sorted(groups):
        stream = _stream_into(model, base, layer, [one for one in sorted(groups) if one > layer])
        chosen = [sets[place] for place in groups[layer]]
        part = _run_group(model, base, wanted, chosen, replacement, stream, advance)
        places = torch.tensor(groups[layer])
        nll[places] = part.nll.reshape(len(places), *shape[1:])
        correct[places] = part.correct.reshape(len(places), *shape[1:])
    return TokenLosses(nll, correct)


def require_support(model: Model, replacement: Replacement) -> None:
    """Raise NotMeasurable when the model's attention path cannot do what a replacement asks."""
    if replacement.frozen and not model.through_interface:
        raise NotMeasurable(
            "patterns cannot be frozen: this family does not hand its queries and keys out "
            "(attention: eager, by hooks)"
        )
    if replacement.edges is not None and model.attention not in ("fused", "chunked"):
        raise NotMeasurable(
            "single edges cannot be removed: this family's attention runs in its own code "
            f"(attention: {model.attention})"
        )


def _run_group(
    model: Model,
    base: BaseRun,
    targets: Tensor,
    sets: Sequence[Sequence[Part]],
    replacement: Replacement,
    stream: Stream | None,
    advance: Advance | None,
) -> TokenLosses:
    """Losses of (sets * sequences) rows, set by set, starting at `stream` where there is one."""
    input_ids = base.input_ids
    count, length = input_ids.shape
    parts: list[TokenLosses] = []

    def work(start: int, stop: int) -> None:
        index = torch.arange(start, stop)
        rows, off = index % count, [(*base.off, *sets[i]) for i in (index // count).tolist()]
        clean_rows = None
        if replacement.frozen:
            # The clean run of the same sequences goes along in the same batch.
            present, place = rows.unique(return_inverse=True)
            clean_rows = torch.cat([len(rows) + place, len(rows) + torch.arange(len(present))])
            rows, off = torch.cat([rows, present]), [*off, *[()] * len(present)]
        parted = [split_parts(some) for some in off]
        heads, components = [some for some, _ in parted], [some for _, some in parted]
        work = Pass(clean_rows=clean_rows)
        if replacement.edges is not None:
            work.knockout = Knockout(mark_heads(heads, model.heads), replacement.edges)
        else:
            ablation = Ablation.build(heads, model.heads, replacement.values, rows + base.offset)
            work.ablation = ablation if stream is None else ablation.since(stream.layer)
        others = ComponentAblation.build(components, replacement.contributions)
        with ExitStack() as stack:
            if stream is not None:
                stack.enter_context(resume(model.runner, stream, rows))
            if others.named:
                stack.enter_context(switched_off(model.anatomy, others))
            logits = model.run_pass(input_ids[rows], work, targets - 1)
        if others.missed:
            raise ModelError(f"the ablation of {list_names(others.missed)} did not act")
        assert logits is not None
        wanted = input_ids[rows[: stop - start]][:, targets]
        parts.append(score_targets(logits[: stop - start], wanted))

    shape = (len(sets) * count, length)
    run_in_batches(shape, model.limit, work, targets=len(targets), advance=advance)
    return join_losses(parts)


def _stream_into(model: Model, base: BaseRun, layer: int, later: Sequence[int]) -> Stream | None:
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
        room = _layers_that_fit(model, base.input_ids)
        if room == 0:
            return None
        if len(base.streams) + 1 > room:
            base.streams.clear()
        wanted = [one for one in (layer, *later) if one not in base.streams]
        wanted = wanted[: room - len(base.streams)]
        captured: list[dict[int, Stream]] = []

        def work(start: int, stop: int) -> None:
            capture = Capture(wanted, stop=True)
            work = _base_pass(model, base, start, stop)
            if work.ablation is not None:
                # Layers from the highest wanted one on are never reached.
                work.ablation = work.ablation.below(wanted[-1])
            with capture.watching(model.runner):
                model.run_pass(base.input_ids[start:stop], work, None, logits=False)
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


def _layers_that_fit(model: Model, input_ids: Tensor) -> int:
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
        full = model.run_pass(ids, Pass(), keep)
    assert full is not None
    for layer in unknown:
        stream = capture.streams.get(layer)
        model.resumes[layer] = False
        if stream is None:
            continue
        try:
            with resume(model.runner, stream, rows):
                short = model.run_pass(ids[rows], Pass(), keep)
        except (RuntimeError, TypeError, ValueError, IndexError, AttributeError, KeyError):
            # A family whose layers want more from those below than the residual stream.
            continue
        assert short is not None
        model.resumes[layer] = same_logits(full[rows], short)


def digest_run(input_ids: Tensor, targets: Tensor) -> str:
    """Return a key that two clean runs share only when they are the same."""
    digest = hashlib.sha256()
    for tensor in (input_ids, targets):
        digest.update(f"{tuple(tensor.shape)}".encode())
        digest.update(tensor.cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()
