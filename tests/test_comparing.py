"""A record against its baseline: numbers against scipy, and every way to get worse."""

from __future__ import annotations

import errno
import html
import json
import os

import numpy as np
import pytest
from conftest import Stage
from scipy import stats

from icl_bench.cli import main
from icl_bench.comparing import Part, compare, parse_limit
from icl_bench.errors import SettingsError
from icl_bench.records.parts import Check, Environment, Measurement, Metric, ModelInfo, SuiteRef
from icl_bench.records.record import RunRecord
from icl_bench.render.comparison import comparison_markdown, comparison_text
from icl_bench.render.writing import numbers

RNG = np.random.default_rng(5)
BEFORE = RNG.normal(0.9, 0.05, 32)
NOISE = RNG.normal(0, 0.02, 32)


def metric(samples, keep=True):
    n = len(samples)
    error = float(np.std(samples, ddof=1) / np.sqrt(n))
    half = float(stats.t.ppf(0.975, n - 1)) * error
    mean = float(np.mean(samples))
    kept = [float(v) for v in samples] if keep else None
    return Metric(
        value=mean, stderr=error, ci_low=mean - half, ci_high=mean + half, n=n, samples=kept
    )


def record(samples=BEFORE, verdict="pass", heads=(), tokens="same", keep=True, **settings):
    """A record with one measurement and two checks on it."""
    measurement = Measurement(
        probe="induction",
        settings={"sequences": 32, "threshold": 0.4, **settings},
        tokens_sha256=tokens,
        metrics={
            "induction_max": metric(samples, keep),
            "induction_control": metric(1 - np.asarray(samples), keep),
            "first_token_mean": metric(samples, keep),
        },
        heads=[
            {"layer": layer, "head": head, "induction": score, "induction_stderr": 0.01}
            for layer, head, score in heads
        ],
    )
    check = Check(
        id="high",
        suite="mine",
        measurement="mine/repeats",
        metric="induction_max",
        rule="above",
        threshold=0.4,
        verdict=verdict,
        reason=None if verdict == "pass" else "a reason",
    )
    low = check.model_copy(update={"id": "low", "metric": "induction_control"})
    return RunRecord(
        icl_bench="0",
        created="2026-01-01T00:00:00+00:00",
        model=ModelInfo(spec="a-model", slug="a-model"),
        environment=Environment(python="3", platform="x"),
        suites=[SuiteRef(name="mine", sha256="0" * 64)],
        measurements={"mine/repeats": measurement},
        checks=[check, low],
    )


def of(found, name):
    return next(change for change in found.metrics if change.metric == name)


def test_on_the_same_tokens_the_interval_is_that_of_paired_differences():
    after = BEFORE - 0.05 + NOISE
    found = compare(record(), record(after))
    change = of(found, "induction_max")
    # Two metrics are judged, so each interval has confidence 1 - 0.05 / 2.
    low, high = stats.ttest_rel(after, BEFORE).confidence_interval(0.975)
    assert change.paired and (change.ci_low, change.ci_high) == pytest.approx((low, high))
    assert change.state == "regressed" and of(found, "induction_control").state == "regressed"
    assert not found.passes()
    # Judged are the metrics that checks read, and no others.
    assert {one.metric for one in found.metrics} == {"induction_max", "induction_control"}


@pytest.mark.parametrize("other", [{"tokens": "others"}, {"keep": False}])
def test_on_other_tokens_it_is_that_of_two_samples(other):
    after = BEFORE - 0.02 + NOISE
    found = compare(record(), record(after, **other), [parse_limit("induction_max=noise")])
    change = of(found, "induction_max")
    half = stats.t.ppf(1 - 0.0125, 31) * np.hypot(stats.sem(BEFORE), stats.sem(after))
    assert not change.paired
    assert change.ci_high - change.difference == pytest.approx(half)
    assert change.state == "same"  # the same fall, lost in the noise between tokens


