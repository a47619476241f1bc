"""The value of the best head, free of the luck of having been chosen by it."""

from __future__ import annotations

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


def read_cross_fitted(by: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Per-sample value of the head that is best by a score on the half the sample is not in.

    Args:
        by: what heads are chosen by, shape (samples, heads).
        values: what is read of the chosen head, same shape.

    Returns:
        shape (samples,); with one sample, the value of that sample's best head.
    """
    samples = len(by)
    if samples == 1:
        return values[:, int(by[0].argmax())]
    half = samples // 2
    best_first = int(by[:half].mean(axis=0).argmax())
    best_second = int(by[half:].mean(axis=0).argmax())
    return np.concatenate([values[:half, best_second], values[half:, best_first]])
