"""A bump in a training loss: found where there is one, not in noise around a smooth one."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.stats import binned_statistic

from icl_bench.measures import bump


def convex(step):
    return 4.5 + 1.5 * math.exp(-step / 150)


def dropped(step, at=720):
    return convex(step) - 1.2 / (1 + math.exp(-(step - at) / 25))


def record(shape, steps, noise=0.1, seed=0):
    rng = np.random.default_rng(seed)
    return {int(step): shape(step) + noise * rng.normal() for step in steps}


def slow_minorant(steps, values):
    """At every point, the lowest of all chords that pass it."""
    lowest = list(values)
    for k in range(len(steps)):
        for i in range(k + 1):
            for j in range(k, len(steps)):
                share = (steps[k] - steps[i]) / (steps[j] - steps[i]) if j > i else 0
                lowest[k] = min(lowest[k], values[i] + share * (values[j] - values[i]))
    return lowest


def test_the_minorant_is_the_lowest_of_all_chords():
    rng = np.random.default_rng(0)
    for _ in range(20):
        steps = np.sort(rng.choice(1000, 15, replace=False)).astype(float)
        values = rng.normal(0, 1, 15)
        corners = bump.convex_minorant(steps, values)
        found = np.interp(steps, steps[corners], values[corners])
        assert found == pytest.approx(np.array(slow_minorant(steps, values)))


def test_medians_are_those_of_stretches_of_log_steps():
    losses = record(convex, range(1, 501))
    losses[0] = 99.0
    steps, medians, counts = bump.smooth_losses(losses, 10)
    edges = np.geomspace(1, 500, 11)
    for low, high, middle, median, count in zip(edges, edges[1:], steps, medians, counts):
        inside = [step for step in range(1, 501) if low * (1 - 1e-9) <= step < high * (1 - 1e-9)]
        inside += [500] if high == edges[-1] else []
        assert count == len(inside) and middle == np.median(inside)
        assert median == pytest.approx(np.median([losses[step] for step in inside]))
    binned = binned_statistic(np.log(list(losses)[:-1]), list(losses.values())[:-1], "median", 10)
    assert medians.tolist() == binned.statistic.tolist()


def test_scatter_is_that_of_the_noise_and_not_of_the_curve():
    losses = record(convex, range(1, 2001), noise=0.1)
    assert bump.scatter(np.array(list(losses.values()))) == pytest.approx(0.1, rel=0.1)
    assert bump.scatter(np.arange(50.0) / 7) == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize("decimals", [0, 2, 6])
def test_scatter_is_no_less_than_that_of_the_digits_that_were_kept(decimals):
    line = np.arange(9.0) * 3 / 10**decimals  # without any noise beside rounding
    assert bump.scatter(line) == pytest.approx(10.0**-decimals / math.sqrt(12), rel=1e-6)


@pytest.mark.parametrize("steps", [range(1, 2001), range(10, 2001, 10), range(50, 2001, 50)])
def test_a_drop_is_found_in_the_middle_of_its_fall(steps):
    found = bump.find_bump(record(dropped, steps))
    assert found.significant
    assert found.knee < 720 < found.end
    assert found.step == pytest.approx(720, abs=30)
    # The chord from where the curve bends away to where it is back passes far below.
    assert 0.4 < found.height < 1.1


@pytest.mark.parametrize("steps", [range(1, 2001), range(10, 2001, 10)])
def test_the_standard_error_is_the_spread_over_other_noise(steps):
    """The height above the same chord, of the same curve under 300 draws of its noise."""
    found = bump.find_bump(record(dropped, steps))
    middles, values, _ = bump.smooth_losses(record(dropped, steps))
    start = max(at for at in bump.convex_minorant(middles, values) if middles[at] < found.knee)
    top, stop = np.searchsorted(middles, [found.knee, found.end])
    share = (middles[top] - middles[start]) / (middles[stop] - middles[start])
    heights = []
    for seed in range(1, 301):
        _, values, _ = bump.smooth_losses(record(dropped, steps, seed=seed))
        heights.append(values[top] - (1 - share) * values[start] - share * values[stop])
    assert found.stderr == pytest.approx(np.std(heights, ddof=1), rel=0.12)


def test_the_knee_lies_above_the_minorant_by_the_height():
    losses = record(dropped, range(1, 2001), noise=0.0)
    found = bump.find_bump(losses)
    steps, values, _ = bump.smooth_losses(losses)
    corners = bump.convex_minorant(steps, values)
    below = np.interp(found.knee, steps[corners], values[corners])
    assert found.height == pytest.approx(np.interp(found.knee, steps, values) - below)


@pytest.mark.parametrize("steps", [range(1, 2001), range(10, 2001, 10), range(50, 2001, 50)])
def test_noise_around_a_convex_loss_is_no_bump(steps):
    shapes = (convex, lambda step: 4 + 8 * (step + 20) ** -0.5, lambda step: 4.0)
    found = [
        bump.find_bump(record(shape, steps, seed=seed)) for shape in shapes for seed in range(10)
    ]
    assert not any(one is not None and one.significant for one in found)


def test_a_loss_that_is_convex_all_over_has_none():
    assert (
        bump.find_bump(record(convex, range(1, 200), noise=0.0)) is None
        or not bump.find_bump(record(convex, range(1, 200), noise=0.0)).height > 0.01
    )


@pytest.mark.parametrize("decimals", [1, 2, 3, 4])
def test_rounding_makes_no_bump(decimals):
    """Losses that were recorded with few digits, and fall without a bump."""
    steps = range(10, 1001, 10)
    losses = {step: round(2 + 3 * math.exp(-step / 150), decimals) for step in steps}
    assert bump.scatter(np.array(list(losses.values()))) >= 10**-decimals / math.sqrt(12)
    found = bump.find_bump(losses)
    assert found is None or not found.significant
