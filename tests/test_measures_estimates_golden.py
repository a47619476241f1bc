"""Estimates and intervals, number by number, at thresholds and with few samples."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats
from slow_intervals import ends, reach

from icl_bench.errors import NotMeasurable
from icl_bench.measures import statistics as st
from icl_bench.measures.bounds import can_lie_within, unseen_share
from icl_bench.measures.cross_fitting import TIE_WIDTH, read_cross_fitted, tie_width
from icl_bench.measures.intervals import clopper_pearson, sample_skewness, undo_skewness
from icl_bench.measures.screening import draw_pilots, fit_bounds
from icl_bench.measures.sequential import look_confidence, look_sizes
from icl_bench.measures.strata import stratified_metric
from icl_bench.records.parts import Metric

RNG = np.random.default_rng(11)
LOST = {
    "3 of 10 lost, 1 won": ([1] * 7 + [0] * 3, [1, 1, 0, 0, 0, 1, 1, 1, 0, 0]),
    "1 of 2 lost": ([1, 1], [0, 1]),
    "2 of 30 won": ([0] * 20 + [1] * 10, [1, 1] + [0] * 18 + [1] * 10),
    "all lost": ([1] * 8, [0] * 8),
    "all won": ([0] * 8, [1] * 8),
    "none of 40": ([1, 0] * 20, [1, 0] * 20),
}


@pytest.mark.parametrize("name", LOST)
def test_a_lost_share_has_the_error_of_its_mean_and_both_ends(name):
    before, after = LOST[name]
    found = st.proportion_lost_metric(before, after)
    n, lost = len(before), np.subtract(before, after)
    gone, come = (lost == 1).sum() + 0.5, (lost == -1).sum() + 0.5
    centre, z = (gone - come) / (n + 2), stats.norm.ppf(0.975)
    half = z * math.sqrt((gone + come) / (n + 2) - centre**2) / math.sqrt(n + 2)
    unseen, value = 1 - 0.025 ** (1 / n), lost.mean()
    low = max(-1, min(centre - half, (1 - unseen) * value - unseen))
    high = min(1, max(centre + half, (1 - unseen) * value + unseen))
    assert (found.value, found.ci_low, found.ci_high) == pytest.approx((value, low, high))
    assert (found.n, found.samples) == (n, lost.tolist())
    assert found.stderr == (pytest.approx(stats.sem(lost)) if lost.std() else None)


@pytest.mark.parametrize("n", [2, 3, 9])
@pytest.mark.parametrize("confidence", [0.95, 0.99])
def test_ratios_and_shares_have_the_interval_of_their_influences(n, confidence):
    a, b = RNG.gamma(3, 1, n), RNG.gamma(5, 1, n)
    ratio = a.mean() / b.mean()
    relative, linear = a / a.mean() - b / b.mean(), (a - ratio * b) / b.mean()
    found = st.ratio_metric(a, b, confidence=confidence)
    below, above = reach(relative, confidence)
    assert (found.value, found.n) == (pytest.approx(ratio), n)
    assert found.stderr == pytest.approx(ratio * stats.sem(relative))
    assert (found.ci_low, found.ci_high) == pytest.approx(
        (ratio * math.exp(-below), ratio * math.exp(above))
    )
    assert found.samples == pytest.approx(ratio + ratio * relative)
    found = st.share_metric(-a, b, confidence=confidence)
    below, above = reach(-linear, confidence)
    assert (found.value, found.n) == (pytest.approx(-ratio), n)
    assert found.stderr == pytest.approx(stats.sem(linear))
    assert (found.ci_low, found.ci_high) == pytest.approx((-ratio - below, -ratio + above))
    assert found.samples == pytest.approx(-ratio - linear)


@pytest.mark.parametrize("values", [([1.0, -1.0], [1, 1]), ([1, 1], [1.0, -1.0])])
def test_a_mean_of_0_has_no_ratio(values):
    with pytest.raises(ValueError, match="positive means"):
        st.ratio_metric(*values)


def test_a_share_may_be_of_a_negative_whole_and_of_one_sample():
    assert st.share_metric([1.0, 3.0], [-1.0, -3.0]).value == -1
    assert (st.share_metric([3.0], [-2.0]).samples, st.ratio_metric([3.0], [2.0]).n) == ([-1.5], 1)
    assert st.ratio_metric([3.0], [2.0]).samples == [1.5]
    assert st.ratio_metric([0.25, 0.25], [0.5, 0.5]).value == 0.5


def test_a_mean_keeps_its_samples_unless_it_is_told_not_to():
    for values in ([0.25, 0.75], [0.5]):
        assert st.mean_metric(values).samples == values
        assert st.mean_metric(values, keep=False).samples is None
    one = st.mean_metric([0.5], unit=True)
    assert (one.n, one.stderr, one.ci_low, one.exact) == (1, None, None, False)
    assert (st.exact_metric(2).value, st.exact_metric(2, 5).n) == (2, 5)
    assert st.exact_metric(2).exact and st.exact_metric(2).n is None
    free, unit = st.mean_metric([0.1, 0.9, 0.9]), st.mean_metric([0.1, 0.9, 0.9], unit=True)
    assert free.ci_low < 0 == unit.ci_low and unit.ci_high == 1 < free.ci_high


def test_widening_takes_a_factor_to_both_sides_as_far_as_the_bounds():
    metric = Metric(value=0.5, stderr=0.125, ci_low=0.25, ci_high=0.875, n=4)
    wide = st.widen(metric, 2)
    assert (wide.stderr, wide.ci_low, wide.ci_high) == (0.25, 0, 1.25)
    wide = st.widen(metric, 2, (0.125, 0.9375))
    assert (wide.value, wide.ci_low, wide.ci_high) == (0.5, 0.125, 0.9375)
    assert st.widen(metric, 1) is metric
    for name in ("stderr", "ci_low", "ci_high"):
        bare = metric.model_copy(update={name: None})
        assert st.widen(bare, 2) is bare


def test_heads_at_the_threshold_are_not_above_it():
    scores = np.array([[0.25, 0.5, 0.75, 0.0], [0.75, 0.5, 1.0, 0.5], [0.5, 0.5, 0.875, 0.25]])
    found = st.count_above(scores, 0.5)
    assert (found.value, found.n) == (1, 3)  # two have a mean of exactly .5
    # Without scatter the interval of the second ends at .5.
    assert (found.ci_low, found.ci_high) == (0, 3)
    low, high = zip(*(ends(column, 1 - 0.05 / 4) for column in scores.T))
    assert (sum(np.array(low) > 0.3), sum(np.array(high) > 0.3)) == (1, 4)
    found = st.count_above(scores, 0.3)
    assert (found.value, found.ci_low, found.ci_high) == (3, 1, 4)
    one = st.count_above(scores[:1], 0.5)
    assert (one.value, one.n, one.ci_low) == (1, 1, None)


@pytest.mark.parametrize("bounds", [(0.0, 1.0), (-1.0, 3.0), (2.0, 5.0)])
@pytest.mark.parametrize(("n", "confidence"), [(1, 0.95), (8, 0.95), (64, 0.99)])
def test_what_can_be_reached_ends_where_equal_values_at_a_bound_reach_to(bounds, n, confidence):
    unseen = 1 - ((1 - confidence) / 2) ** (1 / n)
    assert unseen_share(n, confidence) == pytest.approx(unseen)
    low, high = bounds
    span, step = high - low, 1e-9
    most, least, width = high - unseen * span, low + unseen * span, unseen * span
    for off, possible in ((-step, True), (step, False)):
        assert can_lie_within((most + off, math.inf), bounds, n, confidence) is possible
        assert can_lie_within((-math.inf, least - off), bounds, n, confidence) is possible
        middle = (low + high) / 2
        region = (middle - width / 2 + off, middle + width / 2 - off)
        assert can_lie_within(region, bounds, n, confidence) is possible
    many = 10**20  # so many that nothing goes unseen
    assert can_lie_within((middle, middle), bounds, many)
    assert not can_lie_within((middle, middle), bounds, many, open=True)
    assert not can_lie_within((high + 1, high + 2), bounds, many)


def test_halves_read_the_head_that_the_other_half_chose():
    for samples in (1, 2, 5, 6):
        one, two, values = RNG.random((3, samples, 4))
        for by in (one, [one], [one, two]):
            scores = [by] if isinstance(by, np.ndarray) else by
            expected = []
            for at in range(samples):
                others = [i for i in range(samples) if (i < samples // 2) != (at < samples // 2)]
                chosen = [min(each[others or [at], head].mean() for each in scores)
                          for head in range(4)]  # fmt: skip
                expected.append(values[at, int(np.argmax(chosen))])
            assert read_cross_fitted(by, values).tolist() == expected


def test_a_tie_is_a_head_less_than_two_standard_errors_below():
    gaps = np.array([2.5, 0.5, 0.5, 0.5])  # of mean 1, which is twice its standard error
    best = np.array([3.0, 3, 3, 3])
    for off, width in ((0.0, 1.0), (-0.01, TIE_WIDTH), (0.01, 1.0)):
        assert tie_width(np.stack([best - gaps - off, best], axis=1)) == width
    assert math.sqrt(1.36) == TIE_WIDTH
    assert tie_width(np.array([[1.0, 1.0]])) == 1 == tie_width(np.array([[1.0], [2.0]]))
    for _ in range(40):
        scores = RNG.normal([[0.3, 0, 0, 0]], 0.3, (2, 6, 4))
        decisive = [
            min(scores, key=lambda each: each[:, head].mean())[:, head] for head in range(4)
        ]
        top = max(decisive, key=np.mean)
        tied = any(
            (top - one).mean() < 2 * stats.sem(top - one) for one in decisive if one is not top
        )
        assert tie_width(list(scores)) == (TIE_WIDTH if tied else 1.0)


@pytest.mark.parametrize(
    ("skewness", "exact"), [(0.7e-9, True), (-0.7e-9, True), (1e-9, False), (-1.5e-9, False)]
)
def test_next_to_no_skewness_is_none(skewness, exact):
    assert (float(undo_skewness(1.7, np.array(skewness))) == 1.7) is exact


def test_skewness_is_that_of_sums_over_columns():
    values = RNG.gamma(1, 1, (3, 2))
    assert sample_skewness(values) == pytest.approx(stats.skew(values, bias=False))
    alike = np.column_stack([values[:, 0], np.full(3, 0.5)])
    assert sample_skewness(alike)[1] == 0
    low, high = clopper_pearson(np.array([0, 1, 4, 5]), 5)
    assert (low[0], high[3]) == (0, 1)
    for place, hits in ((1, 1), (2, 4)):
        exact = stats.binomtest(hits, 5).proportion_ci(0.95)
        assert (low[place], high[place]) == pytest.approx((exact.low, exact.high))


STRATA = {
    "two values": [[0.2, 0.9], [0.1, 0.2, 0.9, 0.4]],
    "two values each": [[0.2, 0.9], [0.1, 0.4]],
    "three values": [[0.2, 0.9, 0.3], [0.9, 0.9, 0.9], [0.1, 1.0, 0.2, 0.1, 0.3]],
    "near an end": [[0.98, 1.0, 1.0], [1.0, 1.0, 0.99]],
    "at the other": [[0.0, 0.02, 0.0], [0.0, 0.0, 0.0]],
}


@pytest.mark.parametrize("bounds", [None, (0.0, 1.0), (-1.0, 2.0)])
@pytest.mark.parametrize("name", STRATA)
def test_strata_have_the_interval_of_sums_written_out(name, bounds):
    strata = [np.array(values) for values in STRATA[name]]
    parts = [stats.sem(values) ** 2 for values in strata]
    mean, error = np.mean([values.mean() for values in strata]), sum(parts) ** 0.5 / len(strata)
    df = sum(parts) ** 2 / sum(part**2 / (len(x) - 1) for part, x in zip(parts, strata))
    fewest = min(len(values) for values in strata)
    a = 0.0
    if fewest >= 3:
        thirds = [stats.kstat(values, 3) / len(values) ** 2 for values in strata]
        a = sum(thirds) / sum(parts) ** 1.5
    student, hall = stats.t.ppf([0.975, 0.98], df)

    def undo(quantile):
        return 3 / a * (np.cbrt(1 + a * (quantile - a / 6)) - 1) if a else quantile

    below, above = max(student, undo(hall)) * error, max(student, -undo(-hall)) * error
    low, high = mean - below, mean + above
    if bounds:
        unseen = 1 - 0.025 ** (1 / (len(strata) * fewest))
        low = max(bounds[0], min(low, mean - unseen * (mean - bounds[0])))
        high = min(bounds[1], max(high, mean + unseen * (bounds[1] - mean)))
    found = stratified_metric(strata, bounds)
    assert (found.value, found.stderr) == pytest.approx((mean, error))
    assert (found.ci_low, found.ci_high) == pytest.approx((low, high))
    assert (found.n, found.samples) == (sum(len(values) for values in strata), None)


def test_a_stratum_of_one_value_is_refused_beside_any_others():
    with pytest.raises(NotMeasurable):
        stratified_metric([np.array([0.1, 0.2, 0.3]), np.array([0.5])])


@pytest.mark.parametrize(
    ("first", "most", "sizes"),
    [
        (1, 1, [1]),
        (5, 5, [5]),
        (5, 6, [5, 6]),
        (4, 30, [4, 8, 16, 30]),
        (4, 32, [4, 8, 16, 32]),
        (4, 33, [4, 8, 16, 32, 33]),
        (4, 7, [4, 7]),
        (4, 8, [4, 8]),
    ],
)
def test_looks_double_up_to_the_last(first, most, sizes):
    assert look_sizes(first, most) == sizes
    looks = len(sizes)
    assert look_confidence(looks) == pytest.approx(1 - 0.05 / looks)


@pytest.mark.parametrize(("first", "most"), [(0, 3), (4, 3), (-1, 3)])
def test_looks_that_do_not_grow_are_refused(first, most):
    with pytest.raises(ValueError, match=f"looks from {first} to {most}"):
        look_sizes(first, most)


def test_pilots_bound_the_others_by_their_largest_relative_error():
    assert draw_pilots(19, 0) == list(range(19))
    assert draw_pilots(24, 7) == [0, 1, 2, 3, 4, 5, 7, 8, 9, 10, 12, 14, 16, 17, 18, 20, 21, 22, 23]
    cheap, full = np.array([1.0, -2.0, 0.0]), np.array([1.5, -2.5, 0.25])
    worst = max(0.5 / (1 + 0.25), 0.5 / (2 + 0.25), 0.25 / 0.25)
    values = np.array([3.0, -4.0, 0.0])
    low, high = fit_bounds(cheap, full, 0.25, caution=1.5)(values)
    half = 1.5 * worst * (np.abs(values) + 0.25)
    assert (low, high) == (pytest.approx(values - half), pytest.approx(values + half))
