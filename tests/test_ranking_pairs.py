"""Telling models apart: vectorized pairs against a slow loop with scipy, and simulated coverage."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from icl_bench.ranking.entries import Figure
from icl_bench.ranking.pairs import rank_ranges, tell_apart


def figure(samples, keep=True, exact=False):
    samples = np.asarray(samples, dtype=float)
    n = len(samples)
    error = float(samples.std(ddof=1) / math.sqrt(n)) if n > 1 else None
    return Figure(
        float(samples.mean()), error or None, n=n, exact=exact, samples=samples if keep else None
    )


def slow_interval(one, other, same_tokens, pairs):
    """Interval of one - other by scipy or by hand, pair by pair; None where it is not known."""
    confidence = 1 - 0.05 / pairs
    if one.exact and other.exact:
        return one.value - other.value, one.value - other.value
    if one.exact or other.exact:
        estimated = other if one.exact else one
        if estimated.stderr is None:
            return None
        half = stats.t.ppf((1 + confidence) / 2, estimated.n - 1) * estimated.stderr
        return one.value - other.value - half, one.value - other.value + half
    kept = one.samples is not None and other.samples is not None
    if same_tokens and kept and len(one.samples) == len(other.samples) > 1:
        n = len(one.samples)
        hits = all(v in (0, 1) for v in [*one.samples, *other.samples])
        if not hits:
            if np.array_equal(one.samples, other.samples):
                return 0.0, 0.0
            return tuple(
                stats.ttest_rel(one.samples, other.samples).confidence_interval(confidence)
            )
        # Agresti and Min: half a pair more in each of the four cells.
        more = sum(a > b for a, b in zip(one.samples, other.samples)) + 0.5
        less = sum(a < b for a, b in zip(one.samples, other.samples)) + 0.5
        total = n + 2
        half = stats.t.ppf((1 + confidence) / 2, n - 1) * math.sqrt(
            more + less - (more - less) ** 2 / total
        )
        return (more - less - half) / total, (more - less + half) / total
    means, errors, freedom = [], [], []
    pair = (one, other)
    hits = all(f.samples is not None and set(f.samples) <= {0.0, 1.0} for f in pair)
    for f in pair:
        if hits:  # Agresti and Caffo: a hit and a miss more
            share = (sum(f.samples) + 1) / (f.n + 2)
            means.append(share)
            errors.append(math.sqrt(share * (1 - share) / (f.n + 2)))
        else:
            if f.stderr is None:
                return None
            means.append(f.value)
            errors.append(f.stderr)
        freedom.append(f.n - 1)
    total = errors[0] ** 2 + errors[1] ** 2
    df = total**2 / (errors[0] ** 4 / freedom[0] + errors[1] ** 4 / freedom[1])
    half = stats.t.ppf((1 + confidence) / 2, math.floor(df + 1e-9)) * math.sqrt(total)
    return means[0] - means[1] - half, means[0] - means[1] + half


def slow_ranks(figures, tokens, up=True):
    m = len(figures)
    pairs = m * (m - 1) // 2
    ranges = []
    for i in range(m):
        better = worse = 0
        for j in range(m):
            if i == j:
                continue
            same = tokens[i] is not None and tokens[i] == tokens[j]
            found = slow_interval(figures[i], figures[j], same, pairs)
            if found is None:
                continue
            low, high = found
            surely_more, surely_less = low > 0, high < 0
            better += surely_less if up else surely_more
            worse += surely_more if up else surely_less
        ranges.append((1 + better, m - worse))
    return ranges


def mixed_models(seed):
    """Models on the same and on other tokens, without samples, exact, of hits, of one sample."""
    rng = np.random.default_rng(seed)
    figures, tokens = [], []
    shared = rng.normal(0, 1, 16)
    for index in range(24):
        level = rng.normal(0, 2)
        kind = index % 8
        n = 9 if kind == 3 else 16
        samples = level + rng.normal(0, 0.6, n) + (shared if n == 16 else 0)
        if kind in (4, 5):
            samples = (rng.random(16) < rng.choice([0.0, 0.3, 1.0])).astype(float)
        if kind == 6:
            figures.append(Figure(level, exact=True))
        elif kind == 7:
            figures.append(figure(samples[:1]))
        else:
            figures.append(figure(samples, keep=kind != 2))
        tokens.append([None, "a", "b"][0 if index == 9 else 1 + (kind == 1 or kind == 5)])
    figures.append(figures[0])  # the same model once more
    tokens.append(tokens[0])
    return figures, tokens


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("direction", ["up", "down"])
def test_rank_ranges_are_those_of_a_slow_loop_over_pairs(seed, direction):
    figures, tokens = mixed_models(seed)
    better = tell_apart(figures, tokens).better(direction)
    assert rank_ranges(better) == slow_ranks(figures, tokens, direction == "up")
    assert better.any()


@pytest.mark.parametrize("seed", range(2))
def test_every_interval_is_that_of_a_slow_loop_over_pairs(seed):
    figures, tokens = mixed_models(seed)
    found = tell_apart(figures, tokens)
    m = len(figures)
    for i in range(m):
        for j in range(m):
            same = tokens[i] is not None and tokens[i] == tokens[j]
            slow = slow_interval(figures[i], figures[j], same, m * (m - 1) // 2)
            if i == j:
                assert found.half[i, j] == 0
            elif slow is None:
                assert found.half[i, j] == math.inf
            else:
                fast = (
                    found.centre[i, j] - found.half[i, j],
                    found.centre[i, j] + found.half[i, j],
                )
                assert fast == pytest.approx(slow, rel=1e-7, abs=1e-9), (i, j)


def test_pairing_tells_apart_what_both_standard_errors_do_not():
    rng = np.random.default_rng(1)
    hard = rng.normal(0, 1, 32)  # some sequences are harder for every model
    figures = [figure(hard + 0.2 + rng.normal(0, 0.05, 32)), figure(hard + rng.normal(0, 0.05, 32))]
    assert rank_ranges(tell_apart(figures, ["t", "t"]).better("up")) == [(1, 1), (2, 2)]
    assert rank_ranges(tell_apart(figures, ["t", "u"]).better("up")) == [(1, 2), (1, 2)]
    assert rank_ranges(tell_apart(figures, [None, None]).better("up")) == [(1, 2), (1, 2)]


def test_a_metric_where_less_is_better_ranks_the_other_way_round():
    figures = [figure([1.0, 1.1, 0.9, 1.0]), figure([5.0, 5.1, 4.9, 5.0])]
    pairs = tell_apart(figures, ["a", "b"])
    assert rank_ranges(pairs.better("up")) == [(2, 2), (1, 1)]
    assert rank_ranges(pairs.better("down")) == [(1, 1), (2, 2)]


def test_exact_numbers_are_compared_exactly_and_equal_ones_share_a_rank():
    figures = [Figure(3, exact=True), Figure(2, exact=True), Figure(2, exact=True), Figure(1)]
    ranges = rank_ranges(tell_apart(figures, [None] * 4, exact=True).better("up"))
    assert ranges == [(1, 1), (2, 3), (2, 3), (4, 4)]


def test_without_a_standard_error_nothing_is_told_apart():
    figures = [Figure(100.0, n=32, ci_low=99, ci_high=101), figure([1.0, 1.1]), Figure(0, n=1)]
    assert rank_ranges(tell_apart(figures, [None] * 3).better("up")) == [(1, 3)] * 3


def test_nearly_equal_samples_keep_their_differences():
    base = np.linspace(1e3, 2e3, 32)
    tiny = 1e-7 * np.random.default_rng(0).normal(1, 0.1, 32)
    found = tell_apart([figure(base + tiny), figure(base)], ["t", "t"])
    low, high = stats.ttest_rel(base + tiny, base).confidence_interval(0.95)
    assert found.half[0, 1] == pytest.approx((high - low) / 2, rel=1e-3)
    same = tell_apart([figure(base), figure(base)], ["t", "t"])
    assert same.half[0, 1] == 0 and not same.better("up").any()


def test_an_interval_wider_than_sampling_alone_counts():
    wide = Figure(10.0, 0.001, ci_low=0.0, ci_high=20.0, n=32)
    narrow = Figure(5.0, 0.001, n=32)
    assert rank_ranges(tell_apart([wide, narrow], [None, None]).better("up")) == [(1, 2)] * 2


def test_all_hits_against_none_takes_enough_items():
    few = [figure([1.0] * 3), figure([0.0] * 3)]
    many = [figure([1.0] * 40), figure([0.0] * 40)]
    for tokens in (["t", "t"], ["t", "u"]):
        assert rank_ranges(tell_apart(few, tokens).better("up")) == [(1, 2)] * 2
        assert rank_ranges(tell_apart(many, tokens).better("up")) == [(1, 1), (2, 2)]


def test_looks_widen_the_intervals():
    figures = [figure([1.0, 2.0, 3.0]), figure([0.0, 2.0, 1.0])]
    one, four = (tell_apart(figures, ["t", "t"], looks=k).half[0, 1] for k in (1, 4))
    ratio = stats.t.ppf(1 - 0.025 / 4, 2) / stats.t.ppf(0.975, 2)
    assert four / one == pytest.approx(ratio)


def test_an_interval_that_holds_for_all_looks_is_not_widened_twice():
    n, error, looks = 32, 0.1, 6
    reach = error * stats.t.ppf(1 - 0.025 / looks, n - 1)
    wide = [Figure(v, error, ci_low=v - reach, ci_high=v + reach, n=n) for v in (0.0, 1.0)]
    bare = [Figure(v, error, n=n) for v in (0.0, 1.0)]
    found, expected = (tell_apart(some, [None, None], looks=looks).half for some in (wide, bare))
    assert found[0, 1] == pytest.approx(expected[0, 1])


def test_an_older_record_of_the_same_weights_is_not_counted():
    figures = [figure(x + np.array([0.0, 0.01, -0.01, 0.0])) for x in (3, 3, 2, 1)]
    better = tell_apart(figures, ["a", "b", "c", "d"]).better("up")
    assert rank_ranges(better) == [(1, 2), (1, 2), (3, 3), (4, 4)]
    assert rank_ranges(better, [None, 0, None, None]) == [(1, 1), (1, 1), (2, 2), (3, 3)]


def test_no_model_and_one_model():
    assert rank_ranges(tell_apart([], []).better("up")) == []
    assert rank_ranges(tell_apart([figure([1.0, 2.0])], ["t"]).better("up")) == [(1, 1)]


def test_true_ranks_lie_in_all_ranges_at_once_in_simulated_boards():
    # benchmarks/ranking.py has the large one.
    rng = np.random.default_rng(7)
    held = told = 0
    boards, m, n = 150, 8, 16
    for _ in range(boards):
        truth = rng.normal(0, 0.3, m)
        truth[1] = truth[0]  # a tie
        rows = truth[:, None] + rng.normal(0, 1, n) + rng.normal(0, 0.2, (m, n))
        ranges = rank_ranges(tell_apart([figure(row) for row in rows], ["t"] * m).better("up"))
        best = [1 + int((truth > value).sum()) for value in truth]
        last = [m - int((truth < value).sum()) for value in truth]
        held += all(low <= a and b <= high for (low, high), a, b in zip(ranges, best, last))
        told += sum(high - low < m - 1 for low, high in ranges)
    assert held / boards >= 0.95
    assert told > boards  # and the ranges say something
