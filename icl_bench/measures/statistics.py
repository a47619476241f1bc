"""Estimates with their uncertainty, over independent samples (sequences, items, documents)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cache

import numpy as np

from icl_bench.measures.cross_fitting import cross_fitted_max as cross_fitted_max
from icl_bench.measures.cross_fitting import read_cross_fitted as read_cross_fitted
from icl_bench.records.record import Metric

CONFIDENCE = 0.95


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


def error_bounds(values: np.ndarray, confidence: float = CONFIDENCE) -> tuple[float, float]:
    """How far an interval reaches below and above the mean of independent values.

    At 95% it is Student's t, the same on both sides. Above that, where it is the interval of one of
    several looks at growing data, each side is the wider of Student's t and of the interval that
    corrects for skewness: sampling stops at the looks whose sample flatters, and of skewed values
    those are the ones that Student's t is wrong about. Source: Hall 1992, On the removal of
    skewness by transformation.

    Args:
        values: shape (n,), n >= 2.
        confidence: of the interval.
    """
    n = int(values.size)
    quantile = student_t(n - 1, confidence=confidence)
    stderr = float(values.std(ddof=1)) / math.sqrt(n)
    below = above = quantile * stderr
    if confidence > CONFIDENCE and n > 2 and stderr > 0:
        skewness = sample_skewness(values) / math.sqrt(n)
        below = max(below, stderr * undo_skewness(quantile, skewness))
        above = max(above, -stderr * undo_skewness(-quantile, skewness))
    return below, above


def sample_skewness(values: np.ndarray) -> float:
    """Return the skewness of a sample, corrected for bias (G1).

    Args:
        values: shape (n,), n >= 3, not all alike.
    """
    n, around = int(values.size), values - values.mean()
    second, third = float((around**2).mean()), float((around**3).mean())
    return third / math.pow(second, 1.5) * math.sqrt(n * (n - 1)) / (n - 2)


def undo_skewness(quantile: float, skewness: float) -> float:
    """Return the t statistic whose transform, free of skewness, is `quantile`.

    The transform is g(t) = t + a t^2 / 3 + a^2 t^3 / 27 + a / 6, increasing in t; this is its
    inverse. Source: Hall 1992.

    Args:
        quantile: of Student's t.
        skewness: a, the sample's skewness over the root of its size.
    """
    if abs(skewness) < 1e-9:
        return quantile
    cubed = 1 + skewness * (quantile - skewness / 6)
    return 3 / skewness * (float(np.cbrt(cubed)) - 1)


def mean_metric(
    samples: Sequence[float] | np.ndarray,
    *,
    keep: bool = True,
    unit: bool = False,
    confidence: float = CONFIDENCE,
) -> Metric:
    """Mean with standard error and Student's t interval; one sample has neither.

    Args:
        samples: one value per independent sample.
        keep: whether the samples are stored for pairing.
        unit: whether the quantity lies in [0, 1], so that the interval is cut off there.
        confidence: of the interval; above 95% where one of several looks at growing data.

    Raises:
        ValueError: there are no samples.
    """
    values = np.asarray(samples, dtype=np.float64)
    if values.size == 0:
        raise ValueError("a mean of no samples")
    mean, n = float(values.mean()), int(values.size)
    kept = [float(v) for v in values] if keep else None
    if n == 1:
        return Metric(value=mean, n=1, samples=kept)
    stderr = float(values.std(ddof=1)) / math.sqrt(n)
    below, above = error_bounds(values, confidence)
    low, high = mean - below, mean + above
    if unit:
        low, high = max(0.0, low), min(1.0, high)
    return Metric(value=mean, stderr=stderr, ci_low=low, ci_high=high, n=n, samples=kept)


def ratio_metric(
    numerator: Sequence[float] | np.ndarray,
    denominator: Sequence[float] | np.ndarray,
    *,
    confidence: float = CONFIDENCE,
) -> Metric:
    """Ratio of two paired means, with the interval of its logarithm (both means positive).

    stderr(log r) is the delta method's: the standard error of a/mean(a) - b/mean(b). The samples
    are those of the linearized ratio, see `linearize`.

    Args:
        numerator: one value per sample.
        denominator: values of the same samples.
        confidence: of the interval.

    Raises:
        ValueError: a mean is not positive, so that the ratio has no logarithm.
    """
    a, b = np.asarray(numerator, np.float64), np.asarray(denominator, np.float64)
    mean_a, mean_b = float(a.mean()), float(b.mean())
    if mean_a <= 0 or mean_b <= 0:
        raise ValueError("a ratio needs positive means")
    ratio, n = mean_a / mean_b, int(a.size)
    if n == 1:
        return Metric(value=ratio, n=1, samples=[ratio])
    influence = a / mean_a - b / mean_b
    log_error = float(influence.std(ddof=1)) / math.sqrt(n)
    below, above = error_bounds(influence, confidence)
    return Metric(
        value=ratio,
        stderr=ratio * log_error,
        ci_low=ratio * math.exp(-below),
        ci_high=ratio * math.exp(above),
        n=n,
        samples=linearize(ratio, ratio * influence),
    )


def share_metric(
    part: Sequence[float] | np.ndarray,
    whole: Sequence[float] | np.ndarray,
    *,
    confidence: float = CONFIDENCE,
) -> Metric:
    """Ratio of two paired means of either sign, with the delta method's interval.

    The samples are those of the linearized ratio, see `linearize`.

    Args:
        part: one value per sample.
        whole: values of the same samples; their mean is not 0.
        confidence: of the interval.

    Raises:
        ValueError: the mean of `whole` is 0.
    """
    a, b = np.asarray(part, np.float64), np.asarray(whole, np.float64)
    mean_b = float(b.mean())
    if mean_b == 0:
        raise ValueError("a share of nothing")
    share, n = float(a.mean()) / mean_b, int(a.size)
    if n == 1:
        return Metric(value=share, n=1, samples=[share])
    influence = (a - share * b) / mean_b
    stderr = float(influence.std(ddof=1)) / math.sqrt(n)
    below, above = error_bounds(influence, confidence)
    low, high = share - below, share + above
    kept = linearize(share, influence)
    return Metric(value=share, stderr=stderr, ci_low=low, ci_high=high, n=n, samples=kept)


def linearize(value: float, influence: np.ndarray) -> list[float]:
    """Return samples whose mean is a ratio, and whose standard error is the delta method's.

    A ratio of means is no mean, but to first order each sample moves it by its influence over n.
    Differences of these samples therefore have the paired interval of the difference of two ratios
    on the same sequences.

    Args:
        value: the ratio.
        influence: of each sample on it, shape (n,), with mean 0.
    """
    return [float(sample) for sample in value + influence]


def exact_metric(value: float, n: int | None = None) -> Metric:
    """A number without sampling error."""
    return Metric(value=float(value), n=n, exact=True)


def count_above(scores: np.ndarray, threshold: float, *, confidence: float = CONFIDENCE) -> Metric:
    """Number of heads whose mean is above `threshold`, with a 95% interval.

    The interval counts heads whose own interval lies above the threshold, and heads whose
    interval reaches it; the heads' intervals are Bonferroni-corrected, so that the count's
    interval holds for all heads together.

    Args:
        scores: shape (samples, heads).
        threshold: the bound.
        confidence: of the interval.
    """
    n, heads = scores.shape
    means = scores.mean(axis=0)
    count = float((means > threshold).sum())
    if n == 1:
        return Metric(value=count, n=1)
    half = student_t(n - 1, heads, confidence) * scores.std(axis=0, ddof=1) / math.sqrt(n)
    return Metric(
        value=count,
        ci_low=float((means - half > threshold).sum()),
        ci_high=float((means + half > threshold).sum()),
        n=n,
    )


def divide_count(count: Metric, whole: int) -> Metric:
    """Return a count with its interval as a share of `whole`.

    Args:
        count: the count.
        whole: what it is a share of, above 0.
    """
    names = ("value", "ci_low", "ci_high")
    numbers = {name: getattr(count, name) for name in names}
    return count.model_copy(
        update={name: None if n is None else n / whole for name, n in numbers.items()}
    )


def monte_carlo_p(observed: float, null: Sequence[float]) -> float:
    """One-sided p-value (1 + #null >= observed) / (1 + draws). Source: Phipson & Smyth 2010."""
    return (1 + sum(value >= observed for value in null)) / (1 + len(null))


def proportion_metric(hits: Sequence[bool] | np.ndarray) -> Metric:
    """Share of hits with Wilson's 95% interval, which stays honest when all or none hit.

    The standard error is that of the mean; where all or none hit it is not defined by the
    sample, and left out.

    Args:
        hits: one value per independent item.
    """
    values = np.asarray(hits, dtype=np.float64)
    n, share = int(values.size), float(values.mean())
    if n == 1:
        return Metric(value=share, n=1, samples=[share])
    z = normal_quantile((1 + CONFIDENCE) / 2)
    centre = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    return Metric(
        value=share,
        stderr=math.sqrt(share * (1 - share) / (n - 1)) or None,
        ci_low=max(0.0, centre - half),
        ci_high=min(1.0, centre + half),
        n=n,
        samples=[float(v) for v in values],
    )


def proportion_lost_metric(
    before: Sequence[bool] | np.ndarray, after: Sequence[bool] | np.ndarray
) -> Metric:
    """Share of hits before minus share after, on the same items, with a 95% interval.

    Half an item is added to each of the four cells (hit or not, before and after), so that the
    interval has a width where no item, or every one, changed sides. Source: Agresti & Min 2005.

    Args:
        before: one value per independent item.
        after: values of the same items.
    """
    a, b = np.asarray(before, np.float64), np.asarray(after, np.float64)
    lost, n = a - b, int(a.size)
    samples = [float(v) for v in lost]
    if n == 1:
        return Metric(value=samples[0], n=1, samples=samples)
    z = normal_quantile((1 + CONFIDENCE) / 2)
    gone, come = float((lost > 0).sum()) + 0.5, float((lost < 0).sum()) + 0.5
    centre = (gone - come) / (n + 2)
    half = z * math.sqrt(gone + come - (gone - come) ** 2 / (n + 2)) / (n + 2)
    return Metric(
        value=float(lost.mean()),
        stderr=float(lost.std(ddof=1)) / math.sqrt(n) or None,
        ci_low=max(-1.0, centre - half),
        ci_high=min(1.0, centre + half),
        n=n,
        samples=samples,
    )
