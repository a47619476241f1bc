"""Bounds on what a full measurement would give, from a cheap one and some full ones.

Many quantities are measured cheaply, a random few of them (the pilots) in full as well. The
pilots' errors, relative to the size of the cheap value, bound the errors of the others: the
largest of P such errors is exceeded by a further quantity with probability 1/(P+1) at most,
whatever the errors' distribution and however biased the cheap measurement is. Source: split
conformal prediction, Lei et al. 2018, "Distribution-free predictive inference for regression".
"""

from __future__ import annotations

from collections.abc import Sequence

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


def error_scale(cheap: np.ndarray) -> np.ndarray:
    """Return the size that errors are compared with: the value's own and the median's."""
    size = np.abs(cheap)
    return size + max(float(np.median(size)), np.finfo(np.float64).tiny)


def bound_values(
    cheap: np.ndarray, pilots: Sequence[int], full: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return lower and upper bounds of the full value of every quantity.

    Args:
        cheap: the cheap value of each quantity, shape (quantities,).
        pilots: which were measured in full too.
        full: their full values, shape (pilots,).

    Returns:
        bounds of shape (quantities,); each holds for a quantity that is no pilot with
        probability 1 - 1/(pilots + 1) over the choice of pilots.
    """
    scale = error_scale(cheap)
    chosen = np.asarray(pilots)
    worst = float((np.abs(full - cheap[chosen]) / scale[chosen]).max())
    return cheap - worst * scale, cheap + worst * scale
