from __future__ import annotations

import math
from typing import Any

import pytest

from icl_bench.errors import SettingsError
from icl_bench.probes import MetricInfo
from icl_bench.records.parts import Check, Measurement, Metric
from icl_bench.running.checks import evaluate, judge
from icl_bench.suite.specs import CheckSpec, QuizSpec, Support

ESTIMATED = MetricInfo("a score", "up", "probability")
EXACT = MetricInfo("a p-value", "down", "probability", exact=True)


def estimate(value: float, low: float, high: float, stderr: float = 0.03) -> Metric:
    return Metric(value=value, stderr=stderr, ci_low=low, ci_high=high, n=32)


def exact(value: float) -> Metric:
    return Metric(value=value, exact=True)


def check(**fields: Any) -> CheckSpec:
    defaults = {"id": "has", "on": "repeats", "metric": "score", "rule": "above", "threshold": 0.4}
    return CheckSpec(**{**defaults, **fields})


def quiz(**fields: Any) -> QuizSpec:
    defaults = {
        "id": "why",
        "question": "What is it?",
        "options": {"a": "a match", "b": "a sink", "c": "neither"},
        "on": "repeats",
        "metric": "score",
        "supports": (Support("a", "above", 0.4), Support("b", "below", 0.1)),
        "expected": "a",
    }
    return QuizSpec(**{**defaults, **fields})


def run(spec: CheckSpec | QuizSpec, measurement: Measurement | None, info=ESTIMATED) -> Check:
    return evaluate(spec, "core", "core/repeats", measurement, info, "org/gpt2", "org-gpt2")


def measured(metric: Metric) -> Measurement:
    return Measurement(probe="induction", metrics={"score": metric})


@pytest.mark.parametrize(
    ("rule", "threshold", "tolerance", "value", "verdict"),
    [
        ("above", 2, None, 2.1, "pass"),
        ("above", 2, None, 2, "fail"),
        ("below", 2, None, 1.9, "pass"),
        ("below", 2, None, 2, "fail"),
        ("at_least", 2, None, 2, "pass"),
        ("at_least", 2, None, 1.9, "fail"),
        ("at_most", 2, None, 2, "pass"),
        ("at_most", 2, None, 2.1, "fail"),
        ("between", [1, 2], None, 1, "pass"),
        ("between", [1, 2], None, 2, "pass"),
        ("between", [1, 2], None, 2.1, "fail"),
        ("between", [1, 2], None, 0.9, "fail"),
        ("equals", 5, None, 5, "pass"),
        ("equals", 5, None, 5.1, "fail"),
        ("equals", 5, None, 4.9, "fail"),
        ("equals", 5, 1, 6, "pass"),
        ("equals", 5, 1, 4, "pass"),
        ("equals", 5, 1, 6.1, "fail"),
    ],
)
def test_an_exact_metric_is_decided_by_its_value(
    rule: str, threshold: Any, tolerance: float | None, value: float, verdict: str
) -> None:
    metric = Metric(value=value)
    assert judge(metric, rule, threshold, tolerance, exact=True)[0] == verdict


@pytest.mark.parametrize(
    ("rule", "threshold", "low", "high", "verdict"),
    [
        ("above", 0.4, 0.41, 0.47, "pass"),
        ("above", 0.4, 0.35, 0.47, "inconclusive"),
        ("above", 0.4, 0.4, 0.47, "inconclusive"),
        ("above", 0.4, 0.35, 0.4, "fail"),
        ("at_least", 0.4, 0.4, 0.47, "pass"),
        ("at_least", 0.4, 0.35, 0.4, "inconclusive"),
        ("below", 0.4, 0.35, 0.39, "pass"),
        ("below", 0.4, 0.4, 0.47, "fail"),
        ("at_most", 0.4, 0.35, 0.4, "pass"),
        ("at_most", 0.4, 0.41, 0.47, "fail"),
        ("between", [0.2, 0.4], 0.2, 0.4, "pass"),
        ("between", [0.2, 0.4], 0.1, 0.3, "inconclusive"),
        ("between", [0.2, 0.4], 0.1, 0.5, "inconclusive"),
        ("between", [0.2, 0.4], 0.41, 0.5, "fail"),
        ("between", [0.2, 0.4], 0.1, 0.19, "fail"),
        ("equals", 0.3, 0.3, 0.3, "pass"),
        ("equals", 0.3, 0.29, 0.31, "inconclusive"),
    ],
)
def test_an_estimate_is_decided_only_by_its_whole_interval(
    rule: str, threshold: Any, low: float, high: float, verdict: str
) -> None:
    assert judge(estimate((low + high) / 2, low, high), rule, threshold, exact=False)[0] == verdict


