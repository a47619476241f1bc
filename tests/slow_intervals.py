"""Intervals computed slowly: scipy's t, and root finders for Hall's transform and the unseen."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from scipy import stats
from scipy.optimize import brentq

Ends = tuple[float, float]


def reach(
    values: Sequence[float], confidence: float = 0.95, bounds: Ends | None = None
) -> tuple[float, float]:
    """How far an interval reaches below and above the mean of values.

    Args:
        values: two or more.
        confidence: of the interval.
        bounds: lowest and highest value that there can be, if any.
    """
    n, mean, stderr = len(values), float(np.mean(values)), float(stats.sem(values))
    tail = 1 - confidence
    below = above = stats.t.ppf(1 - tail / 2, n - 1) * stderr
    if stderr > 1e-12:
        # Two values lie alike around their mean.
        a = stats.skew(values, bias=False) / math.sqrt(n) if n > 2 else 0.0

        def undo(quantile: float) -> float:
            return float(
                brentq(lambda t: t + a / 3 * t**2 + a**2 / 27 * t**3 + a / 6 - quantile, -1e5, 1e5)
            )

        quantile = stats.t.ppf(1 - 0.4 * tail, n - 1)
        below = max(below, stderr * undo(quantile))
        above = max(above, -stderr * undo(-quantile))
    if bounds is not None:
        # The share of a population that none of n samples is from with probability tail / 2.
        unseen = brentq(lambda share: stats.binom.pmf(0, n, share) - tail / 2, 0, 1)
        below = max(below, unseen * (mean - bounds[0]))
        above = max(above, unseen * (bounds[1] - mean))
    return float(below), float(above)


def ends(
    values: Sequence[float], confidence: float = 0.95, bounds: Ends | None = None
) -> tuple[float, float]:
    """Both ends of the interval of the mean, cut off at the bounds; arguments as for `reach`."""
    below, above = reach(values, confidence, bounds)
    low, high = float(np.mean(values)) - below, float(np.mean(values)) + above
    if bounds is None:
        return low, high
    if bounds == (0, 1) and set(np.asarray(values).tolist()) <= {0.0, 1.0}:
        exact = stats.binomtest(int(np.sum(values)), len(values)).proportion_ci(confidence)
        return float(exact.low), float(exact.high)
    return max(low, bounds[0]), min(high, bounds[1])
