"""Successive elimination: find the largest of many means with few samples for most of them.

All contenders are measured on one sequence, those that may still be among the largest on more,
until nobody is undecided or every sequence is used. The means in question are those over the
given sequences, so a contender measured on all of them is known exactly. Source: Even-Dar,
Mannor & Mansour 2006 (action elimination), with intervals for sampling without replacement.
"""

from __future__ import annotations

import math

import numpy as np
from scipy import stats

ALPHA = 0.05
"""Chance that any interval of any look misses its mean."""
DESIGN_EFFECT = 2.0
"""How many times the variance of a sequence's mean is larger than for independent targets, as
long as too few sequences have been seen to estimate it."""
SETTLED = 20
"""Contenders with two sequences or more that an estimate of the design effect needs."""


class Race:
    """Means of contenders over sequences, each sequence with many targets.

    Args:
        contenders: how many there are.
        sequences: how many sequences there are.
        top: how many of the largest means are looked for.
    """

    def __init__(self, contenders: int, sequences: int, top: int) -> None:
        self.sequences, self.top = sequences, min(top, contenders)
        self.means = np.full((contenders, sequences), np.nan)
        self.variances = np.full((contenders, sequences), np.nan)
        self.racing = np.ones(contenders, dtype=bool)
        self.targets = 1
        self.looks = [1]
        while self.looks[-1] < sequences:
            self.looks.append(min(sequences, 2 * self.looks[-1]))

    def add(self, who: np.ndarray, start: int, effects: np.ndarray) -> None:
        """Take in effects on sequences start, start + 1, ...

        Args:
            who: indices of the contenders, shape (some,).
            start: the first sequence.
            effects: one value per target, shape (some, sequences, targets).
        """
        columns = slice(start, start + effects.shape[1])
        self.targets = effects.shape[2]
        self.means[who, columns] = effects.mean(axis=2)
        if self.targets > 1:
            self.variances[who, columns] = effects.var(axis=2, ddof=1)

    @property
    def counts(self) -> np.ndarray:
        """Sequences that each contender has been measured on."""
        return np.isfinite(self.means).sum(axis=1)

    @property
    def estimates(self) -> np.ndarray:
        """Mean effect of each contender over its sequences."""
        return np.nanmean(self.means, axis=1)

    def design_effect(self) -> float:
        """Variance between sequences, over what independent targets would give.

        Pooled over contenders with at least two sequences; targets of one sequence share their
        context, so it is usually above 1.
        """
        several = self.counts >= 2
        if several.sum() < SETTLED:
            return DESIGN_EFFECT
        between = np.nanvar(self.means[several], axis=1, ddof=1)
        within = np.nanmean(self.variances[several], axis=1) / self.targets
        seen = within > 0
        if not seen.any():
            return 1.0
        return max(1.0, float(np.median(between[seen] / within[seen])) / _MEDIAN_OF_RATIO)

    def intervals(self) -> tuple[np.ndarray, np.ndarray]:
        """Bounds of every contender's mean over all sequences, that hold all at once.

        Bonferroni over contenders and looks; a contender with every sequence has no width. With
        one target per sequence nothing is known of the spread, and the bounds are infinite.
        """
        counts, estimates = self.counts, self.estimates
        comparisons = len(estimates) * len(self.looks)
        half = np.full(len(estimates), np.inf)
        if self.targets > 1:
            spread = np.nanmean(self.variances, axis=1) * self.design_effect()
            samples = counts * self.targets
            quantile = stats.t.ppf(1 - ALPHA / 2 / comparisons, samples - 1)
            unseen = 1 - counts / self.sequences
            half = quantile * np.sqrt(spread / samples * unseen)
        half[counts == self.sequences] = 0
        return estimates - half, estimates + half

    def eliminate(self) -> np.ndarray:
        """Drop who cannot be among the `top` any more; return indices of who needs more."""
        low, high = self.intervals()
        bound = np.sort(low)[-self.top]
        self.racing &= high >= bound
        return np.flatnonzero(self.racing & (self.counts < self.sequences))


_MEDIAN_OF_RATIO = math.sqrt(0.5)
