"""The smallest set of heads that keeps most of the gain: backward elimination."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

    from icl_bench.models.attention.ablation import Replacement
    from icl_bench.models.clean_run import BaseRun
    from icl_bench.models.model import Model
    from icl_bench.probes.design.context import Advance

Head = tuple[int, int]

BATCH = 0.3
"""Share of the remaining heads that one round tries to switch off."""


@dataclass
class Elimination:
    """In which order heads were switched off, and what was left.

    Args:
        kept: the heads that are needed, most needed first.
        removed: the others, in the order in which they were switched off: least needed first.
        effects: rise of the loss on repeats for each head switched off alone, nats.
    """

    kept: list[Head]
    removed: list[Head]
    effects: dict[Head, float]

    @property
    def order(self) -> list[Head]:
        """Every head, most needed first."""
        return [*self.kept, *reversed(self.removed)]


def eliminate(
    model: Model,
    base: BaseRun,
    limit: float,
    replacement: Replacement,
    advance: Advance | None = None,
) -> Elimination:
    """Switch heads off, least needed first, for as long as the loss stays within a limit.

    Each round measures the effect of every remaining head beside those that are off already, and
    switches the least needed ones off together; a batch that costs too much is halved. The set
    that is left is one from which no head can be taken; a smaller one of another make-up may
    exist, for which all sets would have to be tried.

    Args:
        model: the model.
        base: the clean run on the sequences to choose on.
        limit: largest mean loss of the targets, nats.
        replacement: what becomes of heads that are off.
        advance: called with the number of heads switched off.
    """
    from icl_bench.models.circuits.interventions import switch_off
    from icl_bench.models.clean_run import HeadsOff, run_base_without

    kept, removed = model.every_head, list[Head]()
    effects: dict[Head, float] = {}
    share = BATCH
    ranked: list[Head] = []
    while kept:
        sets = [(head,) for head in kept]
        losses = switch_off(model, base, sets, replacement).nll.double().mean(dim=(1, 2))
        rise = dict(zip(kept, (losses - base.losses.nll.double().mean()).tolist()))
        effects = effects or rise
        ranked = sorted(kept, key=rise.__getitem__)
        batch = max(1, int(share * len(kept)))
        while batch:
            off = HeadsOff([*removed, *ranked[:batch]], replacement)
            every = range(model.layers)
            trial = run_base_without(model, base.input_ids, base.targets, off, every)
            if float(trial.losses.nll.double().mean()) <= limit:
                break
            batch //= 2
        if not batch:
            break
        removed += ranked[:batch]
        gone = set(ranked[:batch])
        share = min(BATCH, 2 * batch / len(kept))
        kept = [head for head in kept if head not in gone]
        base, ranked = trial, [head for head in ranked if head not in gone]
        if advance:
            advance(batch)
    return Elimination(ranked[::-1], removed, effects)


def keep_only(
    model: Model,
    input_ids: Tensor,
    targets: Tensor,
    order: Sequence[Head],
    size: int,
    replacement: Replacement,
) -> BaseRun:
    """Run sequences with every head off but the first `size` of an order.

    Args:
        model: the model.
        input_ids: (sequences, length).
        targets: physical positions of the target tokens.
        order: every head, the ones to keep first.
        size: how many are kept.
        replacement: what becomes of the others.
    """
    from icl_bench.models.clean_run import HeadsOff, run_base_without

    off = HeadsOff(order[size:], replacement)
    return run_base_without(model, input_ids, targets, off)
