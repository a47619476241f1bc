"""Verdicts at the very bounds, and how many samples a reason advises, by sums of its own."""

from __future__ import annotations

import math

import pytest
from test_checks import check, exact, measured, quiz, run

from icl_bench.probes import MetricInfo
from icl_bench.records.parts import Measurement, Metric
from icl_bench.running.checks import all_decided, applies, evaluate, judge
from icl_bench.suite.specs import Support

NEAR = "; the value is too near the bound for more samples to decide"


def told(value, low, high, n, rule="above", threshold=0.5):
    metric = Metric(value=value, stderr=0.125, ci_low=low, ci_high=high, n=n)
    verdict, reason = judge(metric, rule, threshold, exact=False)
    assert verdict == "inconclusive"
    return reason


def advised(needed, n):
    return (
        f"; if the value stays, about {needed} samples would decide, not {n}: ask for more, "
        "or set 'until: decided'"
    )


@pytest.mark.parametrize(
    ("value", "low", "high", "n", "ending"),
    [
        # A half width of w at a distance d needs n (w / d)^2: two digits of it, rounded up.
        (0.75, 0.25, 1.0, 4, advised(16, 4)),
        (0.75, 0.5, 1.25, 4, advised(16, 4)),  # by the wider side
        (0.25, -0.25, 0.75, 4, advised(16, 4)),
        (0.625, 0.125, 1.0, 10, advised(160, 10)),
        (0.625, 0.125, 1.0, 11, advised(180, 11)),  # 176
        (0.625, 0.0, 0.75, 99, advised(2500, 99)),  # 2,475
        (0.625, 0.0, 0.75, 4, advised(100, 4)),
        (0.5625, -0.0625, 0.75, 100, advised(10_000, 100)),  # the most that is advised
        (0.5625, -0.0626, 0.75, 100, NEAR),
        (0.5625, -0.0625, 0.75, 101, NEAR),
        (0.5, 0.25, 0.75, 4, ""),
        (0.75, 0.25, 1.0, None, ""),
        (0.75, 0.25, 1.0, 0, ""),
    ],
)
def test_so_many_samples_are_advised_as_make_the_interval_short_enough(value, low, high, n, ending):
    shown = told(value, low, high, n)
    assert shown.endswith(f"straddles 0.5{ending}")


@pytest.mark.parametrize(
    ("rule", "threshold", "value", "low", "high", "across", "needed"),
    [
        ("above", 0.5, 0.75, 0.5, 1.0, "0.5", 4),
        ("at_least", 0.5, 0.375, 0.25, 0.5, "0.5", 4),
        ("below", 0.5, 0.375, 0.125, 0.5, "0.5", 16),
        ("at_most", 0.5, 0.75, 0.5, 1.0, "0.5", 4),
        ("between", [0.25, 0.5], 0.3125, 0.125, 0.375, "0.25", 36),
        ("between", [0.25, 0.5], 0.625, 0.375, 0.75, "0.5", 16),
        ("between", [0.25, 0.5], 0.375, 0.125, 0.75, "0.25 and 0.5", 36),
        ("between", [0.25, 0.5], 0.625, 0.25, 0.625, "0.25 and 0.5", 36),
    ],
)
def test_bounds_at_the_ends_of_an_interval_are_reached(
    rule, threshold, value, low, high, across, needed
):
    shown = told(value, low, high, 4, rule, threshold)
    assert shown.endswith(f"straddles {across}{advised(needed, 4)}")


@pytest.mark.parametrize("n", [None, 1, 2])
def test_what_has_no_interval_is_measured_once_or_has_none(n):
    one = "one sequence or question gives no standard error; measure more"
    why = "it has no 95% interval" if n == 2 else one
    assert judge(Metric(value=0.75, n=n), "above", 0.5, exact=False) == (
        "inconclusive",
        f"0.75: {why}",
    )
    for low, high in ((0.625, None), (None, 1.0), (0.625, math.inf), (-math.inf, 0.875)):
        metric = Metric(value=0.75, n=n, ci_low=low, ci_high=high)
        assert judge(metric, "above", 0.5, exact=False) == ("inconclusive", f"0.75: {why}")


@pytest.mark.parametrize(
    ("rule", "tolerance", "values", "verdicts"),
    [
        ("equals", 0.25, (0.25, 0.75, 0.24, 0.76), "ppff"),
        ("equals", 0.0, (0.5, 0.51), "pf"),
        ("equals", None, (0.5, 0.51), "pf"),
        ("at_least", None, (0.5, 0.49), "pf"),
        ("at_most", None, (0.5, 0.51), "pf"),
        ("above", None, (0.5, 0.51, -9.0), "fpf"),
        ("below", None, (0.5, 0.49, 9.0), "fpf"),
    ],
)
def test_exact_values_at_a_bound(rule, tolerance, values, verdicts):
    found = [judge(exact(value), rule, 0.5, tolerance, exact=False)[0][0] for value in values]
    assert "".join(found) == verdicts