def test_of_an_exact_number_and_an_estimate_the_estimates_error_counts():
    before, after = record(keep=False), record(BEFORE - 0.02 + NOISE, keep=False)
    exact = before.measurements["mine/repeats"].metrics["induction_max"]
    exact.exact, exact.stderr, exact.ci_low, exact.ci_high = True, None, None, None
    for old, new, sign in ((before, after, 1), (after, before, -1)):
        change = of(compare(old, new, [parse_limit("*=0.01")]), "induction_max")
        half = stats.t.ppf(1 - 0.0125, 31) * stats.sem(BEFORE - 0.02 + NOISE)
        assert change.ci_high - change.difference == pytest.approx(half)
        assert change.difference == pytest.approx(sign * (np.mean(NOISE) - 0.02))


def test_noise_is_no_regression_and_a_rise_is_an_improvement():
    noise = NOISE - NOISE.mean()
    assert compare(record(), record(BEFORE + noise)).passes()
    better = compare(record(), record(BEFORE + 0.05))
    assert better.passes() and of(better, "induction_max").state == "improved"
    assert of(better, "induction_control").state == "improved"  # for which lower is better


def test_what_is_gone_fails():
    after = record()
    after.checks.pop()
    found = compare(record(), after)
    assert not found.passes() and found.checks[1].state == "vanished"
    after = record()
    del after.measurements["mine/repeats"].metrics["induction_max"]
    after.measurements["mine/repeats"].unmeasured["induction_max"] = "no head at all"
    change = of(compare(record(), after), "induction_max")
    assert (change.state, change.reason) == ("vanished", "no head at all")
    assert not change.paired
    skipped = compare(record(), record(verdict="skipped"))
    assert not skipped.passes() and skipped.count("vanished") == 2


def test_checks_left_out_on_purpose_are_not_missed():
    after = record(verdict="skipped")
    for check in after.checks:
        check.reason = "deselected"
    del after.measurements["mine/repeats"]
    assert not compare(record(), after).passes()
    chosen = compare(record(), after, parts=[Part("mine", "complete", "mine")])
    assert chosen.passes() and chosen.checks == [] and chosen.metrics == []


def test_other_settings_ask_for_a_new_baseline():
    found = compare(record(), record(period=20))
    change = of(found, "induction_max")
    assert change.state == "vanished" and change.reason is not None
    assert "period None, now 20" in change.reason and "new baseline" in change.reason
    assert not found.passes()


@pytest.mark.parametrize(
    ("before", "after", "state", "passes"),
    [
        ("pass", "fail", "regressed", False),
        ("pass", "error", "regressed", False),
        ("fail", "error", "regressed", False),
        ("fail", "fail", "same", True),
        ("fail", "pass", "improved", True),
        ("skipped", "skipped", "same", True),
        ("pass", "inconclusive", "unclear", False),
        ("skipped", "error", "regressed", False),
        ("pass", "skipped", "vanished", False),
        ("fail", "skipped", "vanished", False),
        ("inconclusive", "skipped", "vanished", False),
        ("error", "skipped", "changed", True),
        ("inconclusive", "fail", "changed", True),
        ("fail", "inconclusive", "changed", True),
        ("skipped", "fail", "changed", True),
        ("error", "fail", "changed", True),
    ],
)
def test_verdicts(before, after, state, passes):
    found = compare(record(verdict=before), record(verdict=after))
    assert {one.state for one in found.checks} == {state}
    assert found.passes() is passes
    assert found.passes(inconclusive_fails=False) is (passes or state == "unclear")


def test_every_verdict_that_is_another_now_is_listed():
    for before, after, words in (
        ("inconclusive", "fail", "UNCLEAR -> FAIL"),
        ("fail", "skipped", "FAIL -> SKIP"),
        ("fail", "error", "FAIL -> ERROR"),
    ):
        found = compare(record(verdict=before), record(verdict=after))
        for text in (comparison_text(found), comparison_markdown(found)):
            assert f"mine::high: {words} (a reason)" in html.unescape(text.replace("\\", ""))
    changed = compare(record(verdict="inconclusive"), record(verdict="fail"))
    assert "no regression: 2 changed, 2 the same" in comparison_text(changed)


