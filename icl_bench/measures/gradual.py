"""Is a change sharper than a gradual learner, seen at the same checkpoints, would look?

The null hypothesis is a curve that rises gradually: a logistic in log(step) whose middle 80% takes
at least half of the range, of any midpoint, inside the range or beyond it. Among these are nearly
straight lines, curves that flatten out, and curves that grow in proportion to the step.
"""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass

import numpy as np
from scipy.optimize import OptimizeWarning, curve_fit
from scipy.special import expit

from icl_bench.measures.draws import Draws
from icl_bench.measures.phase import sharpness
from icl_bench.measures.statistics import monte_carlo_p

NARROWEST = 0.5
"""Share of the range of log(step) that a gradual change takes from 10% to 90%, at least."""
FEWEST = 8
"""Checkpoints that the test needs: the fit has four parameters."""

_MIDDLE = 2 * math.log(9)
"""From 10% to 90% a logistic of scale 1 takes this long."""
_STARTS = (0.0, 0.35, 0.65, 0.9, 1.2)


@dataclass(frozen=True)
class GradualNull:
    """What a gradual learner would look like, and how the measured curve compares.

    Args:
        fitted: the gradual curve closest to the measured one, shape (checkpoints,).
        observed: sharpness of the measured curve.
        drawn: sharpness of curves made of the gradual one and resampled residuals.
    """

    fitted: np.ndarray
    observed: float
    drawn: list[float]

    @property
    def p_value(self) -> float:
        """(1 + curves that are at least as sharp) / (1 + curves)."""
        return monte_carlo_p(self.observed, self.drawn)


def fit_gradual(positions: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Return the gradual curve closest to `values` in squares, shape (checkpoints,).

    Args:
        positions: log(step), ascending, shape (checkpoints,).
        values: one per checkpoint, same shape.
    """
    # On the unit square the starting points and bounds are the same for every curve.
    x = (positions - positions[0]) / (positions[-1] - positions[0])
    scale = float(np.ptp(values)) or 1.0
    y = (values - values.min()) / scale

    def gradual(
        x: np.ndarray, base: float, rise: float, midpoint: float, width: float
    ) -> np.ndarray:
        return np.asarray(base + rise * expit((x - midpoint) * _MIDDLE / width))

    bounds = ([-np.inf, 0, -1, NARROWEST], [np.inf, np.inf, 2, 8])
    best, least = np.full(len(x), y.mean()), np.inf
    for midpoint in _STARTS:
        for width in (NARROWEST * 1.05, 2.0):
            start = [y.min(), max(float(np.ptp(y)), 0.1), midpoint, width]
            try:
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore", OptimizeWarning)
                    found, _ = curve_fit(gradual, x, y, p0=start, bounds=bounds, max_nfev=2000)
            except RuntimeError:
                continue
            fitted = gradual(x, *found)
            if (error := float(((y - fitted) ** 2).sum())) < least:
                best, least = fitted, error
    return values.min() + scale * best


def compare_with_gradual(
    positions: np.ndarray, values: np.ndarray, draws: int, seed: int = 0
) -> GradualNull:
    """Compare the sharpness of a curve with that of gradual curves at the same checkpoints.

    Residuals of the gradual fit are drawn with replacement, centred and enlarged by
    sqrt(checkpoints / (checkpoints - 4)), since four parameters have made them smaller.

    Args:
        positions: log(step), ascending, shape (checkpoints,), at least `FEWEST`.
        values: the mean curve, turned so that the change is a rise, same shape.
        draws: number of curves to make.
        seed: seed of the draws.
    """
    count = len(values)
    fitted = fit_gradual(positions, values)
    residuals = values - fitted
    residuals = (residuals - residuals.mean()) * math.sqrt(count / (count - 4))
    drawn = []
    for index in range(draws):
        stream = Draws(seed, "gradual", index)
        chosen = [stream.below(count) for _ in range(count)]
        drawn.append(sharpness(positions, fitted + residuals[chosen]))
    return GradualNull(fitted, sharpness(positions, values), drawn)
