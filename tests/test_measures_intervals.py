"""Intervals against slow computations of their own, and how often they hold."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats
from slow_intervals import ends

from icl_bench.measures import statistics as st
from icl_bench.measures.bounds import SIGNED, UNIT, can_lie_within, unseen_share
from icl_bench.measures.intervals import (
    clopper_pearson,
    error_bounds,
    mean_interval,
    sample_skewness,
    undo_skewness,
)


def draws():
    rng = np.random.default_rng(3)
    yield "normal", rng.normal(1, 2, 12), None
    yield "long tail above", rng.lognormal(0, 1, 20), None
    yield "long tail below", -rng.lognormal(0, 1, 20), None
    yield "two", np.array([0.2, 0.5]), None
    yield "three", np.array([0.2, 0.5, 0.9]), UNIT
    yield "near 1", rng.beta(30, 0.3, 32), UNIT
    yield "difference", rng.uniform(-0.4, 0.9, 16), SIGNED
    yield "all alike", np.full(32, 0.9), UNIT


@pytest.mark.parametrize("confidence", [0.95, 0.9875, 1 - 0.05 / 270])
@pytest.mark.parametrize("case", list(draws()), ids=lambda case: case[0])
def test_the_ends_are_those_of_a_slow_computation(case, confidence):
    _, values, bounds = case
    metric = st.mean_metric(values, bounds=bounds, confidence=confidence)
    assert (metric.ci_low, metric.ci_high) == pytest.approx(ends(values, confidence, bounds))


def test_columns_have_the_intervals_that_each_has_alone():
    """Also where some are hits alone, some all alike, and some neither."""
    rng = np.random.default_rng(0)
    some = rng.random((16, 4))
    columns = np.c_[some, np.ones(16), np.zeros(16), rng.random(16) < 0.7, np.full(16, 0.4)]
    low, high = mean_interval(columns, 0.99, UNIT)
    for place, column in enumerate(columns.T):
        metric = st.mean_metric(column, unit=True, confidence=0.99)
        assert (low[place], high[place]) == pytest.approx((metric.ci_low, metric.ci_high))


@pytest.mark.parametrize("n", [2, 7, 32])
def test_hits_have_the_exact_interval_and_nothing_else(n):
    for hits in range(n + 1):
        exact = stats.binomtest(hits, n).proportion_ci(0.95, method="exact")
        values = [1.0] * hits + [0.0] * (n - hits)
        for metric in (st.proportion_metric(values), st.mean_metric(values, unit=True)):
            assert (metric.ci_low, metric.ci_high) == pytest.approx((exact.low, exact.high))
    low, high = clopper_pearson(np.array([0, 3, 7]), 7, 0.99)
    exact = stats.binomtest(3, 7).proportion_ci(0.99, method="exact")
    assert (low[1], high[1]) == pytest.approx((exact.low, exact.high))
    assert low[0] == 0 and high[2] == 1


def test_what_no_sample_may_have_come_from():
    assert unseen_share(32) == pytest.approx(0.109, abs=5e-4)
    assert unseen_share(64) == pytest.approx(0.056, abs=5e-4)
    perfect = st.mean_metric(np.ones(32), unit=True)
    exact = stats.binomtest(32, 32).proportion_ci(0.95, method="exact")
    assert (perfect.ci_low, perfect.ci_high) == pytest.approx((exact.low, 1))
    alike = st.mean_metric(np.full(32, 0.9), unit=True)
    assert alike.ci_low == pytest.approx(0.9 * 0.891, abs=1e-3)
    assert alike.ci_high == pytest.approx(0.9 + 0.1 * 0.109, abs=1e-3)
    signed = st.mean_metric(np.full(32, 0.5), bounds=SIGNED)
    assert signed.ci_low == pytest.approx(0.5 - 1.5 * 0.109, abs=1e-3)


def test_losses_have_no_bound():
    """Equal losses leave an interval without width: nothing says how large another may be."""
    metric = st.mean_metric([2.5] * 8)
    assert (metric.ci_low, metric.ci_high) == (2.5, 2.5)
    assert error_bounds(np.full(2, 2.5)) == (0, 0)


def test_skewness_is_scipys_and_its_transform_is_undone():
    for n in (3, 8, 33):
        values = np.random.default_rng(n).lognormal(0, 1, (n, 2))
        assert sample_skewness(values) == pytest.approx(stats.skew(values, bias=False))
    assert sample_skewness(np.full(4, 0.1)) == 0
    assert undo_skewness(1.7, np.array(0.0)) == 1.7
    assert undo_skewness(1.7, np.array(1e-6)) == pytest.approx(1.7, abs=1e-5)


def test_the_intervals_of_counted_heads_hold_together():
    scores = np.random.default_rng(1).normal(np.linspace(0.1, 0.8, 9), 0.1, (32, 9)).clip(0, 1)
    metric = st.count_above(scores, 0.4, bounds=UNIT)
    each = [ends(column, 1 - 0.05 / 9, UNIT) for column in scores.T]
    assert metric.ci_low == sum(low > 0.4 for low, _ in each)
    assert metric.ci_high == sum(high > 0.4 for _, high in each)
    assert 0 < metric.ci_low < metric.value < metric.ci_high
    alike = st.count_above(np.full((4, 2), 0.5), 0.4, bounds=UNIT)
    assert (alike.ci_low, alike.value, alike.ci_high) == (0, 2, 2)


def test_a_lost_share_reaches_as_far_as_what_went_unseen():
    """Where nothing changed, 11% of other items may change: Agresti and Min alone say 6%."""
    metric = st.proportion_lost_metric([True] * 32, [True] * 32)
    assert (metric.ci_low, metric.ci_high) == pytest.approx((-0.109, 0.109), abs=1e-3)


@pytest.mark.parametrize("gone", [0.02, 0.06, 0.1, 0.3, 0.9])
def test_the_interval_of_a_lost_share_holds_19_of_20(gone):
    """The exact chance, over every number of items that can be lost; none are won."""
    n, held = 32, 0.0
    for lost in range(n + 1):
        metric = st.proportion_lost_metric([True] * n, [False] * lost + [True] * (n - lost))
        if metric.ci_low <= gone <= metric.ci_high:
            held += stats.binom.pmf(lost, n, gone)
    assert held > 0.935


POPULATIONS = {
    "normal": (lambda rng, size: rng.normal(1, 2, size), 1.0, None),
    "log-normal": (lambda rng, size: rng.lognormal(0, 1, size), math.exp(0.5), None),
    "t3": (lambda rng, size: rng.standard_t(3, size), 0.0, None),
    "beta 8, 1": (lambda rng, size: rng.beta(8, 1, size), 8 / 9, UNIT),
    "beta 30, .3": (lambda rng, size: rng.beta(30, 0.3, size), 30 / 30.3, UNIT),
    "rare zeros": (lambda rng, size: np.where(rng.random(size) < 0.01, 0, 0.9), 0.891, UNIT),
    "98%": (lambda rng, size: (rng.random(size) < 0.98) * 1.0, 0.98, UNIT),
    "5%": (lambda rng, size: (rng.random(size) < 0.05) * 1.0, 0.05, UNIT),
}


@pytest.mark.parametrize("name", POPULATIONS)
def test_intervals_of_32_hold_19_of_20(name):
    draw, truth, bounds = POPULATIONS[name]
    low, high = mean_interval(draw(np.random.default_rng(0), (32, 4000)), 0.95, bounds)
    assert ((low <= truth + 1e-12) & (truth <= high + 1e-12)).mean() > 0.935


def test_on_normal_values_intervals_are_six_percent_wider_than_students():
    values = np.random.default_rng(0).normal(0, 1, (32, 4000))
    low, high = mean_interval(values)
    student = 2 * stats.t.ppf(0.975, 31) * stats.sem(values)
    assert 1.03 < ((high - low) / student).mean() < 1.09


@pytest.mark.parametrize(
    ("region", "n", "confidence", "strict", "possible"),
    [
        ((0.89, math.inf), 32, 0.95, True, True),
        ((0.9, math.inf), 32, 0.95, True, False),
        ((0.9, math.inf), 36, 0.95, True, True),
        ((0.9, math.inf), 36, 0.9875, True, False),
        ((-math.inf, 0.05), 32, 0.95, False, False),
        ((-math.inf, 0.05), 72, 0.95, False, True),
        ((0.45, 0.55), 32, 0.95, False, False),
        ((0.4, 0.55), 32, 0.95, False, True),
        ((0.95, 1.0), 32, 0.95, False, False),
        ((1.0, math.inf), 10**6, 0.95, False, False),
        ((0.0, math.inf), 2, 0.95, False, True),
        ((0.0, math.inf), 2, 0.95, True, True),
    ],
)
def test_what_can_be_passed_is_what_some_constant_passes(region, n, confidence, strict, possible):
    assert can_lie_within(region, UNIT, n, confidence, strict) is possible
    if n > 1000:
        return
    found = False
    for value in np.linspace(0, 1, 401):
        low, high = ends(np.full(n, value), confidence, UNIT)
        found |= (
            region[0] < low and high < region[1]
            if strict
            else (region[0] <= low and high <= region[1])
        )
    assert bool(found) is possible
