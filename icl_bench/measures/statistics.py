"""Estimates with their uncertainty, over independent samples (sequences, items, documents)."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from icl_bench.measures.bounds import CONFIDENCE as CONFIDENCE
from icl_bench.measures.bounds import UNIT, Bounds, unseen_share
from icl_bench.measures.cross_fitting import cross_fitted_max as cross_fitted_max
from icl_bench.measures.cross_fitting import read_cross_fitted as read_cross_fitted
from icl_bench.measures.cross_fitting import tie_width as tie_width
from icl_bench.measures.intervals import error_bounds, mean_interval, normal_quantile
from icl_bench.measures.intervals import student_t as student_t
from icl_bench.measures.intervals import t_quantile as t_quantile
from icl_bench.records.parts import Metric


def mean_metric(
    samples: Sequence[float] | np.ndarray,
    *,
    keep: bool = True,
    unit: bool = False,
    bounds: Bounds | None = None,
    confidence: float = CONFIDENCE,
) -> Metric:
    """Mean with standard error and interval (`mean_interval`); one sample has neither.

    Args:
        samples: one value per independent sample.
        keep: whether the samples are stored for pairing.
        unit: whether the quantity lies in [0, 1]; short for `bounds=(0, 1)`.
        bounds: lowest and highest value that a single sample can have; None where there are none,
            as for losses.
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
    low, high = map(float, mean_interval(values, confidence, UNIT if unit else bounds))
    stderr = float(values.std(ddof=1)) / math.sqrt(n)
    return Metric(value=mean, stderr=stderr, ci_low=low, ci_high=high, n=n, samples=kept)


def best_metric(
    values: np.ndarray,
    by: np.ndarray | Sequence[np.ndarray] | None = None,
    *,
    bounds: Bounds | None = None,
    confidence: float = CONFIDENCE,
) -> Metric:
    """Mean of the best head, cross-fitted, with an interval that is wider where heads tie.

    Args:
        values: what is read of the head, shape (samples, heads).
        by: what heads are chosen by (`read_cross_fitted`), if not by the same values.
        bounds: lowest and highest value that a single sample can have.
        confidence: of the interval.
    """
    by = values if by is None else by
    metric = mean_metric(read_cross_fitted(by, values), bounds=bounds, confidence=confidence)
    return widen(metric, tie_width(by), bounds)


def widen(metric: Metric, factor: float, bounds: Bounds | None = None) -> Metric:
    """Return a metric whose standard error and interval are wider.

    Args:
        metric: the metric.
        factor: how many times as wide.
        bounds: where the interval ends at the latest.
    """
    if factor == 1 or metric.stderr is None or metric.ci_low is None or metric.ci_high is None:
        return metric
    low, high = bounds or (-math.inf, math.inf)
    return metric.model_copy(
        update={
            "stderr": metric.stderr * factor,
            "ci_low": max(low, metric.value - factor * (metric.value - metric.ci_low)),
            "ci_high": min(high, metric.value + factor * (metric.ci_high - metric.value)),
        }
    )


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
    below, above = map(float, error_bounds(influence, confidence))
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
    below, above = map(float, error_bounds(influence, confidence))
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


def count_above(
    scores: np.ndarray,
    threshold: float,
    *,
    bounds: Bounds | None = None,
    confidence: float = CONFIDENCE,
) -> Metric:
    """Number of heads whose mean is above `threshold`, with a 95% interval.

    The interval counts heads whose own interval lies above the threshold, and heads whose
    interval reaches above it; the heads' intervals (`mean_interval`) are Bonferroni-corrected, so
    that the count's interval holds for all heads together.

    Args:
        scores: shape (samples, heads).
        threshold: the bound.
        bounds: lowest and highest score of a single sample, where there are such.
        confidence: of the interval.
    """
    n, heads = scores.shape
    count = float((scores.mean(axis=0) > threshold).sum())
    if n == 1:
        return Metric(value=count, n=1)
    low, high = mean_interval(scores, 1 - (1 - confidence) / heads, bounds)
    return Metric(
        value=count,
        ci_low=float((low > threshold).sum()),
        ci_high=float((high > threshold).sum()),
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


def proportion_metric(
    hits: Sequence[bool] | np.ndarray, *, confidence: float = CONFIDENCE
) -> Metric:
    """Share of hits with Clopper and Pearson's interval, which is exact: never too narrow.

    The standard error is that of the mean; where all or none hit it is not defined by the
    sample, and left out.

    Args:
        hits: one value per independent item.
        confidence: of the interval.
    """
    metric = mean_metric(np.asarray(hits, dtype=np.float64), unit=True, confidence=confidence)
    return metric.model_copy(update={"stderr": metric.stderr or None})


def proportion_lost_metric(
    before: Sequence[bool] | np.ndarray, after: Sequence[bool] | np.ndarray
) -> Metric:
    """Share of hits before minus share after, on the same items, with a 95% interval.

    Half an item is added to each of the four cells (hit or not, before and after). Source: Agresti
    & Min 2005. Where few items change sides that is too narrow (86% of intervals hold with 6% lost
    of 32), so the interval also reaches as far as items that went unseen could move the difference
    (`unseen_share`). No exact interval is used: there is no such for a difference of two shares,
    and those that are never too narrow are a third wider.

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
    value, unseen = float(lost.mean()), unseen_share(n)
    return Metric(
        value=value,
        stderr=float(lost.std(ddof=1)) / math.sqrt(n) or None,
        ci_low=max(-1.0, min(centre - half, value - unseen * (value + 1))),
        ci_high=min(1.0, max(centre + half, value + unseen * (1 - value))),
        n=n,
        samples=samples,
    )
