"""Small version of benchmarks/phase_calibration.py: seeded, so that it passes or fails for good."""

from __future__ import annotations

import importlib
from pathlib import Path

import pytest


@pytest.fixture(scope="module")
def calibration():
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(Path(__file__).parents[1] / "benchmarks"))
        module = importlib.import_module("phase_calibration")
        # Bootstraps are there to be compared with; they take most of the time.
        patch.setattr(module, "RULES", {"jackknife": module.by_jackknife})
        yield module


@pytest.mark.parametrize("width", [0.05, 0.3])
def test_intervals_hold_the_true_curve_between_checkpoints(calibration, width):
    steps = calibration.GRIDS["dense around the change"]
    held = calibration.coverage(calibration.Learner(steps, 700, width), 32, 60)
    assert held["midpoint"] > 0.93 and held["sharpness"] > 0.93
    assert held["jackknife midpoint"] > 0.85 and held["jackknife sharpness"] > 0.85


def test_coverage_can_fall_short(calibration, monkeypatch):
    """The simulation sees intervals that are too narrow."""
    monkeypatch.setattr(calibration, "student_t", lambda df: 0.3)
    steps = calibration.GRIDS["dense around the change"]
    held = calibration.coverage(calibration.Learner(steps, 700, 0.3), 16, 60)
    assert held["jackknife midpoint"] < 0.5


def test_the_curve_itself_is_what_a_large_sample_shows(calibration):
    import numpy as np

    steps = calibration.GRIDS["40 linear"]
    learner = calibration.Learner(steps, 400, 0.3)
    at_steps, dense = learner.truth()
    sample = learner.draw(np.random.default_rng(0), 20000).mean(axis=0)
    assert sample == pytest.approx(at_steps, abs=0.01)
    assert np.interp(np.log(steps), dense[:, 0], dense[:, 1]) == pytest.approx(at_steps, abs=1e-3)
