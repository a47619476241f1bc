"""The effect of every head on its own, on all tokens or on as few as decide."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from icl_bench.measures import screening

if TYPE_CHECKING:
    from icl_bench.measures.tokens import RepeatedTokens
    from icl_bench.models.attention.ablation import Replacement
    from icl_bench.models.clean_run import BaseRun
    from icl_bench.models.model import Model
    from icl_bench.probes.design.context import Advance

Head = tuple[int, int]

FIRST = 0.5
"""Share of the sequences that heads are screened on, and looked at more closely."""
SCREEN_PERIOD = 0.32
"""Share of a block's tokens that it is screened on."""
SHORTEST = 8
"""Tokens of a block that a screening needs: with fewer there is little to copy."""
WORTHWHILE = 3 * screening.PILOTS
"""Heads that a model has to have for a screening to save anything."""
GROUP = 16
"""Undecided heads that are taken a step further at once."""
CAUTION = 1.6
"""How much wider than the pilots' errors the bounds are that decide."""


@dataclass
class Sweep:
    """What switching each head off does to the loss on repeats.

    Args:
        heads: the heads, in order.
        clean: clean loss of every sequence, nats, shape (sequences,).
        deltas: rise of the loss, nats, shape (heads, sequences); NaN where a head was not
            measured at full length.
        screened: rise of the loss on the short sequences of the screening, nats, (heads,).
        low: lower bound of a head's mean rise over all the sequences, shape (heads,).
        high: its upper bound; equal to `low` for a head measured in full. Each holds for 95% of
            the other heads at least.
    """

    heads: list[Head]
    clean: np.ndarray
    deltas: np.ndarray
    screened: np.ndarray
    low: np.ndarray
    high: np.ndarray

    @property
    def full(self) -> np.ndarray:
        """Which heads were measured on every sequence, boolean, (heads,)."""
        return np.asarray(np.isfinite(self.deltas).all(axis=1))

    @property
    def counts(self) -> np.ndarray:
        """Sequences that each head was measured on at full length, (heads,)."""
        return np.asarray(np.isfinite(self.deltas).sum(axis=1))

    @property
    def means(self) -> np.ndarray:
        """Mean rise over the sequences measured; that of the screening where there is none."""
        totals = np.nansum(self.deltas, axis=1)
        return np.where(self.counts > 0, totals / np.maximum(self.counts, 1), self.screened)

    @property
    def losses(self) -> np.ndarray:
        """Mean clean loss plus the mean rise, (heads,)."""
        return np.asarray(self.clean.mean() + self.means)

    @property
    def stderrs(self) -> np.ndarray:
        """Standard error of the mean over random sequences; NaN where fewer than 2, (heads,)."""
        counts = self.counts
        spread = np.nan_to_num(self.deltas - self.means[:, None])
        variances = (spread**2).sum(axis=1) / np.maximum(counts - 1, 1) / np.maximum(counts, 1)
        return np.where(counts > 1, np.sqrt(variances), np.nan)

    def order(self) -> list[int]:
        """Indices of the heads, largest rise first, those measured in full before the others."""
        full, means = self.full, self.means
        return sorted(range(len(self.heads)), key=lambda i: (not full[i], -means[i]))


def sweep_exactly(
    model: Model,
    tokens: RepeatedTokens,
    replacement: Replacement,
    advance: Advance | None = None,
) -> Sweep:
    """Switch off every head on its own on every sequence.

    Args:
        model: the model.
        tokens: repeated sequences.
        replacement: what becomes of a head.
        advance: called with the number of rows done, heads * sequences in all.
    """
    base = _base(model, tokens)
    deltas = _measure(model, base, model.every_head, replacement, advance)
    means = deltas.mean(axis=1)
    return Sweep(model.every_head, _clean(base), deltas, means, means, means)


def sweep_adaptively(
    model: Model,
    tokens: RepeatedTokens,
    replacement: Replacement,
    top: int,
    seed: int = 0,
    advance: Advance | None = None,
) -> Sweep:
    """Find the heads with the largest effect, measuring most others on few tokens.

    Every head is screened on short sequences, cut from half of the given ones. A random few are
    measured in full as well, which bounds what the screening misses. Then the undecided go on,
    most promising first: a head whose upper bound reaches the effect of the last of the `top` is
    measured on the first half of the sequences, which gives a narrower bound, and, when that
    reaches it too, on the rest. Small models, and blocks too short to cut, are measured in full.

    Args:
        model: the model.
        tokens: repeated sequences.
        replacement: what becomes of a head.
        top: how many heads with the largest rise are looked for.
        seed: seed of the heads that are measured both ways.
        advance: called with the number of rows done; heads * sequences at most.
    """
    heads = model.every_head
    period = max(SHORTEST, round(SCREEN_PERIOD * tokens.period))
    if len(heads) < WORTHWHILE or top >= len(heads) or 2 * period > tokens.period:
        return sweep_exactly(model, tokens, replacement, advance)
    first = max(1, round(FIRST * len(tokens.input_ids)))
    short = _base(model, tokens.cut(first, period))
    screened = _measure(model, short, heads, replacement).mean(axis=1)
    closer = _Closer(model, _base(model, tokens), first, replacement, advance)
    low, high = _decide(closer, screened, top, screening.draw_pilots(len(heads), seed))
    if advance:
        advance(int(np.isnan(closer.deltas).sum()))
    return Sweep(heads, _clean(closer.base), closer.deltas, screened, low, high)