def test_the_reason_of_an_open_verdict_shows_interval_and_threshold() -> None:
    assert judge(estimate(0.41, 0.35, 0.47), "above", 0.4, exact=False) == (
        "inconclusive",
        "0.41 ± 0.03: the 95% interval [0.35, 0.47] straddles 0.4; if the value stays, about "
        "1200 samples would decide, not 32: ask for more, or set 'until: decided'",
    )
    # A value that stands at the bound is not decided by any number.
    _, reason = judge(estimate(0.4, 0.35, 0.45), "above", 0.4, exact=False)
    assert reason is not None and reason.endswith("straddles 0.4")
    _, reason = judge(estimate(0.4001, 0.35, 0.45), "above", 0.4, exact=False)
    assert reason is not None and reason.endswith("too near the bound for more samples to decide")


def test_the_reason_names_both_bounds_that_an_interval_covers() -> None:
    _, reason = judge(estimate(0.3, 0.1, 0.5), "between", (0.2, 0.4), exact=False)
    assert reason is not None and "[0.1, 0.5] straddles 0.2 and 0.4" in reason


def test_the_reason_of_a_failure_says_what_was_needed() -> None:
    assert judge(exact(0.2), "below", 0.05, exact=False) == (
        "fail",
        "required < 0.05, measured 0.2",
    )
    assert judge(estimate(0.02, 0.01, 0.03, 0.005), "above", 0.4, exact=False) == (
        "fail",
        "required > 0.4, measured 0.02 ± 0.005: the 95% interval [0.01, 0.03] lies wholly outside "
        "that",
    )


def test_a_reason_never_shows_a_failing_value_as_equal_to_its_threshold() -> None:
    _, reason = judge(exact(0.05000001), "below", 0.05, exact=True)
    assert reason == "required < 0.05, measured 0.05000001"


def test_either_exact_flag_makes_the_value_decide() -> None:
    assert judge(Metric(value=1), "below", 2, exact=True)[0] == "pass"
    assert judge(Metric(value=1, exact=True), "below", 2, exact=False)[0] == "pass"


def test_one_sequence_is_inconclusive_and_says_why() -> None:
    verdict, reason = judge(Metric(value=0.9, n=1), "above", 0.4, exact=False)
    assert verdict == "inconclusive"
    assert reason == "0.9: one sequence or question gives no standard error; measure more"


def test_an_estimate_whose_interval_is_missing_is_inconclusive() -> None:
    metric = Metric(value=0.9, stderr=0.01, n=32)
    assert judge(metric, "above", 0.4, exact=False) == (
        "inconclusive",
        "0.9 ± 0.01: it has no 95% interval",
    )


def test_an_interval_that_is_not_a_number_decides_nothing() -> None:
    metric = Metric.model_construct(value=0.9, stderr=0.01, ci_low=math.nan, ci_high=1.0, n=32)
    assert judge(metric, "above", 0.4, exact=False)[0] == "inconclusive"


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_value_that_is_not_a_number_was_not_measured(value: float) -> None:
    metric = Metric.model_construct(value=value, exact=True)
    found = run(check(), measured_unchecked(metric))
    assert (found.verdict, found.value) == ("skipped", None)
    assert found.reason == f"not measured: its value is {value}"
    assert judge(metric, "above", 0, exact=True)[0] == "skipped"


def measured_unchecked(metric: Metric) -> Measurement:
    return Measurement.model_construct(
        probe="induction", status="measured", metrics={"score": metric}, unmeasured={}
    )


def test_no_metric_is_skipped() -> None:
    assert judge(None, "above", 0.4, exact=False) == ("skipped", "not measured")


def test_an_unknown_rule_names_the_nearest_one() -> None:
    with pytest.raises(SettingsError, match="unknown rule 'abov'; did you mean 'above'"):
        judge(exact(1), "abov", 0.4, exact=True)


def test_a_check_carries_the_metric_and_what_the_suite_says() -> None:
    spec = check(description="It matches.")
    assert run(spec, measured(estimate(0.9, 0.88, 0.92))) == Check(
        id="has",
        suite="core",
        measurement="core/repeats",
        metric="score",
        direction="up",
        value=0.9,
        stderr=0.03,
        ci_low=0.88,
        ci_high=0.92,
        rule="above",
        threshold=0.4,
        verdict="pass",
        description="It matches.",
    )