def test_new_checks_are_listed_and_do_not_fail():
    before = record()
    before.checks.pop()
    found = compare(before, record(verdict="fail"))
    assert [one.state for one in found.checks] == ["regressed", "new"]
    assert "new check mine::low: FAIL" in comparison_text(found)


def test_an_interval_wider_than_sampling_counts():
    """Steps of a phase change are known no better than from one checkpoint to the next."""
    before, after = record(), record()
    for one, value in ((before, -0.01), (after, -0.08)):
        one.measurements["mine/repeats"].metrics["induction_max"] = Metric(
            value=value, stderr=0.0012, ci_low=value - 0.18, ci_high=value + 0.18, n=32
        )
    assert of(compare(before, after), "induction_max").state == "same"


def test_how_far_a_sequential_measurement_went_is_no_setting():
    asked = {"until": "decided", "max_sequences": 256}
    found = compare(record(**asked), record(**{**asked, "sequences": 64}))
    assert of(found, "induction_max").state == "same"
    assert not compare(record(), record(sequences=64)).passes()


def test_a_record_from_before_a_setting_was_measured_with_its_neutral_value():
    for name, neutral, other in (("looks", 1, 4), ("order", "given", "random")):
        before = record()
        before.measurements["mine/repeats"].settings.pop(name, None)
        assert of(compare(before, record(**{name: neutral})), "induction_max").state == "same"
        assert of(compare(record(**{name: neutral}), before), "induction_max").state == "same"
        assert not compare(before, record(**{name: other})).passes()


@pytest.mark.parametrize("samples", ["documents", "items"])
def test_so_it_is_with_documents_and_items(samples):
    asked = {"until": "decided", f"max_{samples}": 64, samples: 8}
    found = compare(record(**asked), record(**{**asked, samples: 32}))
    assert of(found, "induction_max").state == "same"
    assert not compare(record(**asked), record(**{**asked, f"max_{samples}": 65})).passes()


def test_one_sample_cannot_tell():
    before, after = record(), record()
    for one in (before, after):
        one.measurements["mine/repeats"].metrics["induction_max"] = Metric(value=0.5, n=1)
    found = compare(before, after)
    assert of(found, "induction_max").state == "unclear"
    assert not found.passes() and found.passes(inconclusive_fails=False)


def test_a_suite_that_has_changed_since_the_baseline_is_named():
    told = "suite 'mine' has changed since the baseline"
    old, new = record(), record()
    assert told not in compare(old, new).remarks
    new.suites = [SuiteRef(name="mine", sha256="1" * 64), SuiteRef(name="new", sha256="2" * 64)]
    old.suites.append(SuiteRef(name="old", sha256="3" * 64))
    found = compare(old, new)
    assert [line for line in found.remarks if "suite" in line] == [told]
    assert told in comparison_text(found, width=100)
    assert told in html.unescape(comparison_markdown(found))


def test_records_of_other_suites_are_not_compared():
    other = record()
    other.suites[0].name = "other"
    with pytest.raises(SettingsError, match="the baseline holds mine, this run other"):
        compare(record(), other)


def test_markup_in_names_stays_text():
    bad = record(heads=[(1, 0, 0.8)])
    bad.model.spec = "<img src=x>|`a`"
    bad.checks[0].id = "<b>"
    text = comparison_markdown(compare(bad, record(verdict="fail")))
    assert "<img" not in text and "<b>" not in text


