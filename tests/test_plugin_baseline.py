"""Items of the comparison with a baseline: what they are called, when they fail, what they say."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import MINE, Stage

import icl_bench
from icl_bench.cli import main
from icl_bench.records.record import RunRecord

GOOD, BAD = "--icl-model=stub:good", "--icl-model=stub:bad"
BASE = "--icl-baseline=base.json"
PARTS = ("high", "there", "low")
"""The checks of `mine.yaml`; the level of a bad model is lower in all of them."""


@pytest.fixture
def based(stage: Stage) -> Stage:
    """A stage with a baseline of a good model."""
    assert stage.run(GOOD, "mine.yaml", "--icl-save-baseline=base.json").ret == 0
    return stage


def change(stage: Stage, edit: Callable[[RunRecord], None]) -> None:
    """Change the baseline."""
    record = icl_bench.read_record(stage.path / "base.json")
    edit(record)
    record.write(stage.path / "base.json")


def counts(result: pytest.RunResult) -> dict[str, int]:
    found = result.parseoutcomes()
    return {
        name: found[name] for name in ("passed", "failed", "skipped", "errors") if name in found
    }


def test_each_check_has_a_second_item_and_each_suite_one_more(based: Stage) -> None:
    listed = based.run(BAD, "mine.yaml", BASE, "--collect-only", "-q")
    both = [f"mine.yaml::{name}{mark}[stub-bad]" for name in PARTS for mark in ("", "@baseline")]
    assert [line for line in listed.outlines if "::" in line] == [
        *both,
        "mine.yaml::mine.complete@baseline[stub-bad]",
    ]
    assert based.log("measured") == ["good", "good second"]


def test_a_measurement_of_heads_has_one(real_stage: Stage) -> None:
    model = "--icl-model=builtin:handwired"
    real_stage.run(model, "tiny.yaml", "--icl-save-baseline=base.json")
    result = real_stage.run(model, "tiny.yaml", BASE, "-v")
    assert counts(result) == {"passed": 6}
    result.stdout.fnmatch_lines(
        ["tiny.yaml::repeats.heads@baseline[[]builtin-handwired[]] PASSED*"]
    )

    def add_head(record: RunRecord) -> None:
        rows = record.measurements["tiny/repeats"].heads
        row = next(row for row in rows if row["induction"] < 0.4)
        row |= {"induction": 0.9, "induction_stderr": 0.001}

    change(real_stage, add_head)
    result = real_stage.run(model, "tiny.yaml", BASE)
    assert counts(result) == {"passed": 5, "failed": 1}
    [line] = [line for line in result.outlines if "0.900 in the baseline" in line]
    assert line.startswith("tiny/repeats: induction head ") and line.endswith(", threshold 0.4")
    result.stdout.fnmatch_lines(
        ["REGRESSION: 1 head died, *", "FAILED tiny.yaml::repeats.heads@baseline*"]
    )
    # The heads of a model of another shape are no heads of this one.
    other = real_stage.run("--icl-model=builtin:induction-2l", "tiny.yaml", BASE, "-rs")
    other.stdout.fnmatch_lines(["SKIPPED *: 2 layers x * heads before, 2 layers x * heads now"])


def test_a_regression_makes_the_last_line_red_and_is_one_line(based: Stage) -> None:
    result = based.run(BAD, "mine.yaml", BASE)
    assert result.ret == 1 and counts(result) == {"failed": 4, "passed": 3}
    told = "mine/first.level: 1 in the baseline, 0 now, change -1 *, allowed 0.02 (default)*"
    result.stdout.fnmatch_lines(
        ["*high@baseline*", told, "*low@baseline*", "*FAILED*low@baseline*"]
    )
    assert str(result.stdout).count("mine/first.level: 1 in the baseline, 0 now") == 1
    assert result.outlines[-1].startswith("=") and "4 failed, 3 passed" in result.outlines[-1]


def test_the_same_is_green_and_better_too(based: Stage) -> None:
    assert counts(based.run("--icl-model=stub:fine", "mine.yaml", BASE)) == {"passed": 7}
    change(based, lambda record: None)
    assert based.run(BAD, "mine.yaml", "--icl-save-baseline=worse.json").ret == 1
    better = based.run(GOOD, "mine.yaml", "--icl-baseline=worse.json")
    # Of `exact` neither more nor less is better, and of `low` less is.
    assert counts(better)["passed"] >= 5 and "high@baseline" not in str(better.stdout)


@pytest.mark.parametrize(
    ("chosen", "expected"),
    [
        (["-k", "low"], {"passed": 1, "failed": 1}),
        (["-k", "there and baseline"], {"failed": 1}),
        (["-k", "not baseline"], {"passed": 2, "failed": 1}),
        (["-m", "icl"], {"passed": 3, "failed": 4}),
        (["--deselect=mine.yaml::high[stub-bad]"], {"passed": 3, "failed": 2}),
        (["-x"], {"failed": 1}),
        (["--maxfail=2"], {"failed": 2}),
    ],
)
def test_they_are_chosen_with_their_checks(
    based: Stage, chosen: list[str], expected: dict[str, int]
) -> None:
    result = based.run(BAD, "mine.yaml", BASE, *chosen)
    assert counts(result) == expected and result.ret == 1
    # What was not chosen is not called gone.
    assert "gone" not in str(result.stdout)
    text = based.path / "reports" / "stub-bad" / "comparison.md"
    if text.exists():
        assert ("compared is a part" in text.read_text()) is (chosen != ["-m", "icl"])


@pytest.mark.parametrize("name", ["low", "low[stub-bad]"])
def test_the_id_of_a_check_stands_for_both(based: Stage, name: str) -> None:
    assert counts(based.run(BAD, f"mine.yaml::{name}", BASE)) == {"passed": 1, "failed": 1}
    assert counts(based.run(BAD, "mine.yaml::low@baseline[stub-bad]", BASE)) == {"failed": 1}
    both = [f"mine.yaml::{name}", "mine.yaml::low@baseline[stub-bad]"]
    assert sum(counts(based.run(BAD, *both, BASE)).values()) == 2


def test_those_that_failed_are_run_again(based: Stage) -> None:
    based.run(BAD, "mine.yaml", BASE)
    again = based.run(BAD, "mine.yaml", BASE, "--lf")
    assert counts(again) == {"failed": 4}
    # By itself an item measures what it needs, and judges its check.
    assert based.run(BAD, "mine.yaml", BASE, "-k", "low and baseline").ret == 1
    assert based.verdicts("stub-bad", "results.partial.json") == {
        "high": "skipped",
        "there": "skipped",
        "low": "pass",
    }


def test_a_run_without_the_items_compares_nothing_and_says_so(based: Stage) -> None:
    result = based.run(GOOD, "mine.yaml", BASE, "-k", "not baseline")
    assert result.ret == 0
    result.stdout.fnmatch_lines(["nothing was compared: no test of a comparison was run"])


LOW = "  - {id: low, on: second, metric: level, below: 2}\n"


def test_what_is_gone_from_the_suite_is_told_by_one_item(based: Stage) -> None:
    based.write("mine.yaml", MINE.replace(LOW, ""))
    result = based.run(GOOD, "mine.yaml", BASE)
    assert result.ret == 1 and counts(result) == {"passed": 4, "failed": 1}
    result.stdout.fnmatch_lines(["*mine.complete@baseline*", "check mine::low is gone"])
    assert based.run(GOOD, "mine.yaml", BASE, "-k", "high").ret == 0
    based.write(
        "mine.yaml", MINE.replace(LOW, "").replace("  second: {probe: stub, tag: second}\n", "")
    )
    result = based.run(GOOD, "mine.yaml", BASE)
    result.stdout.fnmatch_lines(
        ["mine/second.level: 1 in the baseline, gone now (not measured); *"]
    )


def test_what_is_new_is_skipped(based: Stage) -> None:
    based.write("mine.yaml", MINE + "  - {id: more, on: first, metric: level, above: 0.2}\n")
    change(based, lambda record: [check.__setattr__("id", "old") for check in record.checks[2:]])
    result = based.run(GOOD, "mine.yaml", BASE, "-rs", "-k", "more or there")
    # Its metric is one that another check of the baseline reads.
    assert result.ret == 0 and counts(result) == {"passed": 4}
    based.write("mine.yaml", MINE + "  - {id: more, on: first, metric: unsure, above: -20}\n")
    result = based.run(GOOD, "mine.yaml", BASE, "-rs", "-k", "more or there")
    assert result.ret == 0 and counts(result) == {"passed": 3, "skipped": 1}
    result.stdout.fnmatch_lines(["SKIPPED *mine.yaml*: not in the baseline"])


def test_where_nothing_can_be_compared_the_run_fails(based: Stage) -> None:
    def rename(record: RunRecord) -> None:
        record.checks = [
            check.model_copy(update={"id": f"old-{check.id}", "metric": "unsure"})
            for check in record.checks
        ]

    change(based, rename)
    result = based.run(GOOD, "mine.yaml", BASE, "-k", "not complete", "-rs")
    assert result.ret == 1 and counts(result) == {"passed": 3, "skipped": 3}
    result.stdout.fnmatch_lines(["NOTHING COMPARED: no check was decided both *"])


def test_what_cannot_be_told_is_skipped_where_that_is_allowed(based: Stage) -> None:
    doubt = MINE.replace("level, above: 0.5", "unsure, above: 0.5")
    based.write("mine.yaml", doubt)
    based.run(GOOD, "mine.yaml", "--icl-inconclusive=warn", "--icl-save-baseline=base.json")
    result = based.run(GOOD, "mine.yaml", BASE, "-rs", "-k", "high", "--icl-inconclusive=warn")
    assert counts(result) == {
        "passed": 2
    }  # the metric is compared, though the verdict says nothing

    def pass_it(record: RunRecord) -> None:
        record.checks[0].verdict = "pass"
        del record.measurements["mine/first"].metrics["unsure"].stderr
        record.measurements["mine/first"].metrics["unsure"].stderr = None
        record.measurements["mine/first"].metrics["unsure"].ci_low = None

    change(based, pass_it)
    allowed = based.run(GOOD, "mine.yaml", BASE, "-rs", "-k", "high", "--icl-inconclusive=warn")
    assert counts(allowed) == {"passed": 1, "skipped": 1}
    allowed.stdout.fnmatch_lines(["SKIPPED *: cannot be compared: mine/first.unsure: *"])
    strict = based.run(GOOD, "mine.yaml", BASE, "-k", "high and baseline")
    assert strict.ret == 1 and counts(strict) == {"failed": 1}


def test_a_suite_that_the_baseline_does_not_hold_is_skipped(based: Stage) -> None:
    based.write("more.yaml", MINE.replace("name: mine", "name: more"))
    result = based.run(GOOD, "mine.yaml", "more.yaml", BASE, "-rs")
    assert result.ret == 0 and counts(result) == {"passed": 10, "skipped": 4}
    result.stdout.fnmatch_lines(["SKIPPED * the baseline does not hold suite more"])


def test_a_suite_of_the_baseline_that_is_not_run_is_gone(based: Stage) -> None:
    based.write("more.yaml", MINE.replace("name: mine", "name: more"))
    based.run(GOOD, "mine.yaml", "more.yaml", "--icl-save-baseline=base.json")
    result = based.run(GOOD, "mine.yaml", BASE)
    assert counts(result) == {"passed": 6, "failed": 1}
    result.stdout.fnmatch_lines(["*check more::high is gone*"])


def test_junit_has_the_numbers(based: Stage) -> None:
    based.run(BAD, "mine.yaml", BASE, "--junitxml=out.xml")
    cases = {
        str(case.get("name")): case for case in ET.parse(based.path / "out.xml").iter("testcase")
    }
    case = cases["high@baseline[stub-bad]"]
    told = {p.get("name"): p.get("value") for p in case.iterfind("properties/property")}
    assert told["icl.verdict"] == "fail" and told["icl.metric"] == "level"
    assert (told["icl.baseline"], told["icl.value"], told["icl.allowed"]) == ("1.0", "0.0", "0.02")
    failure = case.find("failure")
    assert failure is not None and "\n" not in str(failure.get("message"))
    assert len(cases) == 7


def test_a_broken_model_is_told_of_each(based: Stage) -> None:
    result = based.run("--icl-model=stub:broken", "mine.yaml", BASE, "-k", "high or there")
    assert result.ret == 1 and counts(result) == {"errors": 2, "failed": 2}
    result.stdout.fnmatch_lines(["*PASS -> ERROR*"])


@pytest.mark.parametrize("workers", [[], ["-n", "2"]])
def test_all_sides_say_the_same(
    based: Stage, workers: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    if workers:
        pytest.importorskip("xdist")
    for model, worse in (("stub:fine", False), ("stub:bad", True)):
        items = based.run(f"--icl-model={model}", "mine.yaml", BASE, *workers, "-v")
        text = based.path / "reports" / model.replace(":", "-") / "comparison.md"
        of_items = text.read_text()
        assert (items.ret == 1) is worse
        assert (
            "@baseline" in "".join(x for x in items.outlines if x.startswith("FAILED"))
        ) is worse
        arguments = ["run", model, "--suite=mine.yaml", "--baseline=base.json", "--no-cache"]
        assert main(arguments) == int(worse)
        assert text.read_text() == of_items
        record = icl_bench.run(["mine.yaml"], model, baseline="base.json", cache=False)
        assert record.comparison.passes() is not worse
        verdict = "REGRESSION" if worse else "no regression"
        assert verdict in of_items and verdict in capsys.readouterr().out
        items.stdout.fnmatch_lines([f"{verdict}: *"])


def test_under_xdist_one_worker_judges_them_and_the_controller_tells(based: Stage) -> None:
    pytest.importorskip("xdist")
    result = based.run(BAD, "mine.yaml", BASE, "-n", "2", "--junitxml=out.xml")
    assert result.ret == 1 and counts(result) == {"failed": 4, "passed": 3}
    assert len(based.processes("bad")) == 1
    assert str(result.stdout).count("REGRESSION: ") == 1
    assert len(list(ET.parse(based.path / "out.xml").iter("testcase"))) == 7


def test_a_worker_that_dies_leaves_the_rest_compared(based: Stage) -> None:
    pytest.importorskip("xdist")
    based.write("mine.yaml", MINE.replace("tag: second}", "tag: second, act: crash}"))
    result = based.run(GOOD, "mine.yaml", BASE, "-n", "1")
    # The check that died is an error; what it read is gone, which its comparison says.
    assert result.ret == 1 and counts(result) == {"passed": 5, "errors": 1, "failed": 1}
    result.stdout.fnmatch_lines(["*low@baseline*", "*PASS -> ERROR*", "REGRESSION: *"])


def test_a_series_is_compared_too(real_stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    from small_series import write_series

    monkeypatch.chdir(real_stage.path)
    write_series(2)
    real_stage.write(
        "small.yaml",
        "icl_suite: 1\nname: small\ndefaults: {sequences: 4, period: 6}\n"
        "measure: {repeats: {probe: induction, control: false}}\n"
        "checks: [{id: low, on: repeats, metric: induction_max, below: 0.9}]\n",
    )
    model = "--icl-model=runs@*"
    assert real_stage.run(model, "small.yaml", "--icl-save-baseline=base.json").ret == 0
    result = real_stage.run(model, "small.yaml", BASE, "-v")
    assert result.ret == 0 and counts(result) == {"passed": 4}
    result.stdout.fnmatch_lines(["small.yaml::low@baseline[[]runs--[]] PASSED*"])


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ([GOOD, BAD, BASE], "--icl-baseline is for exactly one --icl-model; this run has 2"),
        (
            [GOOD, "--icl-baseline=builtin:nothing"],
            "--icl-baseline=builtin:nothing: neither a .json file nor a folder *no model that*",
        ),
        (
            [GOOD, "--icl-baseline=reports"],
            "*neither a .json file nor a folder with a results.json*",
        ),
        (
            [GOOD, "--icl-save-baseline=base"],
            "--icl-save-baseline=base: the name has to end in .json*",
        ),
        ([GOOD, "--icl-require-paired"], "--icl-require-paired needs --icl-baseline=FILE"),
        ([GOOD, "mine.yaml::low@baseline"], "mine.yaml::low@baseline: needs --icl-baseline=FILE"),
        (
            [GOOD, BASE, "mine.yaml::lwo@baseline"],
            "*no check 'lwo@baseline'; did you mean 'low@base*",
        ),
    ],
)
def test_mistakes_end_in_exit_code_4(based: Stage, arguments: list[str], told: str) -> None:
    before = based.log("measured")
    result = based.run("mine.yaml", *arguments)
    assert result.ret == 4 and based.log("measured") == before
    result.stderr.fnmatch_lines([f"ERROR: {told}"])


def test_a_check_may_not_be_called_like_another_comparison(based: Stage) -> None:
    based.write("mine.yaml", MINE.replace("id: low", "id: mine.complete"))
    assert based.run(GOOD, "mine.yaml").ret == 0
    result = based.run(GOOD, "mine.yaml", BASE)
    assert result.ret == 4
    result.stderr.fnmatch_lines(["ERROR: suite 'mine': check 'mine.complete' has the name that *"])


def test_a_report_folder_is_a_baseline(based: Stage) -> None:
    folder = Path("reports", "stub-good")
    assert counts(based.run(GOOD, "mine.yaml", f"--icl-baseline={folder}")) == {"passed": 7}


def test_pairs_that_are_required_and_missing_fail(based: Stage) -> None:
    result = based.run(GOOD, "mine.yaml", BASE, "--icl-require-paired", "-k", "high")
    assert result.ret == 1 and counts(result) == {"passed": 1, "failed": 1}
    result.stdout.fnmatch_lines(["*not paired, as is required: no samples in either record*"])


@pytest.mark.parametrize("workers", [[], ["-n", "2"]])
def test_a_baseline_that_is_a_model_is_measured_once_and_first(
    stage: Stage, workers: list[str]
) -> None:
    result = stage.run(BAD, "mine.yaml", "--icl-baseline=stub:good", "--icl-no-cache", *workers)
    assert result.ret == 1 and counts(result) == {"failed": 4, "passed": 3}
    result.stdout.fnmatch_lines(["*mine/first.level: 1 in the baseline, 0 now*"])
    assert stage.log("measured") == ["good", "good second", "bad", "bad second"]
    same = stage.run(GOOD, "mine.yaml", "--icl-baseline=stub:good", *workers)
    assert same.ret == 0 and counts(same) == {"passed": 7}


def test_a_baseline_that_is_a_model_is_not_measured_to_list_tests(stage: Stage) -> None:
    listed = stage.run(BAD, "mine.yaml", "--icl-baseline=stub:good", "--collect-only", "-q")
    assert listed.ret == 0 and any("@baseline" in line for line in listed.outlines)
    assert stage.log("measured") == []


def test_a_baseline_that_is_a_model_serves_the_command_and_python(
    stage: Stage, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import icl_bench

    monkeypatch.chdir(stage.path)
    stage.write("mine.yaml", MINE_SMALL)
    limit = "--limit=gian=1"
    arguments = ["run", "builtin:control-1l", "--suite=mine.yaml", "--baseline=builtin:handwired"]
    assert main([*arguments, limit]) == 4
    assert "limit 'gian' names no metric that is measured" in capsys.readouterr().err
    assert main(arguments) == 1
    assert "REGRESSION" in capsys.readouterr().out
    record = icl_bench.run(["mine.yaml"], "builtin:handwired", baseline="builtin:handwired")
    assert record.comparison.passes()


MINE_SMALL = """\
icl_suite: 1
name: mine
defaults: {sequences: 4, period: 6}
measure: {repeats: {probe: induction, control: false}}
checks: [{id: low, on: repeats, metric: induction_max, above: 0.1}]
"""
