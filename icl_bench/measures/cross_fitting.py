"""The value of the best head, free of the luck of having been chosen by it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


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
    scores = [by] if isinstance(by, np.ndarray) else list(by)
    samples = len(values)

    def best(some: slice) -> int:
        return int(np.min([each[some].mean(axis=0) for each in scores], axis=0).argmax())

    if samples == 1:
        return values[:, best(slice(None))]
    half = samples // 2
    first, second = slice(None, half), slice(half, None)
    return np.concatenate([values[first, best(second)], values[second, best(first)]])
