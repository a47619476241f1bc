"""Gradual curves as a null: honest where nothing is sudden, small p-values where it is."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.optimize import minimize

from icl_bench.measures import gradual
from icl_bench.measures.phase import sharpness

STEPS = np.array([1, 4, 16, 64, 128, 200, 300, *range(400, 1001, 50), 1250, 1500, 2000])
UNIT = np.log(STEPS) / np.log(2000)


def logistic(x, width, midpoint=0.85):
    return 1 / (1 + np.exp(-(x - midpoint) * 4.394449 / width))


def slow_fit(x, y):
    """Squares of the best gradual curve, by a search without gradients from many starts."""

    def squares(theta):
        base, rise, midpoint, width = theta
        if rise < 0 or width < 0.5 or width > 8 or abs(midpoint - 0.5) > 1.5:
            return 1e9
        return float(((y - base - rise * logistic(x, width, midpoint)) ** 2).sum())

    starts = [(y[0], 1, m, w) for m in (0, 0.5, 1, 1.4) for w in (0.55, 1, 3)]
    options = {"maxiter": 4000, "maxfev": 4000, "xatol": 1e-9, "fatol": 1e-12}
    return min(minimize(squares, s, method="Nelder-Mead", options=options).fun for s in starts)


@pytest.mark.parametrize("seed", range(4))
def test_the_fit_is_as_good_as_a_patient_search(seed):
    rng = np.random.default_rng(seed)
    y = logistic(UNIT, rng.uniform(0.05, 1.5), rng.uniform(0.3, 1)) + rng.normal(0, 0.02, len(UNIT))
    found = ((y - gradual.fit_gradual(np.log(STEPS), y)) ** 2).sum()
    assert found <= slow_fit(UNIT, y) * 1.02 + 1e-9


def test_a_gradual_curve_is_fitted_exactly_whatever_its_unit():
    for width, midpoint in ((0.5, 0.6), (0.9, 1.1), (2.0, 0.5)):
        y = 3 + 40 * logistic(UNIT, width, midpoint)
        assert gradual.fit_gradual(np.log(STEPS), y) == pytest.approx(y, abs=0.05)


def test_a_flat_curve_has_a_flat_fit():
    assert gradual.fit_gradual(np.log(STEPS), np.full(len(STEPS), 7.0)) == pytest.approx(7.0)


def test_every_drawn_curve_is_the_fit_with_some_of_its_residuals():
    """The first draws made by hand."""
    from icl_bench.measures.draws import Draws

    x = np.log(STEPS)
    y = logistic(UNIT, 0.1) + np.random.default_rng(0).normal(0, 0.02, len(x))
    null = gradual.compare_with_gradual(x, y, 3, seed=5)
    residuals = y - null.fitted
    residuals = (residuals - residuals.mean()) * (len(x) / (len(x) - 4)) ** 0.5
    for index, drawn in enumerate(null.drawn):
        stream = Draws(5, "gradual", index)
        again = null.fitted + [residuals[stream.between(0, len(x) - 1)] for _ in x]
        assert drawn == pytest.approx(sharpness(x, again))
    assert null.observed == sharpness(x, y)
    assert gradual.compare_with_gradual(x, y, 3, seed=5).drawn == null.drawn
    assert gradual.compare_with_gradual(x, y, 3, seed=6).drawn != null.drawn


def test_the_p_value_counts_the_curve_itself():
    null = gradual.GradualNull(np.zeros(3), 0.5, [0.1, 0.5, 0.6])
    assert null.p_value == (1 + 2) / (1 + 3)


def p_values(shape, steps=STEPS, noise=0.03, tests=60):
    x = np.log(steps)
    y = shape((x - x[0]) / (x[-1] - x[0]))
    y = y / np.ptp(y)
    rng = np.random.default_rng(0)
    return np.array(
        [
            gradual.compare_with_gradual(x, y + rng.normal(0, noise, len(x)), 39, run).p_value
            for run in range(tests)
        ]
    )


GRADUAL = {
    "straight in log-steps": lambda x: x,
    "half of the range": lambda x: logistic(x, 0.5, 0.6),
    "flattening": lambda x: 1 - np.exp(-3 * x),
    "in proportion to the step": lambda x: np.exp((x - 1) * np.log(2000)),
}


@pytest.mark.parametrize("name", GRADUAL)
def test_gradual_learners_are_rarely_called_sharp(name):
    found = p_values(GRADUAL[name])
    assert (found <= 0.05).mean() < 0.1
    assert (found <= 0.25).mean() < 0.4


@pytest.mark.parametrize("steps", [np.arange(50, 2001, 50), np.array([1, *range(50, 2001, 50)])])
def test_linear_grids_do_not_make_gradual_learners_sharp(steps):
    assert (p_values(GRADUAL["straight in log-steps"], steps, tests=50) <= 0.05).mean() < 0.12


def test_growth_in_proportion_to_the_step_is_gradual_over_a_long_range_too():
    """Over a factor of 20,000 it takes less than half of the range, and is no phase change."""
    steps = np.array([*(2**k for k in range(10)), *range(1000, 20001, 1000)])
    found = p_values(lambda x: np.exp((x - 1) * np.log(20000)), steps, tests=40)
    assert (found <= 0.05).mean() < 0.1


def test_a_change_within_a_tenth_of_the_range_is_called_sharp():
    assert (p_values(lambda x: logistic(x, 0.1), tests=30) <= 0.05).mean() > 0.95


def test_a_jump_inside_a_gap_that_nobody_looked_into_is_not_called_sharp():
    """All of the change lies before the second of 41 checkpoints, over half of the range."""
    steps = np.array([1, *range(50, 2001, 50)])
    assert np.median(p_values(lambda x: logistic(x, 0.05, 0.25), steps, tests=20)) > 0.2