def test_the_command_says_what_got_worse_and_writes_it(tmp_path, capsys):
    before, after = tmp_path / "a.json", tmp_path / "now" / "results.json"
    record().write(before)
    record(BEFORE - 0.03).write(after)
    written = [f"--md={tmp_path / 'c.md'}", f"--json={tmp_path / 'c.json'}"]
    assert main(["compare", str(before), str(after.parent), *written]) == 1
    assert "REGRESSION: 2 worse" in capsys.readouterr().out
    assert "REGRESSION" in (tmp_path / "c.md").read_text()
    told = json.loads((tmp_path / "c.json").read_text())
    assert told["passed"] is False and told["metrics"][0]["state"] == "regressed"
    record(verdict="inconclusive").write(after)
    assert main(["compare", str(before), str(after), *written]) == 1
    assert json.loads((tmp_path / "c.json").read_text())["passed"] is False
    assert main(["compare", str(before), str(after), *written, "--inconclusive=warn"]) == 0
    assert json.loads((tmp_path / "c.json").read_text())["passed"] is True
    record(BEFORE - 0.03).write(after)
    capsys.readouterr()
    allowed = ["--limit", "induction_*=0.05"]
    assert main(["compare", str(before), str(after), *allowed]) == 0
    assert "no regression" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("more", "told"),
    [
        (["missing.json", "{a}"], "missing.json: cannot be read"),
        (["{a}", "{a}", "--limit", "x"], "expected METRIC=AMOUNT"),
        (["{a}", "{a}", "--md", "{a}/x"], "--md={a}/x: {a} is a file, not a folder"),
        (["{a}", "{a}", "--json", "."], "--json=.: is a folder; expected the name of a file"),
        (["{a}", "{a}", "--md", "x" * 300], "cannot be written (File name too long)"),
    ],
)
def test_mistakes_on_the_command_line_end_in_exit_code_4(tmp_path, capsys, more, told):
    path = tmp_path / "a.json"
    record().write(path)
    assert main(["compare", *(text.replace("{a}", str(path)) for text in more)]) == 4
    printed = capsys.readouterr()
    assert told.replace("{a}", str(path)) in printed.err and printed.err.count("\n") == 1
    assert not printed.out


@pytest.mark.parametrize(("worse", "word"), [(0.02, "REGRESSION"), (0, "no regression")])
def test_a_file_that_cannot_be_written_costs_only_this_file(
    tmp_path, capsys, monkeypatch, worse, word
):
    before, after = tmp_path / "a.json", tmp_path / "b.json"
    record().write(before)
    record(BEFORE - worse).write(after)
    monkeypatch.setenv("GITHUB_ACTIONS", "true")
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(tmp_path))
    replace = os.replace

    def fill_up(source, target):
        if str(target).endswith("full.md"):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), source, None, target)
        replace(source, target)

    monkeypatch.setattr(os, "replace", fill_up)
    files = [f"--md={tmp_path / 'full.md'}", f"--json={tmp_path / 'c.json'}"]
    assert main(["compare", str(before), str(after), *files]) == 1
    printed = capsys.readouterr()
    assert word in printed.out and (tmp_path / "c.json").exists()
    assert printed.out.count("\n::error title=") == (2 if worse else 0)
    assert printed.err.splitlines() == [
        f"icl-bench: {tmp_path / 'full.md'}: cannot be written (No space left on device)",
        f"icl-bench: {tmp_path}: cannot be written (Is a directory)",
    ]


GOOD, BAD = "--icl-model=stub:good", "--icl-model=stub:bad"


def test_a_run_saves_a_baseline_and_a_worse_one_fails(stage: Stage) -> None:
    assert stage.run(GOOD, "mine.yaml", "--icl-save-baseline=base.json").ret == 0
    again = stage.run(GOOD, "mine.yaml", "--icl-baseline=base.json")
    assert again.ret == 0
    again.stdout.fnmatch_lines(["*icl_bench: baseline*", "no regression*"])
    worse = stage.run(BAD, "mine.yaml", "--icl-baseline=base.json", "-k", "there or low")
    assert worse.ret == 1  # though every check that ran has passed
    worse.stdout.fnmatch_lines(["stub:bad against the baseline stub:good", "REGRESSION: *"])
    assert "REGRESSION" in (stage.path / "reports" / "stub-bad" / "comparison.md").read_text()


