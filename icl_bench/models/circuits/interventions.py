"""Losses with heads, MLPs or layers off: many sets on the same sequences, sharing what they can.

Sets are grouped by their earliest layer. What enters that layer is computed once, in the clean
run, and every set of the group starts there; many sets share one forward pass, because an
ablation is per row of the batch.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
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
from icl_bench.models.module.losses import TokenLosses, join_losses, score_targets

if TYPE_CHECKING:
    from icl_bench.models.model import Model

Take = Callable[[Tensor, Tensor, Tensor], None]
"""Gets each row's set and sequence, by number, and the rows' logits, (rows, targets, ids)."""


@dataclass(frozen=True)
class Interventions:
    """Sets of heads, MLPs and layers to switch off, each on every sequence of one run.

    Args:
        base: the run that they start from; streams that are missing are added to it, and what is
            off in it stays off.
        sets: heads, ("mlp", layer) and ("layer", layer); an empty set is the run of `base` itself.
        replacement: what becomes of the parts that are off.
    """

    base: BaseRun
    sets: Sequence[Sequence[Part]]
    replacement: Replacement = ZEROS

    def group(self) -> dict[int, list[int]]:
        """Return earliest layer -> numbers of the sets that change nothing below it.

        A set that adds nothing to what is off in `base` stands under -1.
        """
        groups: dict[int, list[int]] = {}
        for number, parts in enumerate(self.sets):
            added = [layer_of(part) for part in parts if part not in self.base.off.heads]
            groups.setdefault(min(added, default=-1), []).append(number)
        return groups


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
        base: the run that they are compared with, as in `Interventions`.
        sets: what is off, as there.
        replacement: what becomes of it.
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
    interventions = Interventions(base, sets, replacement)
    _check_parts(model, interventions)
    wanted = base.targets if targets is None else targets
    count = len(base.input_ids)
    if count > 1 and layers_that_fit(model, base.input_ids) == 0:
        # Not even one layer's stream of all sequences: some sequences at a time.
        halves = [
            switch_off(model, half, sets, replacement, targets=wanted, advance=advance)
            for half in (base.part(0, count // 2), base.part(count // 2, count))
        ]
        return join_losses(halves, 1)
    shape = (len(sets), *base.wanted(torch.arange(count), wanted).shape)
    nll, correct = torch.empty(shape), torch.empty(shape, dtype=torch.bool)
    groups = interventions.group()
    if -1 in groups:
        same, columns = torch.tensor(groups.pop(-1)), base.columns(wanted)
        nll[same], correct[same] = base.losses.nll[:, columns], base.losses.correct[:, columns]
        if advance:
            advance(len(same) * count)

    def take(numbers: Tensor, rows: Tensor, logits: Tensor) -> None:
        part = score_targets(logits, base.wanted(rows, wanted))
        nll[numbers, rows], correct[numbers, rows] = part.nll, part.correct

    run_groups(model, interventions, groups, wanted, take, advance)
    return TokenLosses(nll, correct)


def _check_parts(model: Model, interventions: Interventions) -> None:
    """Find out now, not in the middle of a pass, whether all of this can be switched off."""
    base, replacement = interventions.base, interventions.replacement
    heads, components = split_parts(part for parts in interventions.sets for part in parts)
    if heads:
        model.require_heads()
    require_support(model, replacement)
    for _, layer in components:
        if not 0 <= layer < model.layers:
            raise MeasurementError(f"the model has no layer {layer}; it has {model.layers}")
    if components:
        model.anatomy.require_mlps(sorted({layer for kind, layer in components if kind == "mlp"}))
    if replacement.at is not None and (replacement.edges or components):
        raise ValueError("one position is for the outputs of heads, not for edges, MLPs or layers")
    if base.off.heads and (replacement.frozen or replacement.edges is not None):
        raise ValueError("patterns and edges are those of a clean run: nothing may be off in it")


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


def run_groups(
    model: Model,
    interventions: Interventions,
    groups: Mapping[int, Sequence[int]],
    targets: Tensor,
    take: Take,
    advance: Advance | None = None,
) -> None:
    """Run every sequence under sets of parts that are off, each group from its earliest layer.

    Args:
        model: the model.
        interventions: the sets, and what they start from.
        groups: earliest layer -> numbers of its sets, as `Interventions.group` returns them.
        targets: physical positions of the tokens whose logits are wanted.
        take: called with each batch.
        advance: called with the number of rows done.
    """
    check_resumes(model, groups)
    base = interventions.base
    count, length = base.input_ids.shape
    for layer in sorted(groups):
        later = [other for other in sorted(groups) if other > layer]
        stream = stream_into(model, base, layer, later)
        group = _Group(model, interventions, torch.tensor(groups[layer]), stream)

        def work(start: int, stop: int, group: _Group = group) -> None:
            numbers, rows, logits = group.run(torch.arange(start, stop), targets - 1)
            take(numbers, rows, logits)

        shape = (len(groups[layer]) * count, length)
        run_in_batches(shape, model.limit, work, targets=len(targets), advance=advance)


@dataclass(frozen=True)
class _Group:
    """Those of the sets that change nothing below one layer, by number.

    Passes start at `stream`, where there is one. There are (sets * sequences) rows, set by set.
    """

    model: Model
    interventions: Interventions
    numbers: Tensor
    stream: Stream | None

    def run(self, index: Tensor, keep: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Run some rows; return each one's set and sequence, by number, and logits at `keep`."""
        base, stream, how = self.interventions.base, self.stream, self.interventions.replacement
        count = len(base.input_ids)
        rows, numbers = index % count, self.numbers[index // count]
        off = [(*base.off.heads, *self.interventions.sets[number]) for number in numbers.tolist()]
        hooks = ForwardHooks()
        if how.frozen:
            # The clean run of the same sequences goes along in the same batch.
            present, which = rows.unique(return_inverse=True)
            hooks.clean_rows = len(rows) + torch.cat([which, torch.arange(len(present))])
            rows, off = torch.cat([rows, present]), [*off, *[()] * len(present)]
        parts = [split_parts(some) for some in off]
        marked = mark_heads([heads for heads, _ in parts], self.model.heads)
        if how.edges is not None:
            hooks.knockout = Knockout(marked, how.edges.of(rows + base.offset))
        else:
            ablation = Ablation(marked, how.values, rows + base.offset, how.at)
            hooks.ablation = ablation if stream is None else ablation.since(stream.layer)
        others = ComponentAblation.build([others for _, others in parts], how.contributions)
        with ExitStack() as stack:
            if stream is not None:
                stack.enter_context(resume(self.model.runner, stream, rows))
            if others.named:
                stack.enter_context(switched_off(self.model.anatomy, others))
            logits = self.model.run_pass(base.input_ids[rows], hooks, keep)
        if others.missed:
            raise ModelError(f"the ablation of {list_names(others.missed)} did not act")
        assert logits is not None
        # Rows of the clean run that went along are nobody's.
        return numbers, rows[: len(index)], logits[: len(index)]