def test_what_is_said_of_a_metric_is_not_said_where_there_is_none() -> None:
    taken = Measurement(probe="p", metrics={}, unmeasured={"score": "it has no heads"})
    taken.remarks["score"] = "others stand in"
    found = run(check(), taken)
    assert found.verdict == "skipped" and found.reason == "it has no heads"


def test_a_tolerance_is_kept_with_its_threshold() -> None:
    spec = check(rule="equals", threshold=5, tolerance=1)
    assert run(spec, measured(exact(9))).threshold == {"value": 5, "tolerance": 1}
    assert run(spec, measured(exact(9))).reason == "required = 5 ± 1, measured 9"
    assert run(check(rule="between", threshold=(1, 2)), None).threshold == [1, 2]


def test_an_exact_metric_of_the_probe_needs_no_interval() -> None:
    assert run(check(), measured(Metric(value=0.9)), EXACT).verdict == "pass"


@pytest.mark.parametrize(
    ("measurement", "verdict", "reason"),
    [
        (None, "skipped", "not measured"),
        (Measurement(probe="p", status="skipped", reason="no heads"), "skipped", "no heads"),
        (Measurement(probe="p", status="skipped"), "skipped", "the measurement was skipped"),
        (Measurement(probe="p", status="error", reason="it broke"), "error", "it broke"),
        (Measurement(probe="p", status="error"), "error", "the measurement failed"),
        (Measurement(probe="p", unmeasured={"score": "too few sets"}), "skipped", "too few sets"),
        (Measurement(probe="p"), "skipped", "not measured"),
    ],
)
@pytest.mark.parametrize("spec", [check(), quiz()])
def test_what_was_not_measured_has_a_reason_and_no_value(
    spec: CheckSpec | QuizSpec, measurement: Measurement | None, verdict: str, reason: str
) -> None:
    found = run(spec, measurement)
    assert (found.verdict, found.reason, found.value) == (verdict, reason, None)


@pytest.mark.parametrize("glob", ["org/*", "org-gpt2", "*gpt?"])
def test_a_check_applies_to_models_whose_spec_or_slug_matches(glob: str) -> None:
    spec = check(models=("other", glob))
    assert run(spec, measured(exact(1))).verdict == "pass"


@pytest.mark.parametrize("glob", ["ORG/*", "gpt2", "org"])
def test_a_check_for_other_models_is_skipped(glob: str) -> None:
    found = run(check(models=("other", glob)), measured(exact(1)))
    assert (found.verdict, found.value) == ("skipped", None)
    assert found.reason == f"applies only to other, {glob}"


@pytest.mark.parametrize("globs", [("!builtin:*",), ("org/*", "!*bert*"), ("!x", "!y")])
def test_a_check_applies_to_models_that_no_glob_leaves_out(globs: tuple[str, ...]) -> None:
    assert run(check(models=globs), measured(exact(1))).verdict == "pass"


@pytest.mark.parametrize(
    ("globs", "reason"),
    [
        (("!org/*",), "does not apply to org/*"),
        (("!org-gpt2",), "does not apply to org-gpt2"),
        (("!x", "!*2"), "does not apply to x, *2"),
        (("org/*", "!*gpt2"), "applies only to org/*; does not apply to *gpt2"),
        (("x", "!y"), "applies only to x; does not apply to y"),
    ],
)
def test_a_check_that_leaves_a_model_out_is_skipped(globs: tuple[str, ...], reason: str) -> None:
    found = run(check(models=globs), measured(exact(1)))
    assert (found.verdict, found.value, found.reason) == ("skipped", None, reason)


@pytest.mark.parametrize(
    ("chosen", "supports", "reason"),
    [
        (" cat", "b", "the model prefers b: cat (margin -0.8); expected a"),
        (" dog", None, "required > 0, measured -0.8"),
        (" bird", None, "required > 0, measured -0.8"),
    ],
)
def test_a_question_answered_wrongly_names_what_the_model_prefers(
    chosen: str, supports: str | None, reason: str
) -> None:
    spec = quiz(
        metric="margin",
        options={"a": " dog", "b": " cat"},
        supports=(Support("a", "above", 0.0),),
    )
    answered = Measurement(
        probe="choice",
        metrics={"margin": exact(-0.8)},
        tables={"answers": [{"prompt": "A", "chosen": chosen}]},
    )
    found = run(spec, answered)
    assert (found.verdict, found.supports, found.reason) == ("fail", supports, reason)


