"""What a comparison ignores where no limit is given, and where a change counts."""

from __future__ import annotations

import html
import json

import numpy as np
import pytest
from scipy import stats
from test_comparing import BEFORE, metric, of, record
from test_comparing_limits import with_metric

from icl_bench.ci.findings import of_comparison
from icl_bench.comparing import compare, parse_limit
from icl_bench.measures.statistics import ratio_metric
from icl_bench.records.parts import Measurement, Metric
from icl_bench.render.comparison import comparison_markdown, comparison_text

RNG = np.random.default_rng(8)
SPREAD = RNG.normal(0, 0.03, 32)
SPREAD -= SPREAD.mean()


def exact(probe, name, value, **more):
    """A record in which a check reads one exact metric, beside others that none reads."""
    made = with_metric(name, value, exact=True)
    measurement = made.measurements["mine/repeats"]
    measurement.probe = probe
    for other, number in more.items():
        measurement.metrics[other] = Metric(value=number, exact=True)
    return made


# Of every kind one: probe, metric, baseline's value, other metrics, what is ignored, and the rule.
KINDS = [
    ("ablation", "gain", 6.0, {}, 0.12, "default: 2% of the gain"),
    ("ablation", "repeated_loss", 3.0, {"gain": 9.0}, 0.18, "default: 2% of the gain"),
    ("losses", "first_loss", 13.0, {"gain": 11.0}, 0.22, "default: 2% of the gain"),
    ("losses", "repeated_loss", 5.0, {"gain": 0.1}, 0.02, "default"),
    ("losses", "gain", -3.0, {}, 0.06, "default: 2% of the gain"),
    ("sweep", "repeated_loss", 9.0, {}, 0.18, "default: 2% of the baseline's value"),
    ("icl_score", "text_loss", 3.0, {"gain": 9.0}, 0.02, "default"),
    ("fuzzy", "exact_effect", 7.0, {}, 0.02, "default"),
    ("induction", "induction_all_max", 0.9, {}, 0.02, "default"),
    ("ablation", "copying_lost", 0.6, {"gain": 6.0}, 0.02, "default"),
    ("choice", "accuracy", 0.8, {}, 0.02, "default"),
    ("logit_attribution", "selected_logit", 5.0, {}, 0.1, "default: 2% of the baseline's value"),
    ("minimal_set", "heads", 8.0, {}, 0.0, "default: no count may fall"),
    ("not-installed", "level", 0.5, {}, 0.02, "default"),
]


@pytest.mark.parametrize(("probe", "name", "value", "more", "ignored", "rule"), KINDS)
def test_each_kind_of_metric_has_its_own(probe, name, value, more, ignored, rule):
    before = exact(probe, name, value, **more)
    for factor, changed in ((0.99, False), (1.01, True)):
        states = []
        for sign in (-1, 1):
            step = sign * (factor * ignored or (1 if changed else 0))
            change = of(compare(before, exact(probe, name, value + step, **more)), name)
            assert (change.allowed, change.limit) == (pytest.approx(ignored), rule)
            states.append(change.state)
        assert ("regressed" in states, set(states) == {"same"}) == (changed, not changed)


def test_the_gain_may_be_another_measurement_s_of_the_suite():
    before = exact("sweep", "repeated_loss", 9.0)
    gain = Measurement(probe="ablation", metrics={"gain": Metric(value=6.0, exact=True)})
    before.measurements["theirs/collapse"] = gain
    assert of(compare(before, before), "repeated_loss").allowed == pytest.approx(0.18)
    before.measurements["mine/collapse"] = gain
    assert of(compare(before, before), "repeated_loss").allowed == pytest.approx(0.12)


def test_a_loss_ratio_may_move_as_far_as_an_ignored_change_of_its_clean_loss_moves_it():
    """A clean loss of .02 that grows by 1% of the gain takes the ratio from 300 to 75."""
    gain = {"gain": 6.0, "repeated_loss": 0.02}
    before = exact("ablation", "loss_ratio", 6 / 0.02, **gain)
    within = exact("ablation", "loss_ratio", 6 / (0.02 + 0.06), **gain)
    beyond = exact("ablation", "loss_ratio", 6 / (0.02 + 0.13), **gain)
    change = of(compare(before, within), "loss_ratio")
    assert change.allowed == pytest.approx(6 / 0.02 - 6 / (0.02 + 0.12))
    assert change.state == "same"
    assert of(compare(before, beyond), "loss_ratio").state == "regressed"


