"""Is a change sharper than a gradual learner, seen at the same checkpoints, would look?

The null hypothesis is a curve that rises gradually: a logistic in log(step) whose middle 80% takes
at least half of the range, or that never grows faster than in proportion to the step, of any
midpoint, inside the range or beyond it. Among these are nearly straight lines, curves that flatten
out, and curves that grow in proportion to the step.
"""

from __future__ import annotations

import contextlib
import math
import warnings
from dataclasses import dataclass

import numpy as np

from icl_bench.measures.draws import Draws
from icl_bench.measures.phase import sharpness
from icl_bench.measures.statistics import monte_carlo_p

NARROWEST = 0.5
"""Share of the range of log(step) that a gradual change takes from 10% to 90%, at least."""
FEWEST = 8
"""Checkpoints that the test needs: the fit has four parameters."""

_STEEP = 2 * math.log(9)
"""A logistic of scale 1 takes this long from 10% to 90%."""
_HIGHEST, _WIDEST = 200.0, 8.0
"""Of a gradual curve: rise as a multiple of the measured range, width as one of log-steps."""


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
    # Slow to import, and only training runs need it.
    from scipy.optimize import OptimizeWarning, curve_fit
    from scipy.special import expit

    # On the unit square the starting points and bounds are the same for every curve.
    span = float(positions[-1] - positions[0])
    x = (positions - positions[0]) / span
    scale = float(np.ptp(values)) or 1.0
    y = (values - values.min()) / scale

    # A logistic of scale 1 in log(step) begins as growth in proportion to the step.
    narrowest = min(NARROWEST, _STEEP / span)
    widths = np.geomspace(narrowest * 1.002, _WIDEST * 0.99, 16)
    middles, widths = (grid.ravel() for grid in np.meshgrid(np.linspace(-0.95, 1.95, 30), widths))
    # The best of many midpoints and widths, each with its own best base and rise, is the start.
    shapes = expit((x - middles[:, None]) * _STEEP / widths[:, None])
    centred = shapes - shapes.mean(axis=1, keepdims=True)
    rises = (centred @ y / (centred**2).sum(axis=1)).clip(1e-6, _HIGHEST / 2)
    fits = y.mean() + rises[:, None] * centred
    best = int(((y - fits) ** 2).sum(axis=1).argmin())
    base = float(y.mean() - rises[best] * shapes[best].mean())
    start = [base, float(rises[best]), float(middles[best]), float(widths[best])]
    bounds = ([-np.inf, 0, -1, narrowest], [np.inf, _HIGHEST, 2, _WIDEST])
    with warnings.catch_warnings(), contextlib.suppress(RuntimeError):
        warnings.simplefilter("ignore", OptimizeWarning)
        parameters, _ = curve_fit(_gradual, x, y, p0=start, bounds=bounds, max_nfev=50)
        refined = _gradual(x, *parameters)
        if ((y - refined) ** 2).sum() < ((y - fits[best]) ** 2).sum():
            return np.asarray(values.min() + scale * refined)
    return np.asarray(values.min() + scale * fits[best])


def _gradual(x: np.ndarray, base: float, rise: float, midpoint: float, width: float) -> np.ndarray:
    from scipy.special import expit

    return np.asarray(base + rise * expit((x - midpoint) * _STEEP / width))


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
