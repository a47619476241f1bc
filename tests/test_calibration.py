"""Small versions of benchmarks/calibration.py: seeded, so that they pass or fail for good."""

from __future__ import annotations

import importlib
from pathlib import Path

import numpy as np
import pytest

from icl_bench.measures import statistics as st
from icl_bench.measures.sequential import look_confidence, look_sizes


@pytest.fixture(scope="module")
def calibration():
    yield from load("calibration")


@pytest.fixture(scope="module")
def again():
    yield from load("looks_calibration")


def load(name):
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(Path(__file__).parents[1] / "benchmarks"))
        yield importlib.import_module(name)


def test_looks_double_up_to_the_last():
    assert look_sizes(32, 256) == [32, 64, 128, 256]
    assert look_sizes(8, 40) == [8, 16, 32, 40]
    assert look_sizes(5, 5) == [5]
    assert look_confidence(1) == st.CONFIDENCE
    assert look_confidence(4) == pytest.approx(0.9875)
    with pytest.raises(ValueError, match="from 8 to 4"):
        look_sizes(8, 4)


def test_intervals_are_wider_where_one_of_several_looks():
    values = np.random.default_rng(0).normal(0, 1, 12)
    paired = (np.exp(values), np.exp(values / 2))
    scores = values[:, None] + np.linspace(-6, 6, 200)
    for make in (
        lambda **more: st.mean_metric(values, **more),
        lambda **more: st.ratio_metric(*paired, **more),
        lambda **more: st.share_metric(*paired, **more),
        lambda **more: st.count_above(scores, 0.4, **more),
    ):
        plain, wide = make(), make(confidence=0.9999)
        assert wide.ci_low < plain.ci_low and wide.ci_high > plain.ci_high
        assert wide.value == plain.value


def test_intervals_of_symmetric_values_hold_19_of_20(calibration):
    normal = calibration.means()[0]
    for n in (8, 32):
        held, above, below = calibration.coverage(
            calibration.Case("mean_metric", normal, st.mean_metric), n, 1500
        )
        assert 0.935 < held < 0.965
        assert above < 0.035 and below < 0.035


def test_coverage_can_fall_short(calibration):
    """The simulation sees an interval that is too narrow."""
    normal = calibration.means()[0]

    def narrow(values):
        return st.mean_metric(values, confidence=0.8)

    held, _, _ = calibration.coverage(calibration.Case("mean_metric", normal, narrow), 32, 1000)
    assert held < 0.84


def test_looking_again_errs_no_more_than_looking_once(calibration):
    normal = calibration.means()[0]
    sizes = look_sizes(32, 256)
    passed, failed, _ = calibration.gate(normal, sizes, "split", 1000)
    assert passed + failed < 0.05
    naive = calibration.gate(normal, sizes, "naive", 1000)
    assert naive[0] + naive[1] > 0.1


def test_skewed_values_do_not_decide_gates_by_mistake(calibration):
    """From 32 samples on at most 5%, where Student's t errs twice as often."""
    _, skewed, bounded = calibration.means()
    sizes = look_sizes(32, 256)
    for population in (skewed, bounded):
        passed, failed, _ = calibration.gate(population, sizes, "split", 1000)
        assert passed < 0.055 and failed < 0.055
        plain = calibration.gate(population, sizes, "split-t", 1000)
        assert sum(plain[:2]) > 1.4 * (passed + failed)


def test_metrics_of_every_probe_that_looks_again_err_no_more_than_promised(again):
    """Shares, best heads and places of peaks, from 32 samples on; 250 gates know 5% to 1.4."""
    sizes = look_sizes(32, 256)
    for look in again.looks():
        passed, failed = again.gate_metric(look, sizes, 250)
        assert passed < 0.08, look.population.name
        # With near ties a cross-fitted maximum reads a head that is nearly the best.
        assert failed < (0.3 if "ties" in look.population.name else 0.08), look.population.name


def test_a_pool_in_its_own_order_decides_gates_by_mistake(again):
    """Early looks at documents with a trend are at something else than the whole."""
    sizes = look_sizes(32, 256)

    def mean(values, confidence):
        return st.mean_metric(values, confidence=confidence)

    rates = {}
    for order in ("given", "random"):

        def draw(rng, n, order=order):
            return again.ordered_pool(rng, n, order)

        look = again.Look("mean", again.Population(order, draw, 0), mean)
        rates[order] = sum(again.gate_metric(look, sizes, 400))
    assert rates["given"] > 0.3 and rates["random"] < 0.05


def test_the_null_is_honest_for_one_head_and_for_several(calibration):
    heads = dict.fromkeys(range(4), 9)
    alone = calibration.null_p_values({1: 1}, heads, 99, 400)
    for level in (1 / 9, 3 / 9, 6 / 9):
        assert np.mean(alone <= level + 1e-9) == pytest.approx(level, abs=0.06)
    several = calibration.null_p_values({1: 3, 2: 3}, heads, 99, 400)
    for level in (0.05, 0.25, 0.5):
        assert np.mean(several <= level + 1e-9) == pytest.approx(level, abs=0.06)
