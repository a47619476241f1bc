"""Small versions of benchmarks/*calibration.py: seeded, so that they pass or fail for good."""

from __future__ import annotations

import argparse
import importlib
from pathlib import Path

import numpy as np
import pytest

from icl_bench.measures import statistics as st
from icl_bench.measures.sequential import look_confidence, look_sizes


@pytest.fixture(scope="module")
def covered():
    yield from load("coverage_calibration")


@pytest.fixture(scope="module")
def gated():
    yield from load("gate_calibration")


@pytest.fixture(scope="module")
def command():
    yield from load("calibration")


@pytest.fixture(scope="module")
def again():
    yield from load("looks_calibration")


@pytest.fixture(scope="module")
def margins():
    yield from load("margin_calibration")


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


def population(covered, name):
    (found,) = [one for one in covered.means() if one.name == name]
    return found


def test_intervals_of_symmetric_values_hold_19_of_20(covered):
    normal = population(covered, "normal")
    for n in (8, 32):
        case = covered.Case("mean_metric", normal, st.mean_metric)
        held, above, below = covered.coverage(case, n, 1500)
        assert 0.945 < held < 0.98
        assert above < 0.03 and below < 0.03


def test_every_mean_and_proportion_holds_at_32(covered):
    for one in covered.means():
        case = covered.Case(
            "mean_metric", one, lambda values, one=one: st.mean_metric(values, bounds=one.bounds)
        )
        held, _, _ = covered.coverage(case, 32, 800)
        assert held > 0.93, one.name  # 800 know 95% to .8 points


def test_coverage_can_fall_short(covered):
    """The simulation sees an interval that is too narrow."""

    def narrow(values):
        return st.mean_metric(values, confidence=0.8)

    case = covered.Case("mean_metric", population(covered, "normal"), narrow)
    held, _, _ = covered.coverage(case, 32, 1000)
    assert held < 0.88


def test_a_best_head_among_near_ties_is_judged_by_the_head_that_was_read(covered):
    """Its own mean is held; the highest mean of all is missed more often."""
    means = covered.NEAR_TIES
    cases = {
        truth: covered.Case(
            "cross_fitted_max",
            covered.Population(
                "ties", lambda rng, n: rng.normal(means, 0.2, (n, len(means))), truth
            ),
            lambda values: st.mean_metric(st.cross_fitted_max(values)),
        )
        for truth in (covered.read_truth(means), float(means.max()))
    }
    own, highest = (covered.coverage(case, 32, 1000)[0] for case in cases.values())
    assert own > 0.91 > 0.9 > highest
    alike = np.tile(means, (8, 1))
    assert covered.read_truth(means)(alike) == means.max()


def test_looking_again_errs_no_more_than_looking_once(covered, gated):
    normal, sizes = population(covered, "normal"), look_sizes(32, 256)
    passed, failed, _ = gated.gate(normal, sizes, "split", 2000)
    assert passed + failed < 0.05
    naive = gated.gate(normal, sizes, "naive", 2000)
    assert naive[0] + naive[1] > 0.08


def test_skewed_and_rare_values_do_not_decide_gates_by_mistake(covered, gated):
    """At most 5% from 32 samples on; Student's t alone is wrong twice as often or far more."""
    sizes = look_sizes(32, 256)
    for one in covered.means():
        passed, failed, _ = gated.gate(one, sizes, "split", 1500)
        assert passed + failed < 0.06, one.name  # 1,500 know 5% to .6 points
    rare = population(covered, ".9, but for 1% zeros")
    assert gated.gate(rare, sizes, "split", 2000)[0] < 0.01
    assert gated.gate(rare, sizes, "split-t", 2000)[0] > 0.6
    skewed = population(covered, "log-normal, sigma 1")
    assert gated.gate(skewed, sizes, "split-t", 2000)[1] > 0.08


def test_a_gate_counts_as_a_plain_loop_over_its_looks_does(covered, gated):
    """One stream after the other, one metric per look."""
    one, sizes = population(covered, "beta(8, 1)"), look_sizes(8, 32)
    drawn = one.draw(np.random.default_rng(0), 32 * 60).reshape(60, 32)
    ended = {"pass": 0, "fail": 0}
    for stream in drawn:
        for n in sizes:
            metric = st.mean_metric(stream[:n], unit=True, confidence=0.95)
            if metric.ci_low > one.truth or metric.ci_high < one.truth:
                ended["pass" if metric.ci_low > one.truth else "fail"] += 1
                break
    passed, failed, _ = gated.gate(one, sizes, "naive", 60)
    assert (passed, failed) == (ended["pass"] / 60, ended["fail"] / 60)


