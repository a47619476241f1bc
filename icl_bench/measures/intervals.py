"""How far from an estimate the truth may be: quantiles and ends of intervals."""

from __future__ import annotations

import math
from functools import cache

import numpy as np

from icl_bench.measures.bounds import CONFIDENCE, UNIT, Bounds, unseen_share


@cache
def student_t(df: int, comparisons: int = 1, confidence: float = CONFIDENCE) -> float:
    """Two-sided quantile of Student's t, Bonferroni-corrected for `comparisons` intervals."""
    return float(t_quantile(1 - (1 - confidence) / 2 / comparisons, df))


def t_quantile(share: float, df: float | np.ndarray) -> np.ndarray:
    """Return the value below which a share of Student's t lies, for each number of degrees."""
    # Slow to import, and what is only judged, compared by eye or shown needs none.
    from scipy.special import stdtrit

    return np.asarray(stdtrit(df, share), dtype=np.float64)


def normal_quantile(share: float) -> float:
    """Return the value below which a share of the standard normal distribution lies."""
    from scipy.special import ndtri

    return float(ndtri(share))


def error_bounds(
    values: np.ndarray, confidence: float = CONFIDENCE, bounds: Bounds | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """How far an interval reaches below and above the mean of independent values.

    It is `skewed_bounds`; two values have no skewness. Where values are bounded, each side also
    reaches as far as the share of the population that may have gone unseen could move the mean
    (`unseen_share`), so that equal values have no width of 0.

    Args:
        values: shape (n,) or (n, columns), n >= 2; columns have intervals of their own.
        confidence: of each interval.
        bounds: lowest and highest value of a single sample, where there are such.
    """
    n, mean = len(values), values.mean(axis=0)
    stderr = values.std(axis=0, ddof=1) / math.sqrt(n)
    skewness = sample_skewness(values) / math.sqrt(n) if n > 2 else np.zeros_like(stderr)
    below, above = skewed_bounds(stderr, skewness, n - 1, confidence)
    if bounds is not None:
        unseen = unseen_share(n, confidence)
        below = np.maximum(below, unseen * (mean - bounds[0]))
        above = np.maximum(above, unseen * (bounds[1] - mean))
    return below, above


def skewed_bounds(
    stderr: np.ndarray, skewness: np.ndarray, df: float, confidence: float = CONFIDENCE
) -> tuple[np.ndarray, np.ndarray]:
    """How far an interval reaches below and above an estimate whose skewness is known.

    With alpha = 1 - confidence, each side is the wider of Student's t at 1 - alpha/2 and of Hall's
    interval at 1 - .4 alpha. Hall's corrects for skewness, which makes Student's t miss on one side
    only; .4 in place of .5 makes up for skewness that few samples do not show. Source: Hall 1992,
    On the removal of skewness by transformation.

    Args:
        stderr: standard errors, any shape.
        skewness: of the estimates (of a mean, that of the values over the root of n), same shape.
        df: degrees of freedom of the standard errors.
        confidence: of each interval.
    """
    tail = 1 - confidence
    student = t_quantile(1 - tail / 2, df) * stderr
    quantile = float(t_quantile(1 - 0.4 * tail, df))
    below = np.maximum(student, stderr * undo_skewness(quantile, skewness))
    above = np.maximum(student, -stderr * undo_skewness(-quantile, skewness))
    return below, above


def mean_interval(
    values: np.ndarray, confidence: float = CONFIDENCE, bounds: Bounds | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Both ends of the interval of a mean: `error_bounds`, cut off at the bounds.

    Values with bounds 0 and 1 that are nothing else than 0 or 1 have the interval of a proportion.

    Args:
        values: shape (n,) or (n, columns), n >= 2; columns have intervals of their own.
        confidence: of each interval.
        bounds: lowest and highest value of a single sample, where there are such.
    """
    mean = values.mean(axis=0)
    below, above = error_bounds(values, confidence, bounds)
    low, high = mean - below, mean + above
    if bounds is None:
        return low, high
    low, high = np.maximum(low, bounds[0]), np.minimum(high, bounds[1])
    if bounds == UNIT:
        hits = ((values == 0) | (values == 1)).all(axis=0)
        if hits.any():
            least, most = clopper_pearson(values.sum(axis=0), len(values), confidence)
            low, high = np.where(hits, least, low), np.where(hits, most, high)
    return low, high


def clopper_pearson(
    hits: np.ndarray, n: int, confidence: float = CONFIDENCE
) -> tuple[np.ndarray, np.ndarray]:
    """Exact interval of a proportion, which holds whatever the proportion is.

    Source: Clopper & Pearson 1934.

    Args:
        hits: number of hits, any shape.
        n: number of items.
        confidence: of the interval, at least.
    """
    from scipy.special import betaincinv

    tail = (1 - confidence) / 2
    low = np.where(hits > 0, betaincinv(np.maximum(hits, 1), n - hits + 1, tail), 0.0)
    high = np.where(hits < n, betaincinv(hits + 1, np.maximum(n - hits, 1), 1 - tail), 1.0)
    return low, high


def sample_skewness(values: np.ndarray) -> np.ndarray:
    """Return the skewness of samples, corrected for bias (G1); 0 where all values are alike.

    Args:
        values: shape (n,) or (n, columns), n >= 3.
    """
    n, around = len(values), values - values.mean(axis=0)
    squares = around * around
    second, third = squares.mean(axis=0), (squares * around).mean(axis=0)
    alike = second == 0
    raw = np.where(alike, 0.0, third / np.where(alike, 1.0, second) ** 1.5)
    return np.asarray(raw * math.sqrt(n * (n - 1)) / (n - 2))


def undo_skewness(quantile: float, skewness: np.ndarray) -> np.ndarray:
    """Return the t statistics whose transform, free of skewness, is `quantile`.

    The transform is g(t) = t + a t^2 / 3 + a^2 t^3 / 27 + a / 6, increasing in t; this is its
    inverse. Source: Hall 1992.

    Args:
        quantile: of Student's t.
        skewness: a, the samples' skewness over the root of their size.
    """
    none = np.abs(skewness) < 1e-9
    skewness = np.where(none, 1.0, skewness)
    cubed = 1 + skewness * (quantile - skewness / 6)
    return np.where(none, quantile, 3 / skewness * (np.cbrt(cubed) - 1))
