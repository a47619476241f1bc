"""Losses with heads, MLPs or layers off: many sets on the same sequences, sharing what they can.

Sets are grouped by their earliest layer. What enters that layer is computed once, in the clean
run, and every set of the group starts there; many sets share one forward pass, because an
ablation is per row of the batch.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from icl_bench.errors import MeasurementError, ModelError, NotMeasurable
from icl_bench.models.attention.ablation import (
    ZEROS,
    Ablation,
    Part,
    Replacement,
    layer_of,
    mark_heads,
    split_parts,
)
from icl_bench.models.attention.forward_hooks import ForwardHooks
from icl_bench.models.attention.knockout import Knockout
from icl_bench.models.attention.prefix import Stream, resume
from icl_bench.models.circuits.components import ComponentAblation, list_names, switched_off
from icl_bench.models.clean_run import BaseRun, check_resumes, layers_that_fit, stream_into
from icl_bench.models.module.batching import Advance, run_in_batches
from icl_bench.models.module.losses import TokenLosses, score_targets

if TYPE_CHECKING:
    from icl_bench.models.model import Model

Take = Callable[[Tensor, Tensor, Tensor], None]
"""Gets each row's set and sequence, by number, and the rows' logits, (rows, targets, ids)."""


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
        targets: physical positions of the target tokens; None for those of `base`, and among
            them where it has answers of its own.
        advance: called with the number of rows done, sets * sequences in all.

    Returns:
        losses of shape (sets, sequences, targets), or with a last dimension for the choices where
        `base` has several answers.

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
    if count > 1 and layers_that_fit(model, base.input_ids) == 0:
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
    shape = (len(sets), *base.wanted(torch.arange(count), wanted).shape)
    nll, correct = torch.empty(shape), torch.empty(shape, dtype=torch.bool)

    if replacement.at is not None and (replacement.edges or any(some for _, some in parts)):
        raise ValueError("one position is for the outputs of heads, not for edges, MLPs or layers")
    if base.off and (replacement.frozen or replacement.edges is not None):
        raise ValueError("patterns and edges are those of a clean run: nothing may be off in it")
    groups = group_sets(base, sets)
    if -1 in groups:
        places = torch.tensor(groups.pop(-1))
        columns = base.columns(wanted)
        nll[places], correct[places] = (
            base.losses.nll[:, columns],
            base.losses.correct[:, columns],
        )
        if advance:
            advance(len(places) * count)

    def take(places: Tensor, rows: Tensor, logits: Tensor) -> None:
        part = score_targets(logits, base.wanted(rows, wanted))
        nll[places, rows], correct[places, rows] = part.nll, part.correct

    run_groups(model, base, wanted, groups, sets, replacement, take, advance)
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


def group_sets(base: BaseRun, sets: Sequence[Sequence[Part]]) -> dict[int, list[int]]:
    """Return earliest layer -> numbers of the sets that change nothing below it.

    Args:
        base: the run that they start from.
        sets: what is off; a set that adds nothing to what is off in `base` stands under -1.
    """
    groups: dict[int, list[int]] = {}
    for place, parts in enumerate(sets):
        added = [layer_of(part) for part in parts if part not in base.off]
        groups.setdefault(min(added, default=-1), []).append(place)
    return groups


def run_groups(
    model: Model,
    base: BaseRun,
    targets: Tensor,
    groups: Mapping[int, Sequence[int]],
    sets: Sequence[Sequence[Part]],
    replacement: Replacement,
    take: Take,
    advance: Advance | None = None,
) -> None:
    """Run every sequence under sets of parts that are off, each group from its earliest layer.

    Args:
        model: the model.
        base: the run that they start from; streams that are missing are added to it.
        targets: physical positions of the tokens whose logits are wanted.
        groups: earliest layer -> numbers of its sets, as `group_sets` returns them.
        sets: what is off.
        replacement: what becomes of it.
        take: called with each batch.
        advance: called with the number of rows done.
    """
    check_resumes(model, groups)
    for layer in sorted(groups):
        stream = stream_into(model, base, layer, [one for one in sorted(groups) if one > layer])
        _run_group(model, base, targets, groups[layer], sets, replacement, stream, take, advance)


def _run_group(
    model: Model,
    base: BaseRun,
    targets: Tensor,
    places: Sequence[int],
    sets: Sequence[Sequence[Part]],
    replacement: Replacement,
    stream: Stream | None,
    take: Take,
    advance: Advance | None,
) -> None:
    """Run (places * sequences) rows, set by set, starting at `stream` where there is one."""
    input_ids = base.input_ids
    count, length = input_ids.shape
    numbers = torch.tensor(places)

    def work(start: int, stop: int) -> None:
        index = torch.arange(start, stop)
        rows, own = index % count, numbers[index // count]
        off = [(*base.off, *sets[place]) for place in own.tolist()]
        clean_rows = None
        if replacement.frozen:
            # The clean run of the same sequences goes along in the same batch.
            present, place = rows.unique(return_inverse=True)
            clean_rows = torch.cat([len(rows) + place, len(rows) + torch.arange(len(present))])
            rows, off = torch.cat([rows, present]), [*off, *[()] * len(present)]
        parted = [split_parts(some) for some in off]
        heads, components = [some for some, _ in parted], [some for _, some in parted]
        hooks = ForwardHooks(clean_rows=clean_rows)
        if replacement.edges is not None:
            hooks.knockout = Knockout(mark_heads(heads, model.heads), replacement.edges)
        else:
            ablation = Ablation.build(
                heads, model.heads, replacement.values, rows + base.offset, replacement.at
            )
            hooks.ablation = ablation if stream is None else ablation.since(stream.layer)
        others = ComponentAblation.build(components, replacement.contributions)
        with ExitStack() as stack:
            if stream is not None:
                stack.enter_context(resume(model.runner, stream, rows))
            if others.named:
                stack.enter_context(switched_off(model.anatomy, others))
            logits = model.run_pass(input_ids[rows], hooks, targets - 1)
        if others.missed:
            raise ModelError(f"the ablation of {list_names(others.missed)} did not act")
        assert logits is not None
        # Rows of the clean run that went along are nobody's.
        take(own, rows[: stop - start], logits[: stop - start])

    shape = (len(places) * count, length)
    run_in_batches(shape, model.limit, work, targets=len(targets), advance=advance)