def test_a_suite_at_its_thresholds_is_red_and_one_far_above_them_is_not(covered, gated):
    normal = population(covered, "normal")
    _, failed, red = gated.suite_of(normal, 0, 400)
    assert failed < 0.25 and red == 1
    _, failed, red = gated.suite_of(normal, 3, 400)
    assert failed == 0 and red < 0.01


def test_tables_are_put_into_their_places(command):
    page = "a\n\n<!-- table: one -->\nold\n<!-- end of table -->\n\nb\n"
    page += "<!-- table: two -->\n<!-- end of table -->\n"
    text = command.show((["x", "y"], [["1", "2"]]))
    found = command.fill(page, {"one": text})
    assert found == page.replace("old\n", "| x | y |\n|---|---|\n| 1 | 2 |\n")
    assert command.fill(found, {"one": "old\n"}) == page
    with pytest.raises(ValueError, match="no place for three"):
        command.fill(page, {"three": text})


def test_the_page_has_a_place_for_every_table_in_order(command):
    page = (Path(__file__).parents[1] / "docs/statistics.md").read_text()
    places = [name for _, name, _ in command.MARKED.findall(page)]
    given = argparse.Namespace(real="", model="", runs=1, gates=1, curves=1)
    assert places == list(command.tables(given))


def test_metrics_of_every_probe_that_looks_again_err_no_more_than_promised(again):
    """Shares, best heads and places of peaks, from 32 samples on; 250 gates know 5% to 1.4."""
    sizes = look_sizes(32, 256)
    for look in again.looks():
        passed, failed = again.gate_metric(look, sizes, 250)
        assert passed < 0.08, look.population.name
        # With near ties a cross-fitted maximum reads a head that is nearly the best.
        assert failed < (0.3 if "highest" in look.population.name else 0.08), look.population.name


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


@pytest.mark.long
def test_the_null_is_honest_for_one_head_and_for_several(covered):
    heads = dict.fromkeys(range(4), 9)
    alone = covered.null_p_values({1: 1}, heads, 99, 400)
    for level in (1 / 9, 3 / 9, 6 / 9):
        assert np.mean(alone <= level + 1e-9) == pytest.approx(level, abs=0.06)
    several = covered.null_p_values({1: 3, 2: 3}, heads, 99, 400)
    for level in (0.05, 0.25, 0.5):
        assert np.mean(several <= level + 1e-9) == pytest.approx(level, abs=0.06)


@pytest.mark.parametrize("heads", [4, 9, 24])
@pytest.mark.parametrize("who", ["all causal", "one causal", "one causal, one against"])
def test_a_circuit_has_a_margin_where_its_p_value_is_large(margins, heads, who):
    rng, passed, small = np.random.default_rng(7), 0, 0
    for seed in range(20):
        setting = margins.planted(rng, heads, "2", who, margins.LOST)
        damages = margins.draw_damages(rng, setting.means, margins.LAWS[seed % 2])
        said = margins.judge_margin(setting, damages, seed)
        passed += said.above and said.carries
        assert not said.below and not said.idle
        small += margins.judge_p_value(setting, damages, seed) or 0
    assert passed == 20
    assert small < 20 or who == "all causal"


@pytest.mark.parametrize("law", ["log-normal", "normal"])
@pytest.mark.parametrize("shape", ["1", "2+1"])
def test_without_a_circuit_a_margin_is_rare(margins, shape, law):
    for world in margins.LUCK[:2]:
        rng, above = np.random.default_rng(5), 0
        for seed in range(60):
            setting = margins.unplanted(rng, 4, shape, world)
            above += margins.judge_margin(
                setting, margins.draw_damages(rng, setting.means, law), seed
            ).above
        assert above <= 3, world


def test_damages_of_a_set_are_those_of_its_heads_and_have_their_means(margins):
    means = np.zeros((margins.LAYERS, 4))
    means[3, 0], means[4, 1] = 0.5, 0.25
    for law in margins.LAWS:
        rng = np.random.default_rng(3)
        drawn = np.concatenate([margins.draw_damages(rng, means, law) for _ in range(400)], axis=-1)
        assert drawn.mean(axis=-1) == pytest.approx(means, abs=0.005)
        assert drawn[0, 0].std() == pytest.approx(margins.NOISE, rel=0.1)
        both = margins.add_up(margins.members([[(3, 0), (4, 1)]], 4), drawn)
        assert both[0] == pytest.approx(drawn[3, 0] + drawn[4, 1])