def test_a_tolerance_of_0_is_none():
    spec = check(rule="equals", threshold=5, tolerance=0)
    assert run(spec, measured(exact(9))).threshold == 5


def test_what_is_in_doubt_for_one_reason_is_said_once():
    found = run(quiz(), measured(Metric(value=0.75, n=1)))
    assert found.reason is not None and found.reason.startswith("0.75: one sequence")
    single = quiz(supports=(Support("a", "above", 0.5),))
    failed = run(single, measured(Metric(value=0.25, ci_low=0.125, ci_high=0.375, n=4)))
    assert failed.reason is not None and failed.reason.startswith("required > 0.5, measured 0.25")
    tolerant = quiz(supports=(Support("a", "equals", 0.5, 0.25), Support("b", "below", 0.25)))
    assert run(tolerant, measured(exact(0.75))).verdict == "pass"
    assert run(tolerant, measured(exact(0.125))).supports == "b"


@pytest.mark.parametrize(
    ("metric", "answers", "supports"),
    [
        ("margin", [" cat"], "b"),
        ("margin", [" cat", " cat"], None),
        ("margin", [], None),
        ("margin", [" dog"], None),
        ("accuracy", [" cat"], None),
    ],
)
def test_what_the_model_prefers_is_named_of_one_question_s_margin(metric, answers, supports):
    spec = quiz(
        metric=metric,
        options={"a": " dog", "b": " cat"},
        supports=(Support("a", "above", 0.0),),
    )
    answered = Measurement(
        probe="choice",
        metrics={metric: exact(-0.5)},
        tables={"answers": [{"chosen": chosen} for chosen in answers]},
    )
    assert run(spec, answered).supports == supports
    passed = answered.model_copy(update={"metrics": {metric: exact(0.5)}})
    assert (run(spec, passed).supports, run(spec, passed).verdict) == ("a", "pass")


@pytest.mark.parametrize("value", [0.9, 0.1, 0.5])
def test_what_is_vacuous_fails_or_is_skipped(value):
    metric = Metric(value=value, stderr=0.1, ci_low=value - 0.2, ci_high=value + 0.2, n=9)
    idle = measured(metric)
    idle.vacuous["score"], idle.remarks["score"] = "nothing was done", "look"
    found = run(check(threshold=0.5), idle)
    if value == 0.1:
        assert found.verdict == "fail" and str(found.reason).endswith("; nothing was done; look")
    else:
        assert (found.verdict, found.reason) == ("skipped", "nothing was done")
    noted = measured(metric)
    noted.remarks["score"] = "look"
    found = run(check(threshold=0.5), noted)
    assert found.verdict == {0.9: "pass", 0.1: "fail", 0.5: "inconclusive"}[value]
    assert (found.reason or "").endswith("look") is (value != 0.9)
    assert found.reason is None or value != 0.9


def test_more_data_change_no_verdict_where_none_is_open():
    info = {"score": MetricInfo("a score")}
    metric = Metric(value=0.5, stderr=0.1, ci_low=0.3, ci_high=0.7, n=9)
    decided, open_one = check(threshold=0.25), check(threshold=0.6)
    assert all_decided([], measured(metric), info)
    assert all_decided([decided, check(threshold=0.75)], measured(metric), info)
    assert not all_decided([decided, open_one], measured(metric), info)
    assert not all_decided([check(threshold=0.6, models=("!*",))], measured(metric), info)
    assert all_decided([open_one], Measurement(probe="p"), info)


@pytest.mark.parametrize(
    ("globs", "names", "applied"),
    [
        (None, [], True),
        ((), ["a"], True),
        (("a",), ["a", "x"], True),
        (("a",), ["x"], False),
        (("a", "!x"), ["a", "x"], False),
        (("!x",), ["a"], True),
        (("!x",), [], True),
        (("a",), [], False),
    ],
)
def test_a_check_is_meant_for_models_that_are_named_and_not_left_out(globs, names, applied):
    spec = check(models=globs)
    assert applies(spec, names) is applied
    found = evaluate(spec, "s", "s/m", measured(exact(1)), MetricInfo("a"), *names)
    assert (found.verdict == "pass") is applied