def test_the_reason_ends_an_option_s_sentence_once() -> None:
    found = run(quiz(options={"a": "Yes.", "b": "No. Never."}), measured(exact(0.02)))
    assert found.reason == "measured 0.02, which supports b: No. Never; expected a"


def test_a_quiz_item_names_the_metrics_that_are_shown_beside() -> None:
    assert run(quiz(beside=("other", "third")), measured(exact(1))).beside == ["other", "third"]
    assert run(quiz(), measured(exact(1))).beside == []
    assert run(check(), measured(exact(1))).beside is None


def test_a_quiz_item_passes_when_the_expected_option_is_supported() -> None:
    found = run(quiz(), measured(estimate(0.9, 0.88, 0.92)))
    assert (found.verdict, found.supports, found.expected) == ("pass", "a", "a")
    assert (found.kind, found.rule, found.question) == ("quiz", "supports", "What is it?")
    assert found.options == {"a": "a match", "b": "a sink", "c": "neither"}
    assert found.threshold == [
        {"option": "a", "rule": "above", "threshold": 0.4},
        {"option": "b", "rule": "below", "threshold": 0.1},
    ]


def test_a_quiz_item_fails_when_another_option_is_supported() -> None:
    found = run(quiz(), measured(estimate(0.02, 0.01, 0.03, 0.005)))
    assert (found.verdict, found.supports) == ("fail", "b")
    assert found.reason == "measured 0.02 ± 0.005, which supports b: a sink; expected a"


def test_the_first_option_that_holds_is_the_supported_one() -> None:
    supports = (Support("b", "above", 0.3), Support("a", "above", 0.4))
    assert run(quiz(supports=supports), measured(exact(0.9))).supports == "b"


def test_a_quiz_item_that_supports_nothing_fails() -> None:
    found = run(quiz(), measured(estimate(0.2, 0.15, 0.25)))
    assert (found.verdict, found.supports) == ("fail", None)
    assert found.reason == "measured 0.2 ± 0.03, which supports none of the options"


def test_a_quiz_item_is_inconclusive_when_an_option_is_in_doubt() -> None:
    found = run(quiz(), measured(estimate(0.41, 0.35, 0.47)))
    assert (found.verdict, found.supports) == ("inconclusive", None)
    shown = "0.41 ± 0.03: the 95% interval [0.35, 0.47] straddles 0.4; "
    assert found.reason is not None and found.reason.startswith(shown)


def test_a_quiz_item_names_every_option_in_doubt() -> None:
    found = run(quiz(), measured(estimate(0.25, 0.05, 0.45)))
    assert found.reason is not None
    assert found.reason.startswith("option a: 0.25 ± 0.03: the 95% interval [0.05, 0.45] straddles")
    assert "; option b: 0.25" in found.reason


@pytest.mark.parametrize(
    ("margin", "verdict", "reason"),
    [(0.8, "pass", None), (-0.8, "fail", "required > 0, measured -0.8")],
)
def test_a_single_question_is_decided_by_its_margin(
    margin: float, verdict: str, reason: str | None
) -> None:
    spec = quiz(supports=(Support("a", "above", 0.0),))
    found = run(spec, measured(exact(margin)))
    assert (found.verdict, found.reason) == (verdict, reason)


def test_what_holds_because_nothing_was_done_does_not_pass() -> None:
    idle = measured(exact(0.0))
    idle.vacuous["score"] = "nothing was switched off"
    found = run(check(rule="below", threshold=0.1), idle)
    assert (found.verdict, found.reason) == ("skipped", "nothing was switched off")
    failed = run(check(rule="above", threshold=0.1), idle)
    assert failed.verdict == "fail"
    assert failed.reason == "required > 0.1, measured 0; nothing was switched off"


def test_a_remark_stands_in_the_reason_of_what_does_not_pass() -> None:
    one = measured(exact(0.3))
    one.remarks["score"] = "others stand in"
    assert run(check(rule="below", threshold=0.5), one).reason is None
    failed = run(check(rule="above", threshold=0.5), one)
    assert failed.reason == "required > 0.5, measured 0.3; others stand in"
