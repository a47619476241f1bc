"""Intervals and p-values against scipy, closed forms and simulation."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from icl_bench.measures import statistics as st
from icl_bench.measures.cross_fitting import TIE_WIDTH


def test_mean_and_standard_error_equal_scipys():
    values = [0.2, 0.5, 0.9, 0.4, 0.45]
    metric = st.mean_metric(values)
    assert metric.value == pytest.approx(np.mean(values))
    assert metric.stderr == pytest.approx(stats.sem(values))
    assert metric.samples == values and metric.n == 5


def test_one_sample_has_no_standard_error():
    for metric in (
        st.mean_metric([0.3]),
        st.ratio_metric([2.0], [1.0]),
        st.share_metric([2.0], [1.0]),
        st.count_above(np.array([[0.5, 0.1]]), 0.4),
        st.proportion_metric([True]),
        st.proportion_lost_metric([True], [False]),
    ):
        assert metric.stderr is None and metric.ci_low is None and metric.ci_high is None
        assert metric.n == 1


def test_no_sample_is_an_error():
    with pytest.raises(ValueError):
        st.mean_metric([])


def simulate(make, runs=600):
    rng = np.random.default_rng(0)
    return np.mean([make(rng) for _ in range(runs)])


def test_the_mean_interval_covers_19_of_20():
    def covers(rng):
        metric = st.mean_metric(rng.normal(1, 2, 8), keep=False)
        return metric.ci_low <= 1 <= metric.ci_high

    assert 0.925 < simulate(covers) < 0.975


RATIOS = {
    "loss_ratio": (st.ratio_metric, lambda a, b: a.mean() / b.mean()),
    "copying_lost": (st.share_metric, lambda a, b: a.mean() / b.mean()),
}


@pytest.mark.parametrize(("make", "read"), RATIOS.values(), ids=RATIOS)
def test_the_samples_of_a_ratio_have_its_mean_and_its_standard_error(make, read):
    rng = np.random.default_rng(2)
    b = rng.gamma(4, 1, 40)
    metric = make(2 * b + rng.normal(0, 1, 40), b)
    assert np.mean(metric.samples) == pytest.approx(metric.value, abs=1e-12)
    assert stats.sem(metric.samples) == pytest.approx(metric.stderr)
    assert make([2.0], [1.0]).samples == [2.0]


def jackknifed(read, before, after):
    """Standard error of how much a ratio of means changed, by leaving out one sequence each."""
    n = len(before[0])
    left = [
        read(*(np.delete(x, i) for x in after)) - read(*(np.delete(x, i) for x in before))
        for i in range(n)
    ]
    return math.sqrt((n - 1) / n * np.sum((np.array(left) - np.mean(left)) ** 2))


@pytest.mark.parametrize(("make", "read"), RATIOS.values(), ids=RATIOS)
def test_differences_of_the_samples_are_those_of_two_ratios_on_the_same_sequences(make, read):
    """Two models on 400 sequences that are hard for both, one a little better."""
    rng = np.random.default_rng(3)
    b = rng.gamma(3, 1, 400)
    before = 3 * b + rng.normal(0, 1, 400), b
    after = before[0] * 0.97 + rng.normal(0, 0.1, 400), b * np.exp(rng.normal(0, 0.05, 400))
    old, new = make(*before), make(*after)
    paired = stats.sem(np.subtract(new.samples, old.samples))
    assert paired == pytest.approx(jackknifed(read, before, after), rel=0.02)
    assert paired < 0.5 * math.hypot(old.stderr, new.stderr)  # what pairing is for


@pytest.mark.parametrize("make", [st.ratio_metric, st.share_metric])
def test_an_unchanged_ratio_is_told_to_have_changed_one_time_in_twenty(make):
    """Nothing but noise on 32 sequences' losses: the paired interval holds 0."""

    def alarms(rng):
        b = rng.gamma(3, 1, 32)
        a = 3 * b + rng.normal(0, 1, 32)
        noise = [x * np.exp(rng.normal(0, 0.02, 32)) for x in (a, b)]
        return stats.ttest_rel(make(a, b).samples, make(*noise).samples).pvalue < 0.05

    assert 0.03 < simulate(alarms, 1500) < 0.07


def test_the_ratio_interval_covers_19_of_20_for_paired_losses():
    def covers(rng):
        base = rng.gamma(9, 1 / 3, 32)
        other = base * 4 + rng.normal(0, 1, 32)
        metric = st.ratio_metric(other, base)
        return metric.ci_low <= 4 <= metric.ci_high

    assert 0.92 < simulate(covers) < 0.98


