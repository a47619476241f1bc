"""The value of the best head, free of the luck of having been chosen by it."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

TIE_WIDTH = math.sqrt(1.36)
"""How much more a cross-fitted maximum of equal heads varies than a single head's mean.

Each half's errors choose what the other half reads, so that both are wrong in the same direction.
With k equal heads and m the expected maximum of k standard normal values, the variance is
1 + m^2 / (k - 1) times as large: 1.32 for two, 1.36 for three, 1.35 for four, less for more.
"""


def cross_fitted_max(scores: np.ndarray) -> np.ndarray:
    """Per-sample value of the best head, chosen on the half that the sample is not in.

    Taking the maximum and its value from the same samples overstates it; here each half's
    samples read the head that the other half chose.

    Args:
        scores: shape (samples, heads).

    Returns:
        shape (samples,); with one sample, that sample's maximum.
    """
    return read_cross_fitted(scores, scores)


def read_cross_fitted(by: np.ndarray | Sequence[np.ndarray], values: np.ndarray) -> np.ndarray:
    """Per-sample value of the head that is best on the half that the sample is not in.

    Args:
        by: what heads are chosen by, shape (samples, heads); of several, a head counts for the
            smallest of its means.
        values: what is read of the chosen head, same shape.

    Returns:
        shape (samples,); with one sample, the value of that sample's best head.
    """
    scores = _listed(by)
    samples = len(values)

    def best(some: slice) -> int:
        return int(np.min([each[some].mean(axis=0) for each in scores], axis=0).argmax())

    if samples == 1:
        return values[:, best(slice(None))]
    half = samples // 2
    first, second = slice(None, half), slice(half, None)
    return np.concatenate([values[first, best(second)], values[second, best(first)]])


def tie_width(by: np.ndarray | Sequence[np.ndarray]) -> float:
    """By how much the interval of a cross-fitted maximum is wider than that of its values.

    `TIE_WIDTH` where another head may be as good as the best one (less than two standard errors of
    their difference below it), else 1.

    Args:
        by: what heads are chosen by, as for `read_cross_fitted`.
    """
    scores = np.stack(_listed(by))
    _, samples, heads = scores.shape
    if samples == 1 or heads == 1:
        return 1.0
    means = scores.mean(axis=1)
    # Of each head, the score that it is chosen by: its smallest.
    decisive = scores[means.argmin(axis=0), :, np.arange(heads)]
    best = int(means.min(axis=0).argmax())
    gaps = decisive[best] - np.delete(decisive, best, axis=0)
    errors = gaps.std(axis=1, ddof=1) / math.sqrt(samples)
    return TIE_WIDTH if (gaps.mean(axis=1) < 2 * errors).any() else 1.0


def _listed(by: np.ndarray | Sequence[np.ndarray]) -> list[np.ndarray]:
    return [by] if isinstance(by, np.ndarray) else list(by)
