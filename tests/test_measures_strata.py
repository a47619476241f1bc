"""Means over a fixed set of strata: against sums written out; how often their intervals hold."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats
from scipy.optimize import brentq

from icl_bench.errors import NotMeasurable
from icl_bench.measures.statistics import mean_metric
from icl_bench.measures.strata import stratified_metric


def test_the_interval_is_that_of_sums_written_out():
    strata = [[1.0, 0.0, 0.0, 1.0], [0.0, -1.0, 0.0], [1.0, 1.0, 1.0, 0.0, 1.0]]
    means = [0.5, -1 / 3, 0.8]
    # Sample variances over counts: 1/3 / 4, 1/3 / 3, .2 / 5.
    parts = [1 / 12, 1 / 9, 0.04]
    error = sum(parts) ** 0.5 / 3
    df = sum(parts) ** 2 / (parts[0] ** 2 / 3 + parts[1] ** 2 / 2 + parts[2] ** 2 / 4)
    found = stratified_metric([np.array(some) for some in strata])
    assert found.value == pytest.approx(sum(means) / 3)
    assert found.stderr == pytest.approx(error)
    # Third cumulants: the first two strata are symmetric or nearly so; k = n^2 m3 / (n-1) / (n-2).
    thirds = [n**2 * stats.moment(x, 3) / (n - 1) / (n - 2) for x in strata for n in [len(x)]]
    a = sum(k / len(x) ** 2 for k, x in zip(thirds, strata)) / sum(parts) ** 1.5

    def undo(quantile):
        return brentq(lambda t: t + a / 3 * t**2 + a**2 / 27 * t**3 + a / 6 - quantile, -99, 99)

    student, hall = stats.t.ppf([0.975, 0.98], df)
    below, above = max(student, undo(hall)) * error, max(student, -undo(-hall)) * error
    assert (found.value - found.ci_low, found.ci_high - found.value) == pytest.approx(
        (below, above)
    )
    assert found.n == 12 and found.samples is None


def test_bounded_values_reach_as_far_as_what_went_unseen():
    """Unseen in 7 tasks of 8 queries at 97.5%: whatever is unseen, however it is spread."""
    strata = [np.array([1.0] * 7 + [0.0])] + [np.ones(8)] * 6
    found = stratified_metric(strata, (0.0, 1.0))
    unseen = 1 - 0.025 ** (1 / 56)
    assert found.ci_high == pytest.approx(1, abs=0.02)
    assert found.value - found.ci_low >= unseen * found.value - 1e-12
    rng = np.random.default_rng(0)
    for _ in range(200):
        shares = rng.random(7) ** 4
        if np.prod((1 - shares) ** 8) >= 0.025:
            assert shares.mean() <= unseen


def test_one_stratum_is_a_plain_mean():
    values = np.array([0.3, 0.1, 0.9, 0.4])
    found, plain = stratified_metric([values]), mean_metric(values)
    for name in ("value", "stderr", "ci_low", "ci_high", "n"):
        assert getattr(found, name) == pytest.approx(getattr(plain, name)), name


def test_how_strata_differ_is_no_error():
    values = np.array([0.0, 1.0, 1.0, 0.0])
    near = stratified_metric([values, values])
    far = stratified_metric([values, values + 100])
    assert far.stderr == pytest.approx(near.stderr)
    assert mean_metric([0.5, 100.5]).stderr > 10


def test_what_gives_no_interval_is_said():
    with pytest.raises(NotMeasurable, match="one query of a task"):
        stratified_metric([np.array([1.0, 0.0]), np.array([1.0])])
    with pytest.raises(NotMeasurable, match="all come out alike"):
        stratified_metric([np.ones(8), np.zeros(8)])


@pytest.mark.parametrize("queries", [4, 8])
def test_intervals_hold_19_of_20_for_tasks_that_gain_much_little_or_nothing(queries):
    """Gains are -1, 0 or 1; the tasks' own gains are fixed, and the truth is their mean."""
    rng = np.random.default_rng(0)
    chances = np.array(
        [[0.02, 0.1], [0.1, 0.5], [0, 0.9], [0.1, 0.3], [0, 0.3], [0.2, 0.2], [0, 0]]
    )
    truth = (chances[:, 1] - chances[:, 0]).mean()
    count = held = pooled = 0
    for _ in range(2000):
        drawn = rng.random((7, queries))
        gains = (drawn > 1 - chances[:, 1:]).astype(float) - (drawn < chances[:, :1])
        if not gains.var(axis=1).any():
            continue  # not measured
        count += 1
        found = stratified_metric(list(gains))
        held += found.ci_low <= truth <= found.ci_high
        over = mean_metric(gains.mean(axis=1))
        pooled += over.ci_high - over.ci_low > 1.2 * (found.ci_high - found.ci_low)
    assert count > 1900
    assert 0.935 < held / count < 0.985
    # The interval for other tasks is the wider one.
    assert pooled / count > 0.8