def test_the_share_interval_covers_19_of_20():
    def covers(rng):
        whole = rng.normal(10, 1, 32)
        metric = st.share_metric(0.8 * whole + rng.normal(0, 1, 32), whole)
        return metric.ci_low <= 0.8 <= metric.ci_high

    assert 0.92 < simulate(covers) < 0.98


def test_ratio_and_share_are_of_the_means():
    a, b = [1.0, 3.0], [1.0, 1.0]
    assert st.ratio_metric(a, b).value == 2
    assert st.share_metric(a, b).value == 2
    with pytest.raises(ValueError):
        st.ratio_metric(a, [-1.0, -1.0])
    with pytest.raises(ValueError):
        st.share_metric(a, [-1.0, 1.0])


def test_a_proportion_has_the_exact_interval_and_no_error_of_zero():
    metric = st.proportion_metric([True] * 10)
    low, high = stats.binomtest(10, 10).proportion_ci(method="exact")
    assert (metric.ci_low, metric.ci_high) == pytest.approx((low, high))
    assert metric.stderr is None
    mixed = st.proportion_metric([True] * 7 + [False] * 3)
    low, high = stats.binomtest(7, 10).proportion_ci(method="exact")
    assert (mixed.ci_low, mixed.ci_high) == pytest.approx((low, high))
    assert mixed.stderr == pytest.approx(np.std([1] * 7 + [0] * 3, ddof=1) / math.sqrt(10))


def test_choosing_and_reading_on_the_same_samples_would_overstate():
    rng = np.random.default_rng(1)
    naive, fitted = [], []
    for _ in range(200):
        scores = rng.normal(0, 1, (16, 50))
        naive.append(scores.mean(0).max())
        fitted.append(st.cross_fitted_max(scores).mean())
    assert np.mean(naive) > 0.4
    assert abs(np.mean(fitted)) < 0.05


def test_the_cross_fitted_maximum_finds_a_true_one():
    scores = np.random.default_rng(2).normal(0, 0.01, (8, 20))
    scores[:, 13] += 0.7
    assert st.cross_fitted_max(scores) == pytest.approx(scores[:, 13])


def test_counts_of_heads_bracket_the_undecided_ones():
    rng = np.random.default_rng(3)
    means = np.array([0.9, 0.8, 0.41, 0.39, 0.1])
    metric = st.count_above(means + rng.normal(0, 0.05, (32, 5)), 0.4)
    assert metric.value in (2, 3, 4)
    assert (metric.ci_low, metric.ci_high) == (2, 4)


def test_the_p_value_counts_the_observed_set_itself():
    assert st.monte_carlo_p(5, [1, 2, 3]) == 0.25
    assert st.monte_carlo_p(5, [5, 6, 3]) == 0.75
    assert st.monte_carlo_p(5, [0] * 99) == 0.01


def test_the_p_value_is_uniform_when_nothing_is_there():
    rng = np.random.default_rng(4)
    ps = [st.monte_carlo_p(rng.normal(), rng.normal(size=19).tolist()) for _ in range(3000)]
    for level in (0.05, 0.25, 0.5):
        assert np.mean(np.array(ps) <= level + 1e-9) == pytest.approx(level, abs=0.03)


def test_heads_chosen_by_one_score_are_read_by_another_on_the_other_half():
    by = np.array([[0.9, 0.1], [0.8, 0.1], [0.1, 0.9], [0.1, 0.7]])
    values = np.array([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0], [7.0, 8.0]])
    # The first half chooses head 0, which the second reads, and the other way round.
    assert st.read_cross_fitted(by, values).tolist() == [2, 4, 5, 7]
    assert st.read_cross_fitted(by[:1], values[:1]).tolist() == [1]


def test_a_count_becomes_a_share_with_its_interval():
    count = st.count_above(np.array([[0.9, 0.1, 0.5], [0.8, 0.1, 0.5], [0.9, 0.2, 0.4]]), 0.45)
    share = st.divide_count(count, 4)
    assert share.value == count.value / 4 and share.n == 3
    assert (share.ci_low, share.ci_high) == (count.ci_low / 4, count.ci_high / 4)
    alone = st.divide_count(st.count_above(np.array([[0.9, 0.1]]), 0.5), 2)
    assert alone.value == 0.5 and alone.ci_low is None


