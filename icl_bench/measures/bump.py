"""A bump in a recorded training loss: the sign of a phase change that needs no attention weights.

Per step, a smooth learner's loss falls ever more slowly: it is convex. Where a loss lies above its
greatest convex minorant it has waited and then caught up.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from icl_bench.measures.phase import cross, fit_monotone

BINS = 100
"""Stretches of log(step), of equal length, that losses are taken the median of."""
SIGNIFICANT = 6.0
"""Standard errors that a bump has to be high; fewer than 1 in 100 convex curves have such a one."""
FEWEST = 12
"""Recorded losses that are needed."""


@dataclass(frozen=True)
class Bump:
    """The highest bump of a loss curve.

    Args:
        height: how far the loss lies above its greatest convex minorant at most, nats.
        stderr: standard error of that, from the scatter of the losses.
        knee: step at which it is that high: there the loss begins to fall faster.
        step: step at which half of the fall from there to the bump's end is reached.
        end: step at which the loss is back on the minorant.
    """

    height: float
    stderr: float
    knee: float
    step: float
    end: float

    @property
    def significant(self) -> bool:
        """Whether the bump is more than the scatter of the losses."""
        return self.stderr > 0 and self.height > SIGNIFICANT * self.stderr


def smooth_losses(
    losses: Mapping[int, float], bins: int = BINS
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return steps, median losses and counts of evenly long stretches of log(step).

    Args:
        losses: step -> recorded loss in nats; those of steps below 1 are left out.
        bins: number of stretches; empty ones are left out.
    """
    steps = np.array(sorted(step for step in losses if step >= 1), dtype=float)
    values = np.array([losses[int(step)] for step in steps])
    positions = np.log(steps)
    edges = np.linspace(positions[0], positions[-1], bins + 1)
    numbers = np.minimum(np.digitize(positions, edges), bins)
    full, counts = np.unique(numbers, return_counts=True)
    inside = [numbers == number for number in full]
    middles = np.array([np.median(steps[where]) for where in inside])
    medians = np.array([np.median(values[where]) for where in inside])
    return middles, medians, counts


def scatter(values: np.ndarray) -> float:
    """Return the standard deviation of noise around a smooth curve, from second differences.

    It is no less than that of rounding to the digits that were recorded.

    Args:
        values: in order, at least three.
    """
    bends = values[:-2] - 2 * values[1:-1] + values[2:]
    rounding = next(
        (10.0**-k for k in range(7) if np.allclose(values, np.round(values, k), rtol=0, atol=1e-9)),
        0.0,
    )
    # The median size of normal numbers is 0.6745 of their standard deviation.
    noise = float(np.median(np.abs(bends)) / 0.6745 / math.sqrt(6))
    return max(noise, rounding / math.sqrt(12))


def convex_minorant(steps: np.ndarray, values: np.ndarray) -> list[int]:
    """Return the indices of the corners of the greatest convex curve below the points.

    Args:
        steps: ascending, shape (points,).
        values: same shape.
    """
    corners: list[int] = []
    for new in range(len(steps)):
        while len(corners) > 1:
            first, second = corners[-2], corners[-1]
            slope = (values[new] - values[first]) / (steps[new] - steps[first])
            if values[second] < values[first] + slope * (steps[second] - steps[first]):
                break
            corners.pop()
        corners.append(new)
    return corners


def find_bump(losses: Mapping[int, float]) -> Bump | None:
    """Return the highest bump of a training loss, in standard errors; None where it is convex.

    Args:
        losses: step -> recorded loss in nats, at least `FEWEST`.
    """
    steps, values, counts = smooth_losses(losses)
    recorded = np.array([losses[step] for step in sorted(losses) if step >= 1])
    # A median of n normal numbers has 1.2533 times the standard error of their mean.
    errors = scatter(recorded) * np.where(counts > 2, 1.2533, 1.0) / np.sqrt(counts)
    corners = convex_minorant(steps, values)
    best: Bump | None = None
    for start, stop in zip(corners, corners[1:]):
        inside = np.arange(start + 1, stop)
        if not len(inside):
            continue
        share = (steps[inside] - steps[start]) / (steps[stop] - steps[start])
        heights = values[inside] - values[start] - share * (values[stop] - values[start])
        spread = np.sqrt(
            errors[inside] ** 2 + ((1 - share) * errors[start]) ** 2 + (share * errors[stop]) ** 2
        )
        top = int((heights / np.maximum(spread, 1e-12)).argmax())
        found = (float(heights[top]), float(spread[top]))
        if best is None or found[0] / max(found[1], 1e-12) > best.height / max(best.stderr, 1e-12):
            fall = slice(int(inside[top]), stop + 1)
            rising = fit_monotone(-values[fall])
            half = cross(np.log(steps[fall]), rising, (rising[0] + rising[-1]) / 2)
            best = Bump(*found, float(steps[inside[top]]), math.exp(half), float(steps[stop]))
    return best
