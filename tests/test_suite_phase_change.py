"""The suite `phase-change` on training runs made by hand: which pass, and which fail for what."""

from __future__ import annotations

import math

import numpy as np
import pytest
from phase_series import STEPS, make_series, rise

from icl_bench.probes.design.context import Context
from icl_bench.probes.training import phase_change
from icl_bench.running.checks import evaluate
from icl_bench.suite import find_suite

NEEDS_A_RISE = {"induction-forms", "not-by-position", "before-the-cool-down", "the-loss-falls"}


def bumped(drop):
    """A training loss that falls smoothly, and by `drop` nats around step 650."""
    fall = rise(range(1, 2001), 650)
    noise = np.random.default_rng(0).normal(0, 0.05, 2000)
    return {
        step: 4.5 + 1.5 * math.exp(-step / 150) - drop * fall[step - 1] + noise[step - 1]
        for step in range(1, 2001)
    }


def judge(series, spec="builtin:induction-2l"):
    """Check id -> verdict and reason."""
    suite = find_suite("phase-change")
    settings = suite.measure["change"].settings
    assert set(settings.sources.values()) <= set(suite.measure)
    taken = phase_change.measure_series(series, settings, Context())
    found = {}
    for check in suite.checks:
        info = phase_change.METRICS[check.metric]
        one = evaluate(check, suite.name, "phase-change/change", taken, info, spec, "slug")
        found[check.id] = (one.verdict, one.reason)
    return found


def verdicts(series, **more):
    return {name: verdict for name, (verdict, _) in judge(series, **more).items()}


@pytest.fixture(scope="module")
def sudden():
    curve = rise(STEPS, 650)
    return make_series(
        induction=curve, previous_token=curve, copying=curve, training_loss=bumped(1.0)
    )


def test_a_sudden_change_of_everything_passes_every_check(sudden):
    assert set(verdicts(sudden).values()) == {"pass"}


def test_the_step_is_asked_of_built_in_models_only(sudden):
    assert verdicts(sudden, spec="gpt2")["before-the-cool-down"] == "skipped"


def test_a_model_that_never_changes_fails_where_a_rise_is_asked_for():
    found = judge(make_series(training_loss=bumped(0.0)))
    assert {name for name, (verdict, _) in found.items() if verdict == "fail"} == NEEDS_A_RISE
    assert {verdict for verdict, _ in found.values()} == {"fail", "skipped"}
    assert "no phase change: the rise of the induction score is" in found["is-sharp"][1]


def test_a_gradual_learner_fails_as_not_sharp():
    curve = np.log(np.maximum(STEPS, 1)) / math.log(2000)
    found = verdicts(make_series(induction=curve, previous_token=curve, copying=curve))
    failed = {name for name, verdict in found.items() if verdict == "fail"}
    assert failed >= {
        *("is-sharp", "sharper-than-gradual-learning"),
        *("the-loss-falls-sharply", "the-loss-falls-sharper-than-gradually"),
    }
    assert not failed & {"induction-forms", "the-loss-falls"}


def test_a_head_by_position_fails():
    curve = rise(STEPS, 650)
    series = make_series(induction=curve, previous_token=curve, copying=curve)
    for one in series.measurements["repeats"]:
        one.metrics["induction_excess_max"] = one.metrics["induction_excess_max"].model_copy(
            update={"samples": [0.01 * i for i in range(32)]}
        )
    assert verdicts(series)["not-by-position"] == "fail"


def test_heads_that_attend_and_copy_nothing_fail_by_the_loss():
    curve = rise(STEPS, 650)
    found = verdicts(make_series(induction=curve, previous_token=curve))
    assert found["induction-forms"] == found["is-sharp"] == "pass"
    assert found["the-loss-falls"] == "fail"


def test_a_previous_token_score_that_was_there_long_before_fails():
    curve = rise(STEPS, 850)
    early = rise(STEPS, 100)
    found = verdicts(make_series(induction=curve, previous_token=early, copying=curve))
    assert found["previous-token-heads-form-with-it"] == "fail"
    assert found["copying-sets-in-with-it"] == "pass"


def test_a_change_during_the_cool_down_fails():
    curve = rise(STEPS, 1750, 0.2)
    found = verdicts(make_series(induction=curve, previous_token=curve, copying=curve))
    assert found["before-the-cool-down"] == "fail" and found["induction-forms"] == "pass"