def test_quantiles_are_scipys():
    for n in (3, 8, 33):
        assert st.student_t(n) == stats.t.ppf(0.975, n)
        assert st.student_t(n, 5, 0.99) == stats.t.ppf(1 - 0.01 / 2 / 5, n)


def test_a_lost_share_is_agresti_and_mins_interval():
    before = [True] * 7 + [False] * 3
    after = [True, True, False, False, False, True, True, True, False, False]
    metric = st.proportion_lost_metric(before, after)
    # 3 of 10 lost, 1 won; half an item more in each of the four cells makes 3.5, 1.5 and 12.
    assert metric.value == pytest.approx(0.2)
    centre, spread = 2 / 12, math.sqrt((5 - 2**2 / 12) / 12**2)
    half = stats.norm.ppf(0.975) * spread
    assert (metric.ci_low, metric.ci_high) == pytest.approx((centre - half, centre + half))
    assert metric.samples == [0, 0, 1, 1, 1, 0, 0, -1, 0, 0]


def test_nothing_lost_among_a_few_items_is_not_certain():
    metric = st.proportion_lost_metric([True] * 8, [True] * 8)
    assert metric.value == 0 and metric.ci_low < 0 < metric.ci_high
    assert metric.stderr is None
    every = st.proportion_lost_metric([True] * 8, [False] * 8)
    assert every.value == 1 and every.ci_low < 1


@pytest.mark.parametrize(("gone", "come"), [(0.02, 0.0), (0.3, 0.05), (0.5, 0.0), (0.1, 0.1)])
def test_the_interval_of_a_lost_share_covers_about_19_of_20(gone, come):
    def covers(rng):
        kind = rng.random(32)
        before = (kind < gone) | (kind > 0.7)
        after = ((kind >= gone) & (kind < gone + come)) | (kind > 0.7)
        metric = st.proportion_lost_metric(before, after)
        return metric.ci_low <= gone - come <= metric.ci_high

    assert simulate(covers, 1000) > 0.92


@pytest.mark.parametrize("heads", [2, 3, 10])
def test_a_best_of_equal_heads_varies_as_much_as_is_made_up_for(heads):
    rng = np.random.default_rng(heads)
    errors = [st.cross_fitted_max(rng.normal(0, 1, (16, heads))).mean() * 4 for _ in range(4000)]
    largest = np.max(rng.normal(0, 1, (20_000, heads)), axis=1).mean()
    assert np.var(errors) == pytest.approx(1 + largest**2 / (heads - 1), abs=0.08)
    assert np.var(errors) < TIE_WIDTH**2 + 0.05


def test_the_best_of_near_ties_is_held_by_19_intervals_of_20():
    truth = np.array([0.5, 0.49, 0.48, 0.46, 0.1])

    def covers(rng):
        scores = rng.normal(truth, 0.2, (32, 5))
        metric = st.best_metric(scores)
        read = st.read_cross_fitted(scores, np.broadcast_to(truth, scores.shape)).mean()
        return metric.ci_low <= read <= metric.ci_high

    assert 0.945 < simulate(covers, 2000) < 0.98


def test_an_interval_is_wider_only_where_a_second_head_may_be_as_good():
    rng = np.random.default_rng(1)
    scores = rng.normal([0.8, 0.5, 0.5], 0.1, (32, 3))
    plain = st.mean_metric(st.cross_fitted_max(scores))
    assert st.best_metric(scores) == plain and st.tie_width(scores) == 1
    # Of the second score the last head has as much, but it is chosen by its smaller one.
    assert st.tie_width([scores, rng.normal([0.9, 0.9, 0.9], 0.1, (32, 3))]) == 1
    close = scores + np.array([0, 0.29, 0])
    wider = st.best_metric(close)
    plain = st.mean_metric(st.cross_fitted_max(close))
    assert wider.value == plain.value and wider.samples == plain.samples
    assert wider.stderr == pytest.approx(TIE_WIDTH * plain.stderr)
    assert wider.value - wider.ci_low == pytest.approx(TIE_WIDTH * (plain.value - plain.ci_low))
    assert wider.ci_high - wider.value == pytest.approx(TIE_WIDTH * (plain.ci_high - plain.value))


def test_a_wider_interval_ends_at_its_bounds():
    scores = np.column_stack([np.r_[np.ones(15), 0.9], np.r_[0.9, np.ones(15)]])
    metric = st.best_metric(scores, bounds=(0, 1))
    assert metric.ci_high == 1 and 0 < metric.ci_low < metric.value
