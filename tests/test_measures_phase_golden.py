"""Changes of curves, number by number, as a slow computation of its own reads them off."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats
from slow_intervals import ends

from icl_bench.measures import phase
from icl_bench.records.parts import Metric

SEEDS = sorted({*range(32)} - {13, 27})
"""In those left out the last bits say which of two windows of one gap is the steepest."""
FIELDS = ("value", "stderr", "ci_low", "ci_high", "n")


def isotonic(values):
    """The min-max formula."""
    every = range(len(values))
    return [
        max(min(np.mean(values[i : j + 1]) for j in every[k:]) for i in every[: k + 1])
        for k in every
    ]


def at(xs, ys, x):
    """A curve that is straight between its points."""
    for i in range(len(xs) - 1):
        if x <= xs[i + 1]:
            return ys[i] + (ys[i + 1] - ys[i]) * (x - xs[i]) / (xs[i + 1] - xs[i])
    return ys[-1]


def reached(xs, ys, level):
    """The first x at which the curve has a level."""
    for i in range(len(xs)):
        if ys[i] >= level - 1e-15:
            if i == 0:
                return xs[0]
            return xs[i - 1] + (xs[i] - xs[i - 1]) * (level - ys[i - 1]) / (ys[i] - ys[i - 1])
    raise AssertionError("never reached")


def read(xs, values):
    """Positions of onset, midpoint, end and fastest; sharpness with its least and most."""
    ys = isotonic(values)
    total, width, count = ys[-1] - ys[0], (xs[-1] - xs[0]) / 10, len(xs)
    starts = [*xs, *(x - width for x in xs)]
    starts = [min(max(start, xs[0]), xs[-1] - width) for start in starts]
    rises = [at(xs, ys, start + width) - at(xs, ys, start) for start in starts]
    start, rise = starts[int(np.argmax(rises))], max(rises)
    levels = [ys[0] + share * total for share in (0.1, 0.5, 0.9)]
    levels.append(at(xs, ys, start) + rise / 2)
    least = most = 0.0
    for i in range(count):
        for j in range(i + 1, count):
            if xs[j] - xs[i] <= width * (1 + 1e-9):
                least = max(least, ys[j] - ys[i])
            # From inside the gap after i to inside the gap before j.
            if xs[j - 1] - xs[i + 1] < width * (1 - 1e-9):
                most = max(most, ys[j] - ys[i])
    return [*(reached(xs, ys, one) for one in levels), rise / total, least / total, most / total]


def enclosed(steps, low, high):
    before = [step for step in steps if step <= low * (1 + 1e-9)]
    after = [step for step in steps if step >= high * (1 - 1e-9)]
    return before[-1] if before else steps[0], after[0] if after else steps[-1]


def slow_change(steps, samples, confidence):
    """Five metrics and the setback, as tuples of `FIELDS`."""
    xs, count = [math.log(step) for step in steps], len(samples)
    whole = read(xs, np.mean(samples, axis=0))
    left = np.array([read(xs, np.mean(np.delete(samples, i, 0), axis=0)) for i in range(count)])
    errors = np.sqrt((count - 1) ** 2 / count * left.var(axis=0, ddof=1))
    quantile = stats.t.ppf((1 + confidence) / 2, count - 1)
    found = []
    for position, error in zip(whole[:4], errors):
        low, high = (math.exp(position + side * quantile * error) for side in (-1, 1))
        step = math.exp(position)
        found.append((step, step * error, *enclosed(steps, low, high), count))
    low, high = whole[5] - quantile * errors[5], whole[6] + quantile * errors[6]
    found.append((whole[4], errors[4], max(0, low), min(1, high), count))
    mean = np.mean(samples, axis=0)
    falls = [mean[i] - mean[j] for j in range(len(mean)) for i in range(j + 1)]
    return found, max(falls) / (mean[-1] - mean[0])


def made(seed):
    """Steps and samples of a curve with a rise, dips and flat parts."""
    rng = np.random.default_rng(seed)
    count, samples = int(rng.integers(5, 16)), int(rng.integers(2, 8))
    steps = np.sort(rng.choice(np.arange(1, 400), count, replace=False))
    rise = np.cumsum(rng.exponential(1, count) ** 2 * (rng.random(count) < 0.6)) + np.arange(count)
    return steps, rise / rise[-1] + rng.normal(0, rng.choice([0.005, 0.05]), (samples, count))


@pytest.mark.parametrize("confidence", [0.95, 0.99])
def test_a_change_is_that_of_a_slow_reading(confidence):
    for seed in SEEDS:
        steps, samples = made(seed)
        found = phase.find_change(phase.Curve(steps, samples), confidence)
        expected, setback = slow_change(steps, samples, confidence)
        names = ("onset", "midpoint", "end", "fastest", "sharpness")
        for name, numbers in zip(names, expected):
            got = [getattr(getattr(found, name), field) for field in FIELDS]
            assert got == pytest.approx(numbers, rel=1e-6, abs=1e-9), (seed, name)
        assert found.setback == pytest.approx(setback)


def test_one_sample_is_read_without_an_interval():
    steps, samples = made(1)
    found = phase.find_change(phase.Curve(steps, samples[:1]))
    *places, sharp = read(list(np.log(steps)), samples[0])[:5]
    metrics = (found.onset, found.midpoint, found.end, found.fastest)
    assert [one.value for one in metrics] == pytest.approx(np.exp(places))
    assert (found.sharpness.value, found.sharpness.n) == (pytest.approx(sharp), 1)


def test_a_rise_that_one_sample_carries_alone_has_an_interval_from_nothing_to_all():
    samples = np.array([[0.0, 0, 0, 0, 0], [0, 0, 0, 0, 8], [0, 0, 0, 0, 0]])
    found = phase.find_change(phase.Curve(np.array([1, 10, 20, 30, 40]), samples))
    assert (found.sharpness.ci_low, found.sharpness.ci_high) == (0, 1)
    assert found.sharpness.value == pytest.approx(read(list(np.log([1, 10, 20, 30, 40])),
                                                       [0, 0, 0, 0, 1])[4])  # fmt: skip


@pytest.mark.parametrize("fall", [0.0, 0.1])
def test_a_curve_that_ends_no_higher_has_no_rise(fall):
    curve = phase.Curve(np.array([1, 2, 3]), np.array([[0.0, 5.0, -fall]] * 2))
    with pytest.raises(ValueError, match="does not rise"):
        phase.find_change(curve)


SPACED = np.array([0.0, 4, 8, 12, 16, 20, 24, 28, 32, 36, 40])
"""Positions that are a tenth of their range apart, which is 4."""


@pytest.mark.parametrize(
    ("longer", "least", "most"),
    [
        (0.0, 1, 2),
        (4 * 0.7e-9, 1, 2),  # the last bits of a float
        (4 * 1.5e-9, 0, 2),
        (-4 * 0.7e-9, 1, 2),
        (-4 * 1.5e-9, 1, 3),
    ],
)
def test_a_window_of_a_tenth_holds_points_a_tenth_apart(longer, least, most):
    """Three steps of 1, in the gaps before, after and of a pair of points a tenth apart."""
    positions = np.concatenate([SPACED[:6], SPACED[6:] + longer])
    # The range stays as it is, and only the pair at 20 and 24 is farther or nearer.
    positions[-1] = 40
    rising = np.array([0.0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 1])
    assert phase.bound_steepest(positions, rising)[0] == least
    around = np.array([0.0, 0, 0, 0, 0, 1, 2, 3, 3, 3, 3])
    positions[7] = positions[6] + 4.5
    assert phase.bound_steepest(positions[[0, 4, 5, 6, 7, 10]], around[[0, 4, 5, 6, 7, 10]])[1] == (
        most
    )


def test_points_as_far_apart_as_a_window_to_the_last_bit():
    width = 4.0
    one_more, one_less = width + 1e-9 * width, width - 1e-9 * width
    within = np.array([0.0, one_more, 20, 40]), np.array([0.0, 1, 1, 1])
    assert phase.bound_steepest(*within)[0] == 1
    apart = np.array([-10.0, 0, one_less, 30]), np.array([0.0, 1, 1, 2])
    assert phase.bound_steepest(*apart)[1] == 1


def test_levels_beyond_the_curve_are_crossed_at_its_ends():
    xs = np.array([1.0, 2.0, 4.0, 7.0])
    ys = np.array([0.0, 1.0, 3.0, 3.0])
    found = [phase.cross(xs, ys, level) for level in (-1, 0, 0.5, 1, 2, 3)]
    assert found == [1, 1, 1.5, 2, 3, 4]
    assert phase.cross(xs[:3], ys[:3], 9.0) == 4
    assert phase.cross(xs, ys, 9.0) == 4  # where it does not rise any more


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        (500, 500, (500, 500)),
        (500 * (1 - 0.7e-9), 500 * (1 + 0.7e-9), (500, 500)),
        (500 * (1 - 1.5e-9), 500 * (1 + 1.5e-9), (400, 600)),
        (401, 599, (400, 600)),
        (1, 600, (100, 600)),
        (100, 601, (100, 600)),
    ],
)
def test_checkpoints_around_an_interval(low, high, expected):
    assert phase.enclosing_steps(np.arange(100, 601, 100), low, high) == expected


@pytest.mark.parametrize("bounds", [None, (0.0, 1.0), (2.0, 5.0)])
def test_a_rise_is_a_mean_of_differences_with_their_bounds(bounds):
    samples = np.array([[2.1, 3, 5], [2.5, 4, 4.5], [2.2, 3, 4.9], [2.1, 2, 4.9]])
    samples = samples if bounds != (0.0, 1.0) else samples / 5
    curve = phase.Curve(np.array([1, 2, 3]), samples, bounds)
    span = bounds and (bounds[0] - bounds[1], bounds[1] - bounds[0])
    for found, last in ((curve.rise(), 2), (curve.rise(1), 1)):
        differences = samples[:, last] - samples[:, 0]
        assert found.value == pytest.approx(differences.mean())
        assert (found.ci_low, found.ci_high) == pytest.approx(ends(differences, 0.95, span))
        assert found.samples == differences.tolist()


@pytest.mark.parametrize("shape", [(3,), (2, 2), (2, 4), (2, 3, 1)])
def test_samples_of_another_shape_are_refused(shape):
    with pytest.raises(ValueError, match="not of shape"):
        phase.Curve(np.array([1, 2, 3]), np.zeros(shape))


def test_two_steps_from_1_on_are_a_curve():
    curve = phase.Curve(np.array([1, 2]), np.array([[0.0, 1.0]]))
    assert curve.positions.tolist() == [0, math.log(2)]
    assert phase.find_change(curve).midpoint.value == pytest.approx(math.sqrt(2))


def test_a_distance_has_an_error_and_an_interval_only_of_two_that_have_them():
    early = Metric(value=100, stderr=5, ci_low=80, ci_high=160, n=8)
    late = Metric(value=320, stderr=32, ci_low=200, ci_high=640, n=6)
    found = phase.doublings_between(early, late)
    assert found.value == pytest.approx(math.log2(3.2)) and found.n == 6
    assert (found.ci_low, found.ci_high) == pytest.approx((math.log2(200 / 160), 3))
    assert found.stderr == pytest.approx(math.hypot(5 / 100, 32 / 320) / math.log(2))
    for bare in (phase.doublings_between(early, Metric(value=320)),
                 phase.doublings_between(Metric(value=100), late)):  # fmt: skip
        assert (bare.stderr, bare.ci_low, bare.ci_high) == (None, None, None)
    for name in ("ci_low", "ci_high"):
        partly = phase.doublings_between(early.model_copy(update={name: None}), late)
        assert (partly.ci_low, partly.ci_high) == (None, None) and partly.stderr is not None
