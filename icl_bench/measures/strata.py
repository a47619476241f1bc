"""Means over a fixed set of strata (tasks, say), each sampled on its own."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from icl_bench.errors import NotMeasurable
from icl_bench.measures.bounds import Bounds, unseen_share
from icl_bench.measures.intervals import sample_skewness, skewed_bounds
from icl_bench.records.parts import Metric


def stratified_metric(strata: Sequence[np.ndarray], bounds: Bounds | None = None) -> Metric:
    """Mean over strata of their means, with an interval for other samples of the same strata.

    Strata count alike, however many samples they have. The variance is sum(s_t^2 / n_t) / T^2 for
    T strata; the interval is that of a mean (`skewed_bounds`) with the degrees of freedom of Welch
    and Satterthwaite, and the skewness sum(k_t / n_t^2) / (sum(s_t^2 / n_t))^1.5 from the strata's
    third cumulants k_t; it counts as 0 where a stratum has two values only.
    How much the strata differ from one another does not matter: they are the whole. Source:
    Cochran 1977, Sampling Techniques, 5.3 and 5.4.

    Where values are bounded the interval also reaches as far as what went unseen could move the
    mean. Of T strata with n values each no larger share goes unseen than of one with T n values.

    Args:
        strata: independent values of each, two at least.
        bounds: lowest and highest value, where there are such.

    Raises:
        NotMeasurable: a stratum has one value, or no stratum's values differ.
    """
    if min(map(len, strata)) < 2:
        raise NotMeasurable("one query of a task does not say how much queries differ")
    variances = np.array([values.var(ddof=1) / len(values) for values in strata])
    if not variances.any():
        raise NotMeasurable("the queries of each task all come out alike: they give no interval")
    mean = float(np.mean([values.mean() for values in strata]))
    stderr = math.sqrt(variances.sum()) / len(strata)
    degrees = [len(values) - 1 for values in strata]
    df = float(variances.sum() ** 2 / (variances**2 / degrees).sum())
    skewness = 0.0
    if min(map(len, strata)) > 2:
        third = [sample_skewness(x) * x.std(ddof=1) ** 3 / len(x) ** 2 for x in strata]
        skewness = float(sum(third) / variances.sum() ** 1.5)
    below, above = map(float, skewed_bounds(np.array(stderr), np.array(skewness), df))
    if bounds is not None:
        unseen = unseen_share(len(strata) * min(map(len, strata)))
        below = min(max(below, unseen * (mean - bounds[0])), mean - bounds[0])
        above = min(max(above, unseen * (bounds[1] - mean)), bounds[1] - mean)
    count = sum(map(len, strata))
    return Metric(value=mean, stderr=stderr, ci_low=mean - below, ci_high=mean + above, n=count)
