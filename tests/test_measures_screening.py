"""Bounds from a few full measurements hold as often as they say, whatever the errors are."""

from __future__ import annotations

import numpy as np
import pytest

from icl_bench.measures.screening import PILOTS, draw_pilots, fit_bounds


def test_pilots_are_distinct_and_reproducible():
    first = draw_pilots(100, seed=3)
    assert len(set(first)) == PILOTS == len(first)
    assert first == draw_pilots(100, seed=3) != draw_pilots(100, seed=4)
    with pytest.raises(ValueError):
        draw_pilots(PILOTS - 1, seed=0)


def bound_values(cheap, pilots, full):
    return fit_bounds(cheap[pilots], full, float(np.median(np.abs(cheap))))(cheap)


@pytest.mark.parametrize("kind", ["biased", "heavy tails", "proportional"])
def test_bounds_hold_for_95_of_100_other_quantities(kind):
    """Coverage over draws of pilots, with no assumption about the errors."""
    generator = np.random.default_rng(0)
    held = total = 0
    for seed in range(400):
        full = generator.exponential(1.0, 120) ** 2
        if kind == "biased":
            cheap = 0.4 * full - 0.2
        elif kind == "heavy tails":
            cheap = full + 0.1 * generator.standard_t(2, 120)
        else:
            cheap = full * generator.lognormal(0, 0.5, 120)
        pilots = draw_pilots(120, seed)
        low, high = bound_values(cheap, pilots, full[pilots])
        others = np.setdiff1d(np.arange(120), pilots)
        inside = (low[others] <= full[others]) & (full[others] <= high[others])
        held += int(inside.sum())
        total += len(others)
    # 1/(PILOTS + 1) may miss; 400 draws of pilots give a standard error of about 0.003.
    assert 0.94 < held / total < 0.97


def test_a_perfect_screening_has_bounds_without_width():
    cheap = np.linspace(-1, 5, 60)
    pilots = draw_pilots(60, 0)
    low, high = bound_values(cheap, pilots, cheap[pilots])
    assert np.allclose(low, cheap) and np.allclose(high, cheap)


def test_quantities_that_are_all_zero_have_bounds():
    low, high = bound_values(np.zeros(60), draw_pilots(60, 0), np.zeros(PILOTS))
    assert np.all(low == 0) and np.all(high == 0)


def test_caution_widens_the_bounds():
    cheap, full = np.array([1.0, 2.0]), np.array([1.5, 2.0])
    low, high = fit_bounds(cheap, full, 1.0)(np.array([0.0, 3.0]))
    assert np.allclose(low, [-0.25, 2.0]) and np.allclose(high, [0.25, 4.0])
    low, high = fit_bounds(cheap, full, 1.0, caution=2.0)(np.array([0.0, 3.0]))
    assert np.allclose(low, [-0.5, 1.0]) and np.allclose(high, [0.5, 5.0])
