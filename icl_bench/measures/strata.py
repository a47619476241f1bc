"""Means over a fixed set of strata (tasks, say), each sampled on its own."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from icl_bench.errors import NotMeasurable
from icl_bench.measures.statistics import CONFIDENCE, t_quantile
from icl_bench.records.record import Metric


def stratified_metric(strata: Sequence[np.ndarray]) -> Metric:
    """Mean over strata of their means, with an interval for other samples of the same strata.

    Strata count alike, however many samples they have. The variance is sum(s_t^2 / n_t) / T^2 for
    T strata; the interval is Student's t with the degrees of freedom of Welch and Satterthwaite.
    How much the strata differ from one another does not matter: they are the whole. Source:
    Cochran 1977, Sampling Techniques, 5.3 and 5.4.

    Args:
        strata: independent values of each, two at least.

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
    half = float(t_quantile((1 + CONFIDENCE) / 2, df)) * stderr
    count = sum(map(len, strata))
    return Metric(value=mean, stderr=stderr, ci_low=mean - half, ci_high=mean + half, n=count)
