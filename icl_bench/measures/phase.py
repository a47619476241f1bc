"""When a curve over training steps changes, and how much of the change comes at once.

Curves are turned so that the change is a rise, and lie over log(step). What is read off is read
off the isotonic regression of the mean curve, straight between checkpoints: no shape is assumed
but that the curve rises. What a curve does between two checkpoints nobody has seen; intervals
therefore reach from checkpoint to checkpoint and hold for every rising curve through them.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from icl_bench.measures.bounds import Bounds
from icl_bench.measures.statistics import CONFIDENCE, mean_metric, student_t
from icl_bench.records.parts import Metric

WINDOW = 0.1
"""Share of the range of log(step) that a sharp change falls into."""
ONSET, MIDPOINT, END = 0.1, 0.5, 0.9
"""Shares of the total rise that a change has made where it begins, is half done, and ends."""
_ROUNDING = 1e-9

Statistic = Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True)
class Curve:
    """One quantity at every checkpoint of a training run.

    Args:
        steps: optimizer steps, ascending, each at least 1, shape (checkpoints,).
        samples: values of every sequence or document, turned so that the expected change is a
            rise, shape (samples, checkpoints).
        bounds: lowest and highest value, where there are such.

    Raises:
        ValueError: fewer than two checkpoints, or steps that do not ascend from 1 or later.
    """

    steps: np.ndarray
    samples: np.ndarray
    bounds: Bounds | None = None

    def __post_init__(self) -> None:
        if len(self.steps) < 2 or self.steps[0] < 1 or (np.diff(self.steps) <= 0).any():
            raise ValueError("a curve needs two steps or more, ascending, from 1 on")
        if self.samples.ndim != 2 or self.samples.shape[1] != len(self.steps):
            raise ValueError("samples are not of shape (samples, checkpoints)")

    @property
    def positions(self) -> np.ndarray:
        """log(step), shape (checkpoints,)."""
        return np.asarray(np.log(self.steps))

    @property
    def mean(self) -> np.ndarray:
        """Mean over samples, shape (checkpoints,)."""
        return np.asarray(self.samples.mean(axis=0))

    def rise(self, until: int = -1) -> Metric:
        """Last minus first value, paired by sample, with its interval.

        Args:
            until: index of the checkpoint that counts as last.
        """
        bounds = self.bounds and (self.bounds[0] - self.bounds[1], self.bounds[1] - self.bounds[0])
        return mean_metric(self.samples[:, until] - self.samples[:, 0], bounds=bounds)


@dataclass(frozen=True)
class Change:
    """Where a curve rises, in optimizer steps, and how suddenly.

    Intervals reach from one checkpoint to another; standard errors are those over samples alone.

    Args:
        onset: where 10% of the rise is reached.
        midpoint: where half of it is.
        end: where 90% is.
        fastest: where half of what the steepest tenth of log-steps brings is reached.
        sharpness: share of the rise inside the steepest tenth of the range of log-steps.
        setback: largest fall after an earlier value, as a share of the rise.
    """

    onset: Metric
    midpoint: Metric
    end: Metric
    fastest: Metric
    sharpness: Metric
    setback: float


def fit_monotone(values: np.ndarray) -> np.ndarray:
    """Return the rising sequence closest to `values` in squares (isotonic regression).

    Args:
        values: one per checkpoint, shape (checkpoints,).
    """
    # Slow to import, and only training runs need it.
    from scipy.optimize import isotonic_regression

    return np.asarray(isotonic_regression(values).x)


def cross(positions: np.ndarray, rising: np.ndarray, level: float) -> float:
    """Return the first position at which a rising curve, straight between its points, has `level`.

    Args:
        positions: ascending, shape (checkpoints,).
        rising: values that never fall, same shape.
        level: between the first and the last value.
    """
    after = int(np.searchsorted(rising, level, side="left"))
    if after == 0:
        return float(positions[0])
    after = min(after, len(rising) - 1)
    low, high = rising[after - 1], rising[after]
    share = 0.0 if high <= low else (level - low) / (high - low)
    return float(positions[after - 1] + min(share, 1.0) * (positions[after] - positions[after - 1]))


def steepest(positions: np.ndarray, rising: np.ndarray) -> tuple[float, float]:
    """Return where the steepest tenth of the range begins, and the rise inside it.

    A window of a curve that is straight between its points rises most where one of its ends is at
    a point, so only those are tried.

    Args:
        positions: ascending, shape (checkpoints,).
        rising: values that never fall, same shape.
    """
    width = WINDOW * (positions[-1] - positions[0])
    starts = np.concatenate([positions, positions - width])
    starts = starts.clip(positions[0], positions[-1] - width)
    rises = np.interp(starts + width, positions, rising) - np.interp(starts, positions, rising)
    best = int(rises.argmax())
    return float(starts[best]), float(rises[best])


def bound_steepest(positions: np.ndarray, rising: np.ndarray) -> tuple[float, float]:
    """Return the least and the most that any rising curve through the points rises in a tenth.

    The least is the largest rise between two points at most a tenth of the range apart; the most
    is that of all gaps that one window can reach into.

    Args:
        positions: ascending, shape (checkpoints,).
        rising: values that never fall, same shape.
    """
    width = WINDOW * (positions[-1] - positions[0])
    slack = _ROUNDING * width
    rises = rising[None, :] - rising[:, None]
    apart = positions[None, :] - positions[:, None]
    least = float(np.where((apart >= 0) & (apart <= width + slack), rises, 0).max())
    # A window reaches into the gaps i and j, and all between, if it is longer than what lies
    # between the end of gap i and the start of gap j.
    reach = np.triu(positions[None, :-1] - positions[1:, None] < width - slack)
    return least, float(np.where(reach, rising[None, 1:] - rising[:-1, None], 0).max())


def sharpness(positions: np.ndarray, values: np.ndarray) -> float:
    """Return the share of the total rise inside the steepest tenth of the range; 0 without a rise.

    Args:
        positions: log(step), ascending, shape (checkpoints,).
        values: a curve, same shape; its isotonic regression is what is read.
    """
    rising = fit_monotone(values)
    total = rising[-1] - rising[0]
    return 0.0 if total <= 0 else min(1.0, steepest(positions, rising)[1] / float(total))


def jackknife(samples: np.ndarray, statistic: Statistic) -> tuple[np.ndarray, np.ndarray | None]:
    """Return statistics of the mean over samples and their standard errors; none for one sample.

    Args:
        samples: independent rows, shape (samples, values).
        statistic: mean row (values,) -> numbers, shape (numbers,).
    """
    count, total = len(samples), samples.sum(axis=0)
    whole = statistic(total / count)
    if count == 1:
        return whole, None
    without = np.stack([statistic((total - row) / (count - 1)) for row in samples])
    spread = ((without - without.mean(axis=0)) ** 2).sum(axis=0)
    return whole, np.sqrt(spread * (count - 1) / count)


def find_change(curve: Curve, confidence: float = CONFIDENCE) -> Change:
    """Read off where a curve rises and how suddenly.

    Args:
        curve: one that rises on the whole.
        confidence: of the intervals.

    Raises:
        ValueError: the mean curve does not rise.
    """
    positions, mean = curve.positions, curve.mean
    if mean[-1] <= mean[0]:
        raise ValueError("the curve does not rise")

    def read(values: np.ndarray) -> np.ndarray:
        rising = fit_monotone(values)
        # Without a sample that carries the whole rise there may be none.
        total = (rising[-1] - rising[0]) or 1.0
        start, rise = steepest(positions, rising)
        before = np.interp(start, positions, rising)
        levels = [rising[0] + share * total for share in (ONSET, MIDPOINT, END)]
        crossings = [cross(positions, rising, level) for level in (*levels, before + rise / 2)]
        shares = [bound / total for bound in (rise, *bound_steepest(positions, rising))]
        return np.array([*crossings, *shares])

    values, errors = jackknife(curve.samples, read)
    count = len(curve.samples)
    steps = [
        _step(curve.steps, values[i], None if errors is None else errors[i], count, confidence)
        for i in range(4)
    ]
    share, least, most = values[4:]
    sharp = Metric(value=float(share), n=count)
    if errors is not None:
        quantile = student_t(count - 1, confidence=confidence)
        sharp.stderr = float(errors[4])
        sharp.ci_low = max(0.0, float(least - quantile * errors[5]))
        sharp.ci_high = min(1.0, float(most + quantile * errors[6]))
    setback = float((np.maximum.accumulate(mean) - mean).max() / (mean[-1] - mean[0]))
    onset, midpoint, end, fastest = steps
    return Change(onset, midpoint, end, fastest, sharp, setback)


def enclosing_steps(steps: np.ndarray, low: float, high: float) -> tuple[int, int]:
    """Return the last checkpoint at or before `low` and the first at or after `high`.

    Where there is none, the first or the last checkpoint.

    Args:
        steps: ascending, shape (checkpoints,).
        low: an optimizer step.
        high: one that is no earlier.
    """
    before = int(np.searchsorted(steps, low * (1 + _ROUNDING), side="right")) - 1
    after = int(np.searchsorted(steps, high * (1 - _ROUNDING), side="left"))
    return int(steps[max(before, 0)]), int(steps[min(after, len(steps) - 1)])


def doublings_between(early: Metric, late: Metric) -> Metric:
    """Return log2(late / early) of two steps: how many doublings of the step lie between them.

    The interval spans every pair of steps in the two intervals: of two intervals of confidence
    1 - a/2, however they depend on one another, it has confidence 1 - a.

    Args:
        early: an optimizer step.
        late: another; the result is negative where it is earlier.
    """
    result = Metric(value=math.log2(late.value / early.value), n=late.n)
    ends = (early.ci_low, early.ci_high, late.ci_low, late.ci_high)
    if None not in ends:
        early_low, early_high, late_low, late_high = (float(end or 0) for end in ends)
        result.ci_low = math.log2(late_low / early_high)
        result.ci_high = math.log2(late_high / early_low)
    if early.stderr is not None and late.stderr is not None:
        relative = math.hypot(early.stderr / early.value, late.stderr / late.value)
        result.stderr = relative / math.log(2)
    return result


def _step(
    steps: np.ndarray, position: float, error: float | None, count: int, confidence: float
) -> Metric:
    """A step with the interval from the checkpoint before it to the one after it."""
    step = math.exp(position)
    if error is None:
        return Metric(value=step, n=count)
    half = student_t(count - 1, confidence=confidence) * float(error)
    low, high = enclosing_steps(steps, step * math.exp(-half), step * math.exp(half))
    return Metric(value=step, stderr=step * float(error), ci_low=low, ci_high=high, n=count)