@pytest.mark.parametrize("limit", [None, "induction_max=0.02", "induction_max=-0.02"])
def test_a_change_counts_where_its_whole_interval_lies_beyond_the_limit(limit):
    """By an independent computation: two metrics are judged, so confidence is 1 - 0.05 / 2."""
    limits = [parse_limit(limit)] if limit else []
    half = stats.t.ppf(1 - 0.0125, 31) * stats.sem(SPREAD)
    for fall, state in ((0.02 + 0.9 * half, "same"), (0.02 + 1.1 * half, "regressed")):
        change = of(compare(record(), record(BEFORE - fall + SPREAD), limits), "induction_max")
        assert change.difference < -0.02 and change.ci_high < 0  # significant either way
        assert (change.state, change.ci_high < -0.02) == (state, state == "regressed")


def test_a_rise_counts_as_better_from_the_same_size_on():
    for rise, state in ((0.019, "same"), (0.021, "improved")):
        assert of(compare(record(), record(BEFORE + rise)), "induction_max").state == state
    noise = compare(record(), record(BEFORE + 0.001), [parse_limit("induction_max=noise")])
    assert of(noise, "induction_max").state == "improved"


def test_a_tenth_of_a_percent_of_the_gain_is_no_regression_but_for_who_asks():
    gains = RNG.normal(6, 0.3, 32)

    def of_gain(samples):
        made = record()
        made.measurements["mine/repeats"].probe = "ablation"
        made.measurements["mine/repeats"].metrics["gain"] = metric(samples)
        made.checks[0].metric = "gain"
        return made

    before, after = of_gain(gains), of_gain(gains - 0.006 + SPREAD / 100)
    found = compare(before, after)
    assert of(found, "gain").ci_high < 0 and found.passes()
    for limit in ("gain=noise", "gain=0", "gain=0.05%", "*=noise"):
        assert not compare(before, after, [parse_limit(limit)]).passes(), limit
    assert not compare(before, of_gain(gains * 0.97)).passes()


def test_a_head_that_died_is_caught_whatever_the_defaults_ignore():
    before = record(heads=[(0, 0, 0.02), (1, 0, 0.78)])
    found = compare(before, record(heads=[(0, 0, 0.02), (1, 0, 0.03)]))
    assert {one.state for one in found.metrics} == {"same"} and not found.passes()


def test_every_report_says_which_limit_was_used():
    found = compare(record(), record(BEFORE - 0.05), [parse_limit("induction_control=0.06")])
    told = html.unescape(comparison_markdown(found).replace("\\", ""))
    assert "0.02 (default)" in told and "0.06 (given: induction_control=0.06)" in told
    assert "allowed is 0.02 (default)" in told
    assert "mine/repeats.induction_max: allowed is 0.02 (default)" in comparison_text(found)
    [worse] = of_comparison(found, {})
    assert worse.message.endswith("(allowed is 0.02 (default))")
    metrics = json.loads(json.dumps(found.as_data()))["metrics"]
    assert {(one["metric"], one["allowed"], one["limit"]) for one in metrics} == {
        ("induction_max", 0.02, "default"),
        ("induction_control", 0.06, "given: induction_control=0.06"),
    }


def test_a_ratio_of_noisy_losses_is_judged_by_its_interval():
    clean = RNG.gamma(1, 0.2, 32)
    made = []
    for factor in (1.0, 1.001):
        one = exact("ablation", "gain", 6.0, repeated_loss=float(clean.mean()))
        one.checks[0].metric = "loss_ratio"
        one.measurements["mine/repeats"].metrics["loss_ratio"] = ratio_metric(
            5 * clean**0.5, clean * factor
        )
        made.append(one)
    change = of(compare(*made), "loss_ratio")
    assert change.paired and change.ci_high < 0 and change.state == "same"


def test_another_seed_is_compared_without_pairing_and_that_is_said():
    before, after = record(seed=0), record(BEFORE - 0.001, tokens="others", seed=1)
    found = compare(before, after)
    assert found.passes() and not of(found, "induction_max").paired
    told = "other tokens, not paired: seed 0, now 1"
    assert told in found.remarks and f"note: {told}" in comparison_text(found)
    assert not compare(before, record(BEFORE - 0.2, tokens="others", seed=1)).passes()
    heads = [[(1, 0, score)] for score in (0.78, 0.03)]
    died = compare(record(heads=heads[0], seed=0), record(heads=heads[1], seed=1)).died
    assert [one.name for one in died] == ["1.0"]
