"""Where a curve over training steps changes and how suddenly, against slow, obvious readings."""

from __future__ import annotations

import numpy as np
import pytest

from icl_bench.measures import phase
from icl_bench.records.parts import Metric

STEPS = np.array([1, 4, 16, 64, 128, 200, 300, 400, 500, 600, 700, 800, 900, 1000, 1500, 2000])


def slow_isotonic(values):
    """The min-max formula: the largest, over starts, of the smallest mean over ends."""
    count = len(values)
    return [
        max(min(np.mean(values[i : j + 1]) for j in range(k, count)) for i in range(k + 1))
        for k in range(count)
    ]


def slow_steepest(positions, rising):
    """Slide a window over a fine grid."""
    width = 0.1 * (positions[-1] - positions[0])
    starts = np.linspace(positions[0], positions[-1] - width, 2001)
    rises = np.interp(starts + width, positions, rising) - np.interp(starts, positions, rising)
    return rises.max()


def slow_cross(positions, rising, level):
    fine = np.linspace(positions[0], positions[-1], 20001)
    return fine[np.flatnonzero(np.interp(fine, positions, rising) >= level)[0]]


def random_curve(rng, count=None):
    count = count or int(rng.integers(3, 25))
    positions = np.sort(rng.uniform(0, 8, count))
    return positions, np.cumsum(rng.exponential(1, count) * (rng.random(count) < 0.6))


def sigmoid(steps, middle, width):
    """Rise from 0 to 1 in log(step), 10% to 90% in `width`."""
    return 1 / (1 + np.exp(-(np.log(steps) - np.log(middle)) * 4.394 / width))


def curve(values, noise=0.02, sequences=32, seed=0, steps=STEPS):
    rng = np.random.default_rng(seed)
    return phase.Curve(steps, values + rng.normal(0, noise, (sequences, len(steps))))


def test_isotonic_regression_is_the_min_max_formula():
    rng = np.random.default_rng(0)
    for _ in range(30):
        values = rng.normal(0, 1, int(rng.integers(2, 12)))
        assert phase.fit_monotone(values) == pytest.approx(np.array(slow_isotonic(values)))


def test_the_steepest_tenth_is_what_a_sliding_window_finds():
    rng = np.random.default_rng(1)
    for _ in range(40):
        positions, rising = random_curve(rng)
        start, rise = phase.steepest(positions, rising)
        assert rise == pytest.approx(slow_steepest(positions, rising), abs=0.01)
        assert rise >= slow_steepest(positions, rising) - 1e-9
        width = 0.1 * (positions[-1] - positions[0])
        read = np.interp([start, start + width], positions, rising)
        assert rise == pytest.approx(read[1] - read[0])


def test_no_rising_curve_through_the_points_leaves_the_bounds():
    """Curves that jump anywhere between the points, and ones that jump as the bounds imagine."""
    rng = np.random.default_rng(2)
    reached = []
    for _ in range(30):
        positions, rising = random_curve(rng, 8)
        least, most = phase.bound_steepest(positions, rising)
        width = 0.1 * (positions[-1] - positions[0])
        assert least <= phase.steepest(positions, rising)[1] + 1e-9 <= most + 2e-9
        highest = 0.0
        for _ in range(25):
            # In every gap the whole rise comes at one place: at an end of it or in between.
            places = positions[:-1] + np.diff(positions) * rng.choice(
                [0.001, 0.999, rng.random()], len(positions) - 1
            )
            rises = np.diff(rising)
            starts = np.concatenate([places - 1e-9, positions]).clip(0, positions[-1] - width)
            found = max(
                rises[(places >= start) & (places <= start + width)].sum() for start in starts
            )
            assert least - 1e-9 <= found <= most + 1e-9
            highest = max(highest, found)
        reached.append(highest / most)
    assert np.median(reached) > 0.95  # the upper bound is not idle


def test_a_level_is_crossed_where_it_is_first_reached():
    rng = np.random.default_rng(3)
    for _ in range(30):
        positions, rising = random_curve(rng)
        if rising[-1] == rising[0]:
            continue
        for share in (0.1, 0.5, 0.9):
            level = rising[0] + share * (rising[-1] - rising[0])
            expected = slow_cross(positions, rising, level)
            assert phase.cross(positions, rising, level) == pytest.approx(expected, abs=2e-3)
    flat = np.array([0.0, 0.5, 0.5, 1.0])
    assert phase.cross(np.arange(4.0), flat, 0.5) == 1.0
    assert phase.cross(np.arange(4.0), flat, 0.0) == 0.0


def test_an_even_rise_has_a_tenth_in_every_tenth():
    positions = np.log(STEPS)
    assert phase.sharpness(positions, positions) == pytest.approx(0.1)
    assert phase.sharpness(positions, -positions) == 0.0
    assert phase.sharpness(positions, np.ones(len(STEPS))) == 0.0


def test_the_jackknife_of_a_mean_is_its_standard_error():
    samples = np.random.default_rng(4).normal(0, 1, (20, 3))
    values, errors = phase.jackknife(samples, lambda mean: mean)
    assert values == pytest.approx(samples.mean(0))
    assert errors == pytest.approx(samples.std(0, ddof=1) / 20**0.5)
    assert phase.jackknife(samples[:1], lambda mean: mean)[1] is None