def test_a_worse_run_does_not_replace_its_baseline(stage: Stage) -> None:
    stage.run(GOOD, "mine.yaml", "--icl-save-baseline=base.json")
    before = (stage.path / "base.json").read_text()
    both = ["--icl-baseline=base.json", "--icl-save-baseline=base.json"]
    worse = stage.run(BAD, "mine.yaml", *both)
    assert worse.ret == 1 and (stage.path / "base.json").read_text() == before
    worse.stdout.fnmatch_lines(["not saved as a baseline, because it is worse: *"])


def test_collecting_compares_nothing(stage: Stage) -> None:
    record().write(stage.path / "base.json")
    result = stage.run(GOOD, "mine.yaml", "--icl-baseline=base.json", "--collect-only")
    assert result.ret == 0


def test_a_partial_run_is_no_baseline(stage: Stage) -> None:
    result = stage.run(GOOD, "mine.yaml", "-k", "low", "--icl-save-baseline=base.json")
    assert result.ret == 1 and not (stage.path / "base.json").exists()
    result.stdout.fnmatch_lines(["*was not written: the run is partial*"])


def test_under_xdist_the_controller_compares(stage: Stage) -> None:
    stage.run(GOOD, "mine.yaml", "--icl-save-baseline=base.json")
    result = stage.run(BAD, "mine.yaml", "--icl-baseline=base.json", "-n", "2", "-p", "stub")
    assert result.ret == 1
    result.stdout.fnmatch_lines(["REGRESSION: *"])


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ([GOOD, "--icl-baseline=none.json"], "none.json: cannot be read"),
        ([GOOD, BAD, "--icl-baseline=base.json"], "exactly one --icl-model; this run has 2"),
        (["--icl-save-baseline=b.json"], "exactly one --icl-model; this run has 0"),
        ([GOOD, "--icl-limit=level=1"], "--icl-limit needs --icl-baseline"),
        ([GOOD, "--icl-baseline=base.json", "--icl-limit=level"], "expected METRIC=AMOUNT"),
        (
            [GOOD, "--icl-baseline=base.json", "--icl-limit=inductoin_max=1"],
            "limit 'inductoin_max' names no metric of the baseline; did you mean 'induction_max'?",
        ),
        ([GOOD, "--icl-save-baseline=."], "is a folder; expected the name of a file"),
    ],
)
def test_mistakes_are_found_before_anything_is_measured(
    stage: Stage, arguments: list[str], told: str
) -> None:
    record().write(stage.path / "base.json")
    result = stage.run("mine.yaml", *arguments)
    assert result.ret == 4 and stage.log() == []
    assert told in str(result.stderr)


@pytest.mark.parametrize("width", [60, 72, 80, 120])
def test_a_narrow_terminal_costs_no_number(width):
    found = compare(record(), record(BEFORE - 0.2))
    text = comparison_text(found, width=width)
    assert max(map(len, text.splitlines())) <= width
    assert "…" not in text
    change = of(found, "induction_max")
    for number in (change.baseline, change.value):
        assert numbers.number(number) in text
    for number in (change.ci_low, change.ci_high):
        assert numbers.number(number, 2) in text


def test_of_a_suite_without_checks_every_metric_that_has_a_better_way_is_compared():
    before, after = record(), record(BEFORE - 0.3 + NOISE)
    for one in (before, after):
        one.checks.clear()
    same, worse = compare(before, before), compare(before, after)
    assert same.passes() and not worse.passes()
    # Of attention to the first token neither more nor less is better.
    assert {change.metric for change in same.metrics} == {"induction_max", "induction_control"}
    assert {of(worse, change.metric).state for change in same.metrics} == {"regressed"}
