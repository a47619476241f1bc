"""The closest gradual curve where it lies at an end of what is allowed, by another search."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from scipy.optimize import minimize
from scipy.special import expit
from slow_draws import Raw

from icl_bench.measures import bump, gradual
from icl_bench.measures.phase import sharpness

STEPS = np.array([1, 3, 9, 20, 50, 90, 150, 250, 400, 600, 800, 1000])
UNIT = np.log(STEPS) / np.log(1000)
STEEP = 2 * np.log(9)


def shape(x, middle, width):
    return expit((x - middle) * STEEP / width)


def slow_squares(x, y, narrowest=0.5):
    """Squares of the best curve: base and rise by their formulas, middle and width searched."""

    def squares(theta):
        middle, width = theta
        s = shape(x, middle, width)
        slope = np.clip(np.cov(s, y)[0, 1] / np.var(s, ddof=1), 0, 200)
        return float(((y - y.mean() - slope * (s - s.mean())) ** 2).sum())

    starts = [(m, w) for m in (-0.9, 0.2, 0.8, 1.5, 1.9) for w in (0.6, 1.5, 4, 7.5)]
    best = sorted(starts, key=squares)[:4]
    bounds = [(-1, 2), (narrowest, 8)]
    options = {"xatol": 1e-10, "fatol": 1e-16, "maxfev": 4000}
    found = [minimize(squares, one, method="Nelder-Mead", bounds=bounds, options=options)
             for one in best]  # fmt: skip
    return min(one.fun for one in found)


CURVES = {
    "steeper than allowed": shape(UNIT, 0.6, 0.2),
    "straight": UNIT,
    "before its middle": shape(UNIT, 2.6, 2.0),
    "after its middle": shape(UNIT, -1.6, 2.0),
    "falling": -UNIT,
    "noisy": UNIT + 0.1 * np.sin(40 * UNIT),
}


@pytest.mark.parametrize("name", CURVES)
@pytest.mark.parametrize("scale", [1.0, 30.0])
def test_the_closest_curve_is_found_at_the_ends_of_what_is_allowed(name, scale):
    y = CURVES[name] / np.ptp(CURVES[name])
    fit = gradual.fit_gradual(np.log(STEPS), 5 + scale * y)
    found = (((fit - 5) / scale - y) ** 2).sum()
    assert found == pytest.approx(slow_squares(UNIT, y), rel=1e-6)


def test_over_a_long_range_growth_in_proportion_to_the_step_may_be_narrower_than_half_of_it():
    """Over 16 in log(step) a logistic of scale 1 takes 27% of the range from 10% to 90%."""
    steps = np.exp(np.linspace(0, 16, 12))
    x = np.linspace(0, 1, 12)
    for width, allowed in ((STEEP / 16 * 1.01, True), (STEEP / 16 * 0.9, False)):
        y = shape(x, 0.45, width)
        squares = ((gradual.fit_gradual(np.log(steps), y) - y) ** 2).sum()
        assert bool(squares < 1e-9) is allowed
        y = y / np.ptp(y)
        squares = ((gradual.fit_gradual(np.log(steps), y) - y) ** 2).sum()
        assert squares == pytest.approx(slow_squares(x, y, STEEP / 16), rel=1e-4, abs=1e-9)


def test_the_rise_is_at_most_two_hundred_times_what_was_measured():
    y = np.exp((UNIT - 1) * STEEP / 0.5)
    squares = ((gradual.fit_gradual(np.log(STEPS), y) - y) ** 2).sum()
    assert squares == pytest.approx(4.0e-5, rel=0.1)


@pytest.mark.parametrize("given", [{}, {"seed": 4}])
def test_curves_are_the_fit_with_residuals_of_a_seed(given):
    y = UNIT + 0.1 * np.sin(40 * UNIT)
    found = gradual.compare_with_gradual(np.log(STEPS), y, 3, **given)
    fit = gradual.fit_gradual(np.log(STEPS), y)
    rest = (y - fit - (y - fit).mean()) * np.sqrt(12 / 8)
    for index, drawn in enumerate(found.drawn):
        slow = Raw(given.get("seed", 0), "gradual", index)
        curve = fit + [rest[slow.below(12)] for _ in range(12)]
        assert drawn == pytest.approx(sharpness(np.log(STEPS), curve))
    assert found.fitted.tolist() == fit.tolist() and len(found.drawn) == 3
    assert found.observed == sharpness(np.log(STEPS), y)
    assert found.p_value == (1 + sum(one >= found.observed for one in found.drawn)) / 4


def test_the_documentation_says_how_many_checkpoints_and_losses_are_required():
    text = (Path(__file__).parents[1] / "docs" / "probes.md").read_text()
    assert f"The p-values require {gradual.FEWEST} checkpoints." in " ".join(text.split())
    assert gradual.FEWEST == 8 and bump.FEWEST == 12


def test_where_the_first_step_lies_does_not_matter():
    positions = np.log(np.array([1, 4, 16, 64, 128, 300, 600, 1000, 2000]))
    values = np.array([0.0, 0.02, 0.05, 0.1, 0.15, 0.4, 0.7, 0.85, 0.9])
    fitted = gradual.fit_gradual(positions, values)
    # Steps 1,000 times as late have the same ratios.
    later = gradual.fit_gradual(positions + np.log(1000), values)
    np.testing.assert_allclose(later, fitted, atol=1e-5)