def test_the_jackknife_leaves_out_one_row_at_a_time():
    samples = np.random.default_rng(5).gamma(2, 1, (9, 2))
    found = phase.jackknife(samples, lambda mean: np.array([mean[0] / mean[1]]))[1]
    ratios = [np.delete(samples, i, 0).mean(0) for i in range(9)]
    ratios = np.array([mean[0] / mean[1] for mean in ratios])
    assert found[0] == pytest.approx((8 / 9 * ((ratios - ratios.mean()) ** 2).sum()) ** 0.5)


def test_a_sudden_change_is_found_between_the_checkpoints_around_it():
    change = phase.find_change(curve(sigmoid(STEPS, 650, 0.3)))
    assert (change.midpoint.ci_low, change.midpoint.ci_high) == (600, 700)
    assert 640 < change.midpoint.value < 660
    assert change.onset.value < change.midpoint.value < change.end.value
    assert change.sharpness.value > 0.9 and change.sharpness.ci_low > 0.85
    assert change.fastest.ci_low <= 650 <= change.fastest.ci_high
    assert change.setback < 0.05


def test_a_gradual_change_is_not_sharp():
    change = phase.find_change(curve(np.log(STEPS) / np.log(2000)))
    # The wide gaps between the first checkpoints, and nothing else, leave so much open.
    assert change.sharpness.value < 0.12 and change.sharpness.ci_high < 0.4
    assert change.onset.value == pytest.approx(2000**0.1, rel=0.3)
    assert change.midpoint.ci_low <= 2000**0.5 <= change.midpoint.ci_high


def test_a_jump_inside_a_wide_gap_cannot_be_told_from_a_slow_rise():
    """Three checkpoints: the interval says that everything is possible."""
    steps = np.array([1, 30, 2000])
    change = phase.find_change(curve(np.array([0.0, 0.0, 1.0]), steps=steps))
    assert change.sharpness.ci_low == 0 and change.sharpness.ci_high == 1
    assert (change.midpoint.ci_low, change.midpoint.ci_high) == (30, 2000)


def test_a_coarse_linear_grid_does_not_make_an_even_rise_sharp():
    """Half of the range lies before the second checkpoint, and so does half of the rise."""
    steps = np.array([1, *range(50, 2001, 50)])
    values = np.log(steps) / np.log(2000)
    assert values[1] > 0.5
    assert phase.sharpness(np.log(steps), values) == pytest.approx(0.1)


def test_a_score_that_falls_again_shows_its_setback():
    rising_and_falling = np.concatenate([np.linspace(0, 1, 12), [0.9, 0.8, 0.7, 0.6]])
    assert phase.find_change(curve(rising_and_falling, 0.001)).setback == pytest.approx(
        0.67, abs=0.01
    )


def test_one_sequence_gives_no_interval():
    change = phase.find_change(curve(sigmoid(STEPS, 650, 0.3), sequences=1))
    for metric in (change.onset, change.midpoint, change.end, change.fastest, change.sharpness):
        assert metric.ci_low is None and metric.stderr is None and metric.n == 1


def test_a_falling_curve_has_no_rise_to_read():
    with pytest.raises(ValueError, match="does not rise"):
        phase.find_change(curve(-sigmoid(STEPS, 650, 0.3)))


def test_the_rise_is_paired_by_sequence():
    """What differs from sequence to sequence and not from step to step does not widen it."""
    samples = np.random.default_rng(0).normal(0, 5, (8, 1)) + sigmoid(STEPS, 650, 0.3)
    rise = phase.Curve(STEPS, samples).rise()
    assert rise.value == pytest.approx(1, abs=1e-3) and rise.stderr < 1e-6
    assert phase.Curve(STEPS, samples).rise(3).value < 0.01


@pytest.mark.parametrize("steps", [[1], [0, 1, 2], [1, 3, 2], [1, 1]])
def test_steps_without_a_logarithm_or_an_order_are_refused(steps):
    with pytest.raises(ValueError, match="ascending, from 1 on"):
        phase.Curve(np.array(steps), np.zeros((2, len(steps))))


def test_a_distance_counts_doublings_and_spans_both_intervals():
    early = Metric(value=200, stderr=20, ci_low=100, ci_high=400, n=8)
    late = Metric(value=800, stderr=80, ci_low=800, ci_high=1600, n=8)
    found = phase.doublings_between(early, late)
    assert (found.value, found.ci_low, found.ci_high) == (2, 1, 4)
    assert found.stderr == pytest.approx(2**0.5 * 0.1 / np.log(2))
    assert phase.doublings_between(late, early).value == -2
    assert phase.doublings_between(Metric(value=1), late).ci_low is None


def test_checkpoints_around_a_step():
    assert phase.enclosing_steps(STEPS, 500, 500) == (500, 500)
    assert phase.enclosing_steps(STEPS, 501, 599) == (500, 600)
    assert phase.enclosing_steps(STEPS, 0.5, 9000) == (1, 2000)
