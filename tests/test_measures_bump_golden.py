"""Bumps in training losses, number by number, as a slow computation of its own gives them."""

from __future__ import annotations

import math
from statistics import median

import numpy as np
import pytest

from icl_bench.measures import bump


def stretches(losses):
    """Steps, losses and counts of 100 equal stretches of log(step), one after the other."""
    steps = sorted(step for step in losses if step >= 1)
    places = np.log(np.array(steps, dtype=float))
    edges = np.linspace(places[0], places[-1], 101)
    edges[-1] = math.inf
    found = []
    for low, high in zip(edges, edges[1:]):
        inside = [step for step, place in zip(steps, places) if low <= place < high]
        if inside:
            found.append((median(inside), median(losses[step] for step in inside), len(inside)))
    return [list(column) for column in zip(*found)]


def noise_of(values):
    bends = [abs(a - 2 * b + c) for a, b, c in zip(values, values[1:], values[2:])]
    kept = [k for k in range(7) if all(abs(v - round(v, k)) <= 1e-9 for v in values)]
    rounding = 10.0 ** -kept[0] / 12**0.5 if kept else 0
    # A second difference of independent errors has 1 + 4 + 1 times their variance.
    return max(median(bends) / 0.6745 / 6**0.5, rounding)


def hull(steps, values):
    """Corners of the minorant by wrapping: always on to the point with the lowest slope."""
    corners = [0]
    while corners[-1] < len(steps) - 1:
        at = corners[-1]
        later = range(at + 1, len(steps))
        slopes = {to: (values[to] - values[at]) / (steps[to] - steps[at]) for to in later}
        corners.append(max(to for to in later if slopes[to] == min(slopes.values())))
    return corners


def rising(values):
    """Isotonic regression by the min-max formula."""
    every = range(len(values))
    return [
        max(min(np.mean(values[i : j + 1]) for j in every[k:]) for i in every[: k + 1])
        for k in every
    ]


def slow_bump(losses):
    """(height, stderr, knee, step, end) of the bump with the most standard errors."""
    steps, values, counts = stretches(losses)
    noise = noise_of([losses[step] for step in sorted(losses) if step >= 1])
    errors = [noise * (1.2533 if n > 2 else 1) / n**0.5 for n in counts]
    corners = hull(steps, values)
    found = []
    for at in range(len(steps)):
        if at in corners:
            continue
        left = max(corner for corner in corners if corner < at)
        right = min(corner for corner in corners if corner > at)
        share = (steps[at] - steps[left]) / (steps[right] - steps[left])
        height = values[at] - (1 - share) * values[left] - share * values[right]
        parts = errors[at], (1 - share) * errors[left], share * errors[right]
        found.append((height, math.hypot(*parts), at, right))
    height, stderr, top, end = max(found, key=lambda one: one[0] / one[1])
    fallen = rising([-value for value in values[top : end + 1]])
    half = (fallen[0] + fallen[-1]) / 2
    after = next(i for i, value in enumerate(fallen) if value >= half)
    share = (half - fallen[after - 1]) / (fallen[after] - fallen[after - 1])
    near = np.log(steps[top + after - 1]), np.log(steps[top + after])
    return height, stderr, steps[top], math.exp(near[0] + share * (near[1] - near[0])), steps[end]


def made(grid, seed, digits):
    """Losses that fall, with one drop or two and noise, some of few digits."""
    rng = np.random.default_rng(seed)
    drops = rng.uniform(0.1, 0.8, 2) * (1, rng.random() < 0.5), rng.uniform(0.2, 0.9, 2) * grid[-1]

    def loss(step):
        fallen = sum(size / (1 + math.exp(-(step - at) / 20)) for size, at in zip(*drops))
        return round(5 + math.exp(-step / 100) - fallen + 0.05 * rng.normal(), digits)

    return {step: loss(step) for step in grid}


@pytest.mark.parametrize(
    "grid", [range(300), range(1, 1200, 4), range(5, 3000, 37), range(20)], ids=repr
)
@pytest.mark.parametrize("digits", [2, 3, 12])
def test_a_bump_is_that_of_a_slow_computation(grid, digits):
    for seed in range(6):
        losses = made(grid, seed, digits)
        found = bump.find_bump(losses)
        got = (found.height, found.stderr, found.knee, found.step, found.end)
        assert got == pytest.approx(slow_bump(losses), rel=1e-9), seed


def dyadic(*tops):
    """Losses without scatter: two bumps, at 128 and 256, then a straight line; and their unit."""
    line = [6 - step / 128 for step in range(1, 20)]
    values = [10, 8 + tops[0], 6, 5 + tops[1], 4, *(value - 2 for value in line)]
    return {64 * (at + 1): value / 2**12 for at, value in enumerate(values)}


@pytest.mark.parametrize(
    ("tops", "knee", "step"),
    [
        ((1.0, 0.75), 128, 160),
        ((0.75, 1.0), 256, 287),
        ((1.0, 1.0), 128, 160),  # of two that are alike the first
    ],
)
def test_of_bumps_without_scatter_the_highest_counts(tops, knee, step):
    found = bump.find_bump(dyadic(*tops))
    assert (found.height, found.stderr, found.knee) == (1 / 2**12, 0, knee)
    assert found.end == knee + 64
    assert found.step == pytest.approx(math.sqrt(knee * found.end), rel=1e-9)
    assert not found.significant


@pytest.mark.parametrize(
    ("height", "stderr", "significant"),
    [(6.0, 1.0, False), (6.01, 1.0, True), (0.7, 0.1, True), (0.5, 0.1, False), (1.0, 0.0, False)],
)
def test_six_standard_errors_are_significant(height, stderr, significant):
    assert bump.Bump(height, stderr, 1, 2, 3).significant is significant


def test_points_on_a_line_are_no_corners():
    steps = np.arange(5.0)
    assert bump.convex_minorant(steps, -2 * steps) == [0, 4]
    assert bump.convex_minorant(steps, np.array([4.0, 1, 2, 0, 0])) == [0, 1, 3, 4]
    assert bump.convex_minorant(steps[:2], np.array([1.0, 3.0])) == [0, 1]


@pytest.mark.parametrize(
    ("step", "off", "digits"),
    [
        (0.03, 0.7e-9, 2),
        (0.03, 1.4e-9, None),
        (0.03, 3e-7, None),
        (0.003, 0.0, 3),
        (3e-6, 0.0, 6),
        (3e-7, 0.0, None),
    ],
)
def test_digits_are_those_that_losses_have_but_for_the_last_bits_of_a_float(step, off, digits):
    line = np.arange(9.0) * step + off * (np.arange(9) % 2)
    noise = np.median(np.abs(np.diff(line, n=2))) / 0.6745 / math.sqrt(6)
    scatter = 10.0**-digits / math.sqrt(12) if digits else noise
    assert bump.scatter(line) == pytest.approx(scatter, rel=1e-6, abs=1e-12)
