"""Bounds on what a full measurement would give, from a cheap one and some full ones.

Many quantities are measured cheaply, a random few of them (the pilots) in full as well. The
pilots' errors, relative to the size of the cheap value, bound the errors of the others: the
largest of P such errors is exceeded by a further quantity with probability 1/(P+1) at most,
whatever the errors' distribution and however biased the cheap measurement is. Source: split
conformal prediction, Lei et al. 2018, "Distribution-free predictive inference for regression".
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from icl_bench.measures.draws import Draws

PILOTS = 19
"""Quantities measured both ways: the largest of their errors bounds 95% of the others."""


def draw_pilots(count: int, seed: int) -> list[int]:
    """Return which of `count` quantities are measured both ways: `PILOTS` of them, at random.

    Raises:
        ValueError: there are fewer than that.
    """
    return sorted(Draws(seed, "pilots").sample(count, PILOTS))


def fit_bounds(
    cheap: np.ndarray, full: np.ndarray, typical: float, caution: float = 1.0
) -> Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]:
    """Return what turns cheap values into lower and upper bounds of the full ones.

    Args:
        cheap: the pilots' cheap values, shape (pilots,).
        full: their full values, shape (pilots,).
        typical: size of a usual value; errors are compared with the value's own size plus this.
        caution: factor by which the bounds are wider than the pilots' largest error.

    Returns:
        a function from cheap values (quantities,) to bounds of that shape; with a caution of 1
        each holds for a quantity that is no pilot with probability 1 - 1/(pilots + 1) over the
        choice of pilots.
    """
    least = max(typical, float(np.finfo(np.float64).tiny))
    worst = caution * float((np.abs(full - cheap) / (np.abs(cheap) + least)).max())

    def bound(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        half = worst * (np.abs(values) + least)
        return values - half, values + half

    return bound
