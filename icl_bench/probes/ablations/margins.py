"""How much more the chosen heads do than each of some other sets, on growing data.

The claim is about these sets alone. With an interval for every set, all of them clear of 0 say so
without a correction for their number (intersection-union test, Berger 1982); a largest damage of
each sequence, or a rank among sets that may hold the chosen heads, finds one causal head of few
seldom or never. Two looks at growing data halve the error of each; a set that is decided at the
first is not measured again.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from icl_bench.measures.bounds import CONFIDENCE
from icl_bench.measures.intervals import error_bounds
from icl_bench.measures.sequential import look_confidence
from icl_bench.records.parts import Metric

Rises = Callable[[list[int], int, int], np.ndarray]
"""(numbers of sets, first sequence, the one after the last) -> nats, (sets, sequences)."""

FIRST_LOOK = 6
"""Sequences of the first look."""


@dataclass
class SetMargin:
    """How much more the chosen heads do than one other set, on more and more sequences.

    Args:
        margins: of each sequence, as a share of the gain.
    """

    margins: np.ndarray = field(default_factory=lambda: np.empty(0))

    @property
    def value(self) -> float:
        """Mean margin."""
        return float(self.margins.mean())

    def low(self, confidence: float) -> float | None:
        """Return the lower end of its interval; None of a single sequence."""
        if len(self.margins) == 1:
            return None
        return self.value - float(error_bounds(self.margins, confidence)[0])

    def high(self, confidence: float) -> float | None:
        """Return the upper end of its interval; None of a single sequence."""
        if len(self.margins) == 1:
            return None
        return self.value + float(error_bounds(self.margins, confidence)[1])


@dataclass(frozen=True)
class Margins:
    """Margins over several sets.

    Args:
        sets: one for each set.
        low_confidence: of a set's lower end, all of which must be clear of 0.
        high_confidence: of its upper end, corrected for the number of sets.
    """

    sets: list[SetMargin]
    low_confidence: float
    high_confidence: float

    def metric(self) -> Metric:
        """Return the smallest margin with the smallest ends; the interval holds at 95%."""
        worst = min(self.sets, key=lambda one: one.value)
        lows = [one.low(self.low_confidence) for one in self.sets]
        highs = [one.high(self.high_confidence) for one in self.sets]
        n = len(worst.margins)
        if None in lows or None in highs:
            return Metric(value=worst.value, n=n)
        stderr = float(worst.margins.std(ddof=1)) / n**0.5
        low, high = (min(end for end in ends if end is not None) for ends in (lows, highs))
        low, high = min(low, worst.value), max(high, worst.value)
        return Metric(value=worst.value, stderr=stderr, ci_low=low, ci_high=high, n=n)


def measure_margins(chosen: np.ndarray, gain: float, count: int, rises: Rises) -> Margins:
    """Compare the damage of the chosen heads with that of each of some sets.

    margin_j = mean_s((rise_chosen,s - rise_j,s) / gain); a set whose lower end is above 0 at the
    first look stays as it is, and a smallest upper end below 0 ends the comparison.

    Args:
        chosen: rise of the loss with the chosen heads off, nats, shape (sequences,).
        gain: mean gain of the clean model, nats, above 0.
        count: number of sets.
        rises: measures those of sets.
    """
    most = len(chosen)
    looks = [FIRST_LOOK, most] if most > FIRST_LOOK else [most]
    low, high = look_confidence(len(looks)), 1 - (1 - CONFIDENCE) / count / len(looks)
    margins = Margins([SetMargin() for _ in range(count)], low, high)
    undecided, done = list(range(count)), 0
    for look in looks:
        found = (chosen[done:look] - rises(undecided, done, look)) / gain
        for number, more in zip(undecided, found):
            one = margins.sets[number]
            one.margins = np.concatenate([one.margins, more])
        done = look
        ends = [margins.sets[number].high(high) for number in undecided]
        if any(end is not None and end < 0 for end in ends):
            break
        lows = {number: margins.sets[number].low(low) for number in undecided}
        undecided = [number for number, end in lows.items() if end is None or end <= 0]
        if not undecided:
            break
    return margins