class _Closer:
    """Heads measured at full length: on the first sequences, then on the rest.

    Args:
        model: the model.
        base: the clean run.
        first: sequences of the first step.
        replacement: what becomes of a head.
        advance: called with the number of rows done.

    Attributes:
        deltas: rise of the loss, nats, (heads, sequences); NaN where not measured.
        steps: steps that each head has been measured in, (heads,).
        last: number of steps.
    """

    def __init__(
        self,
        model: Model,
        base: BaseRun,
        first: int,
        replacement: Replacement,
        advance: Advance | None,
    ) -> None:
        self.model, self.base, self.first = model, base, first
        self.replacement, self.advance = replacement, advance
        heads, count = len(model.every_head), len(base.input_ids)
        ends = sorted({0, first, count})
        self._parts = [(slice(i, j), base.part(i, j)) for i, j in zip(ends, ends[1:])]
        self.deltas = np.full((heads, count), np.nan)
        self.steps = np.zeros(heads, dtype=int)
        self.last = len(self._parts)

    def take_further(self, chosen: np.ndarray) -> None:
        """Measure heads, by number, in the step after those that they have been measured in."""
        heads = self.model.every_head
        for step, (rows, part) in enumerate(self._parts):
            own = chosen[self.steps[chosen] == step].tolist()
            if own:
                sets = [heads[i] for i in own]
                found = _measure(self.model, part, sets, self.replacement, self.advance)
                self.deltas[own, rows] = found
        self.steps[chosen] += 1

    def first_means(self, chosen: Sequence[int] | np.ndarray) -> np.ndarray:
        """Mean rise over the sequences of the first step, (heads,)."""
        return np.asarray(self.deltas[chosen, : self.first].mean(axis=1))


def _decide(
    closer: _Closer, screened: np.ndarray, top: int, pilots: list[int]
) -> tuple[np.ndarray, np.ndarray]:
    """Measure heads further, the most promising first, until the `top` largest are known.

    Args:
        closer: measures heads at full length.
        screened: rises of the screening, nats, (heads,).
        top: how many heads with the largest rise are looked for.
        pilots: heads measured in full, from which bounds are made.

    Returns:
        lower and upper bound of each head's mean rise, (heads,).
    """
    for _ in range(closer.last):
        closer.take_further(np.array(pilots))
    deltas = closer.deltas
    truth = deltas[pilots].mean(axis=1)
    typical = float(np.median(np.abs(screened)))
    low, high = screening.fit_bounds(screened[pilots], truth, typical, CAUTION)(screened)
    narrow = screening.fit_bounds(closer.first_means(pilots), truth, typical, CAUTION)
    while True:
        full = closer.steps == closer.last
        low[full] = high[full] = deltas[full].mean(axis=1)
        known = np.sort(low[full])
        bar = known[-top] if len(known) >= top else -np.inf
        undecided = [int(i) for i in np.argsort(-high) if not full[i] and high[i] >= bar]
        if not undecided:
            return low, high
        taken = np.array(undecided[:GROUP])
        closer.take_further(taken)
        begun = taken[closer.steps[taken] < closer.last]
        low[begun], high[begun] = narrow(closer.first_means(begun))


def _base(model: Model, tokens: RepeatedTokens) -> BaseRun:
    from icl_bench.measures.copying import repeated_targets
    from icl_bench.models.clean_run import run_base

    return run_base(model, tokens.input_ids, repeated_targets(tokens), range(model.layers))


def _clean(base: BaseRun) -> np.ndarray:
    return np.asarray(base.losses.nll.double().numpy().mean(axis=1))


def _measure(
    model: Model,
    base: BaseRun,
    heads: list[Head],
    replacement: Replacement,
    advance: Advance | None = None,
) -> np.ndarray:
    """Rise of the loss of each sequence with each head off, (heads, sequences), nats."""
    from icl_bench.models.circuits.interventions import switch_off

    off = switch_off(model, base, [(head,) for head in heads], replacement, advance=advance)
    rises = off.nll.double().numpy() - base.losses.nll.double().numpy()
    return np.asarray(rises.mean(axis=2))
