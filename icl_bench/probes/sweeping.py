"""The effect of every head on its own, on all sequences or on as few as decide."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from icl_bench.measures.race import Race

if TYPE_CHECKING:
    from icl_bench.models.ablation import Replacement
    from icl_bench.models.baserun import BaseRun
    from icl_bench.models.model import Model
    from icl_bench.probes.context import Advance

Head = tuple[int, int]


@dataclass
class Sweep:
    """What switching each head off does to the loss on repeats.

    Args:
        heads: the heads, in order.
        clean: clean loss of every sequence, nats, shape (sequences,).
        deltas: rise of the loss, nats, shape (heads, sequences); NaN where it was not measured.
        low: lower bound of a head's mean rise over all these sequences, shape (heads,).
        high: its upper bound; equal to `low` for a head measured on every sequence. All bounds
            hold at once with 95% confidence.
    """

    heads: list[Head]
    clean: np.ndarray
    deltas: np.ndarray
    low: np.ndarray
    high: np.ndarray

    @property
    def means(self) -> np.ndarray:
        """Mean rise of the loss over the sequences that a head was measured on, (heads,)."""
        return np.nanmean(self.deltas, axis=1)

    @property
    def losses(self) -> np.ndarray:
        """Mean loss with the head off, over all sequences, (heads,)."""
        return self.clean.mean() + self.means

    @property
    def counts(self) -> np.ndarray:
        """Sequences that each head was measured on, (heads,)."""
        return np.isfinite(self.deltas).sum(axis=1)

    @property
    def stderrs(self) -> np.ndarray:
        """Standard error of the mean over random sequences; NaN for one sequence, (heads,)."""
        found = np.full(len(self.heads), np.nan)
        several = self.counts > 1
        if several.any():
            spread = np.nanstd(self.deltas[several], axis=1, ddof=1)
            found[several] = spread / np.sqrt(self.counts[several])
        return found

    def order(self) -> list[int]:
        """Indices of the heads, largest mean rise first, heads measured everywhere before others.

        A head that was dropped is below those that were not, whatever its few sequences say.
        """
        full = self.counts == self.deltas.shape[1]
        return sorted(range(len(self.heads)), key=lambda i: (not full[i], -self.means[i]))


def sweep_exactly(
    model: Model, base: BaseRun, replacement: Replacement, advance: Advance | None = None
) -> Sweep:
    """Switch off every head on its own on every sequence.

    Args:
        model: the model.
        base: the clean run, with the targets that count.
        replacement: what becomes of a head.
        advance: called with the number of rows done, heads * sequences in all.
    """
    from icl_bench.models.interventions import switch_off

    heads = model.every_head
    off = switch_off(model, base, [(head,) for head in heads], replacement, advance=advance)
    clean = base.losses.nll.double().numpy()
    deltas = (off.nll.double().numpy() - clean).mean(axis=2)
    means = deltas.mean(axis=1)
    return Sweep(heads, clean.mean(axis=1), deltas, means, means)


def sweep_adaptively(
    model: Model,
    base: BaseRun,
    replacement: Replacement,
    top: int,
    advance: Advance | None = None,
) -> Sweep:
    """Find the heads with the largest effect, measuring most others on few sequences.

    Args:
        model: the model.
        base: the clean run, with the targets that count.
        replacement: what becomes of a head.
        top: how many heads with the largest rise are looked for.
        advance: called with the number of rows done; heads * sequences at most.

    Returns:
        the sweep; the `top` heads with the largest rise are measured on every sequence.
    """
    heads, sequences = model.every_head, len(base.input_ids)
    race = Race(len(heads), sequences, top)
    who, done = np.arange(len(heads)), 0
    for look in race.looks:
        effects = _measure_part(model, base, replacement, [heads[i] for i in who], done, look)
        race.add(who, done, effects)
        if advance:
            advance(len(who) * (look - done))
        done = look
        who = race.eliminate()
        if not len(who):
            break
    low, high = race.intervals()
    clean = base.losses.nll.double().numpy().mean(axis=1)
    return Sweep(heads, clean, race.means, low, high)


def _measure_part(
    model: Model,
    base: BaseRun,
    replacement: Replacement,
    heads: Sequence[Head],
    start: int,
    stop: int,
) -> np.ndarray:
    """Effects of heads on sequences start..stop-1, (heads, sequences, targets), nats."""
    from icl_bench.models.interventions import switch_off

    part = base.part(start, stop)
    off = switch_off(model, part, [(head,) for head in heads], replacement)
    return off.nll.double().numpy() - part.losses.nll.double().numpy()
