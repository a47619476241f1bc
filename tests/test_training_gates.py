"""Gates of a training run, on records made by hand: what holds, since when, and by what numbers."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats
from slow_intervals import ends

from icl_bench.errors import InputError, SettingsError
from icl_bench.integrations import Keeps, Passes, Reaches
from icl_bench.integrations.gates import difference
from icl_bench.integrations.gating import plan_gates
from icl_bench.measures.statistics import exact_metric, mean_metric
from icl_bench.records.parts import Check, Environment, Measurement, Metric, ModelInfo
from icl_bench.records.record import RunRecord

PLAN = plan_gates(["gate"], [], None)


def record(step, metrics=None, *, tokens="a", status="measured", reason=None, checks=()):
    """An evaluation that measured `gate/repeats` and nothing else."""
    taken = Measurement(
        probe="induction",
        status=status,
        reason=reason,
        tokens_sha256=tokens,
        metrics={
            name: metric if isinstance(metric, Metric) else mean_metric(metric)
            for name, metric in (metrics or {}).items()
        },
    )
    return RunRecord(
        icl_bench="0",
        created="now",
        model=ModelInfo(spec="m", slug="m"),
        environment=Environment(python="3", platform="p"),
        suites=[],
        measurements={"gate/repeats": taken},
        checks=[
            Check(id=one, suite="gate", measurement="gate/repeats", metric="induction_max",
                  rule="above", verdict=verdict, reason="because")
            for one, verdict in checks
        ],
        step=step,
    )  # fmt: skip


def around(mean, spread=0.01, n=8, seed=0):
    """Samples with exactly this mean and standard deviation."""
    noise = np.random.default_rng(seed).normal(size=n)
    return mean + spread * (noise - noise.mean()) / noise.std(ddof=1)


def scored(*means, spread=0.01):
    """Evaluations at steps 100, 200, ... with these induction scores."""
    return [
        record(100 * (place + 1), {"induction_max": around(mean, spread)})
        for place, mean in enumerate(means)
    ]


class TestReaches:
    gate = Reaches("induction_max", above=0.4, by_step=300)

    def judge(self, history, gate=None):
        return (gate or self.gate).judge(history, PLAN)

    def test_it_is_not_due_before_its_step(self):
        found = self.judge(scored(0.1, 0.1))
        assert found.verdict == "skipped"
        assert found.reason.startswith("not due yet; at step 200: required > 0.4, measured 0.1")

    def test_reached_early_it_holds_for_good(self):
        found = self.judge(scored(0.1, 0.6, 0.1, 0.1))
        assert found.verdict == "pass"
        assert found.reason.startswith("at step 200: measured 0.6")

    def test_not_reached_it_fails_with_the_numbers(self):
        found = self.judge(scored(0.1, 0.1, 0.2))
        assert found.verdict == "fail"
        assert found.gate == "induction_max > 0.4 by step 300"
        assert "at step 300: required > 0.4, measured 0.2" in found.reason
        assert "95% interval [" in found.reason

    def test_what_comes_after_its_step_is_too_late(self):
        assert self.judge(scored(0.1, 0.1, 0.2, 0.9)).verdict == "fail"

    def test_the_first_evaluation_after_its_step_decides_where_there_is_none_at_it(self):
        early, late = record(250, {"induction_max": around(0.1)}), {"induction_max": around(0.9)}
        assert self.judge([early]).verdict == "skipped"
        assert self.judge([early, record(350, late)]).verdict == "pass"

    def test_noise_decides_nothing_and_later_evaluations_do(self):
        noisy = [*scored(0.1, 0.1), record(300, {"induction_max": around(0.38, 0.2)})]
        assert self.judge(noisy).verdict == "inconclusive"
        assert "straddles 0.4" in self.judge(noisy).reason
        for mean, verdict in ((0.1, "fail"), (0.9, "pass")):
            later = record(400, {"induction_max": around(mean)})
            assert self.judge([*noisy, later]).verdict == verdict

    def test_what_is_not_there_by_then_was_not_reached(self):
        gone = record(300, status="skipped", reason="no head is chosen")
        found = self.judge([gone])
        assert (found.verdict, found.reason) == ("fail", "at step 300: no head is chosen")

    def test_a_broken_measurement_is_an_error_until_one_works(self):
        broken = record(300, status="error", reason="it broke")
        assert self.judge([broken]).verdict == "error"
        assert self.judge([broken, record(400, {"induction_max": around(0.9)})]).verdict == "pass"

    def test_a_metric_that_has_to_fall(self):
        gate = Reaches("repeats/induction_control", below=0.1, by_step=100)
        high, low = ({"induction_control": around(mean)} for mean in (0.5, 0.01))
        assert self.judge([record(100, high)], gate).verdict == "fail"
        assert self.judge([record(100, low)], gate).verdict == "pass"
        assert gate.name == "repeats/induction_control < 0.1 by step 100"

    def test_it_asks_for_an_evaluation_at_its_step(self):
        assert self.gate.steps == (300,)


class TestKeeps:
    gate = Keeps("induction_max", within=0.1)

    def judge(self, history, gate=None):
        return (gate or self.gate).judge(history, PLAN)

    def test_one_evaluation_is_nothing_to_compare_with(self):
        assert self.judge(scored(0.9)).verdict == "skipped"

    def test_a_fall_is_measured_from_the_best_evaluation(self):
        assert self.judge(scored(0.5, 0.9, 0.85, 0.83)).verdict == "pass"
        found = self.judge(scored(0.5, 0.9, 0.85, 0.7))
        assert found.verdict == "fail"
        assert found.reason.startswith("0.9 ± 0.0035 at step 200, 0.7 ± 0.0035 now: drop 0.2")

    def test_a_rise_is_no_drop(self):
        assert self.judge(scored(0.1, 0.9)).verdict == "pass"

    def test_samples_of_the_same_tokens_are_paired(self):
        """The spread over sequences is wide, but each lost the same."""
        first = np.linspace(0.2, 1.0, 8)
        history = [
            record(1, {"induction_max": first}),
            record(2, {"induction_max": first - around(0.2, 0.01)}),
        ]
        assert self.judge(history).verdict == "fail"
        history[1].measurements["gate/repeats"].tokens_sha256 = "b"
        assert self.judge(history).verdict == "inconclusive"

    def test_where_less_is_better_a_rise_is_the_drop(self):
        gate = Keeps("induction_control", within=0.1)
        history = [
            record(step, {"induction_control": around(mean)})
            for step, mean in ((1, 0.3), (2, 0.1), (3, 0.3))
        ]
        assert self.judge(history[:2], gate).verdict == "pass"
        found = self.judge(history, gate)
        assert found.verdict == "fail" and "0.1 ± 0.0035 at step 2" in found.reason

    def test_what_cannot_be_measured_any_more_is_lost(self):
        history = [*scored(0.9), record(200, status="skipped", reason="no head is chosen")]
        found = self.judge(history)
        assert found.verdict == "fail"
        assert found.reason.endswith("and cannot be measured now: no head is chosen")
        history[1] = record(200, status="error", reason="it broke")
        assert self.judge(history).verdict == "error"

    def test_evaluations_before_its_step_do_not_count(self):
        gate = Keeps("induction_max", within=0.1, from_step=200)
        assert self.judge(scored(0.9, 0.2), gate).verdict == "skipped"
        assert self.judge(scored(0.9, 0.2, 0.2), gate).verdict == "pass"

    def test_a_metric_without_a_better_side_has_no_best(self):
        with pytest.raises(SettingsError, match="neither more nor less of"):
            plan_gates(["gate"], [Keeps("induction_median", within=0.1)], None)


class TestPasses:
    gate = Passes("gate", from_step=100)

    @pytest.mark.parametrize(
        ("verdicts", "expected"),
        [
            (("pass", "pass"), "pass"),
            (("pass", "skipped"), "pass"),
            (("skipped", "skipped"), "skipped"),
            (("pass", "inconclusive"), "inconclusive"),
            (("inconclusive", "error"), "error"),
            (("error", "fail"), "fail"),
        ],
    )
    def test_the_worst_check_decides(self, verdicts, expected):
        checks = list(zip(("one", "two"), verdicts))
        assert self.gate.judge([record(100, checks=checks)], PLAN).verdict == expected

    def test_the_reason_names_the_checks(self):
        now = record(100, checks=[("one", "fail"), ("two", "pass"), ("three", "inconclusive")])
        assert self.gate.judge([now], PLAN).reason == (
            "at step 100: one (fail: because); three (inconclusive: because); 1 of 3 checks hold"
        )

    def test_it_is_not_due_before_its_step(self):
        now = record(99, checks=[("one", "fail")])
        assert self.gate.judge([now], PLAN).verdict == "skipped"

    def test_a_suite_that_is_not_run(self):
        with pytest.raises(SettingsError, match="suite 'gat': it is not run; did you mean 'gate'"):
            plan_gates(["gate"], [Passes("gat")], None)


def test_paired_difference_is_the_mean_of_each_sequences_own():
    before, now = around(0.9, 0.1, seed=1), around(0.7, 0.1, seed=2)
    found = difference(mean_metric(before), mean_metric(now), 1.0, same_tokens=True)
    expected = ends([one - other for one, other in zip(before, now)])
    assert found.value == pytest.approx(0.2)
    assert (found.ci_low, found.ci_high) == pytest.approx(expected)


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_unpaired_difference_is_that_of_welchs_test(sign):
    before, now = around(0.9, 0.1, n=9, seed=1), around(0.7, 0.3, n=14, seed=2)
    found = difference(mean_metric(before), mean_metric(now), sign, same_tokens=False)
    welch = stats.ttest_ind(before, now, equal_var=False).confidence_interval(0.95)
    expected = sorted((sign * welch.low, sign * welch.high))
    assert (found.ci_low, found.ci_high) == pytest.approx(expected)
    assert found.value == pytest.approx(sign * 0.2)


def test_difference_of_exact_numbers_is_exact():
    found = difference(exact_metric(0.5), exact_metric(0.3), 1.0, same_tokens=False)
    assert found.exact and found.value == pytest.approx(0.2)


def test_difference_of_an_exact_and_an_estimated_number_has_the_latters_interval():
    """Copying lost is exactly 0 where no head is left to switch off: the drop is certain enough."""
    best = mean_metric([0.96, 0.98, 0.97, 0.95])
    drop = difference(best, exact_metric(0.0), 1.0, same_tokens=True)
    assert drop.value == pytest.approx(best.value)
    assert (drop.ci_low, drop.ci_high) == pytest.approx((best.ci_low, best.ci_high))


def test_difference_without_standard_errors_has_no_interval():
    counts = [Metric(value=value, ci_low=0.0, ci_high=9.0, n=8) for value in (5.0, 3.0)]
    found = difference(*counts, 1.0, same_tokens=False)
    assert (found.value, found.ci_low) == (2.0, None)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Reaches("induction_max", by_step=1), "give one of 'above' and 'below'"),
        (lambda: Reaches("x", above=1, below=2, by_step=1), "give one of 'above' and 'below'"),
        (lambda: Reaches("x", above=1, by_step=-1), "'by_step' is negative"),
        (lambda: Keeps("x", within=-0.1), "is negative"),
        (lambda: Passes(from_step=-1), "is negative"),
    ],
)
def test_gates_that_make_no_sense(make, message):
    with pytest.raises(SettingsError, match=message):
        make()


def test_a_metric_that_no_suite_measures():
    with pytest.raises(SettingsError, match="no such metric; did you mean 'induction_max'"):
        plan_gates(["gate"], [Reaches("inducton_max", above=0.4, by_step=1)], None)


def test_a_metric_of_two_measurements_has_to_be_told_apart(tmp_path):
    suite = tmp_path / "two.yaml"
    suite.write_text(
        "icl_suite: 1\nname: two\nmeasure: {a: {probe: induction}, b: {probe: induction}}\n"
        "checks: [{id: one, on: a, metric: induction_max, above: 0.4}]\n"
    )
    with pytest.raises(SettingsError, match="two/a/induction_max, two/b/induction_max"):
        plan_gates([suite], [Reaches("induction_max", above=0.4, by_step=1)], None)
    plan_gates([suite], [Reaches("a/induction_max", above=0.4, by_step=1)], None)
    plan_gates([suite], [Reaches("two/b/induction_max", above=0.4, by_step=1)], None)


def test_suites_that_are_no_list_or_not_there():
    with pytest.raises(SettingsError, match="must be a list"):
        plan_gates("gate", [], None)
    with pytest.raises(InputError, match="did you mean 'gate'"):
        plan_gates(["gat"], [], None)
