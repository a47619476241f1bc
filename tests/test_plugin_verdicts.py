"""What pytest says of a check: passed, failed with what was measured, error, skipped."""

from __future__ import annotations

import shlex

import pytest
from conftest import MINE, Stage

from icl_bench.suite import catalog

GOOD = "--icl-model=stub:good"
BAD = "--icl-model=stub:bad"

DOUBT = """\
icl_suite: 1
name: doubt
measure: {first: {probe: stub}}
checks: [{id: sure, on: first, metric: unsure, above: 0.5}]
"""

QUIZ = """\
icl_suite: 1
name: quiz
measure: {first: {probe: stub}}
quiz:
  - id: what-it-means
    question: What is the level?
    options: {a: It is high., b: It is low.}
    on: first
    metric: level
    supports: [{option: a, above: 0.5}, {option: b, below: 0.5}]
    expected: a
"""


def acting(act: str, only: str = "good") -> str:
    """Return `mine.yaml` with a first measurement that does something else on one model."""
    return MINE.replace("first: {probe: stub}", f"first: {{probe: stub, act: {act}, only: {only}}}")


def text_of(result: pytest.RunResult) -> str:
    """Return all that a run printed, once it is sure that our own code is not in it."""
    text = result.stdout.str() + result.stderr.str()
    for trace in (
        "Traceback",
        "INTERNALERROR",
        "icl_bench/plugin/items.py",
        "icl_bench/running/model_run.py",
    ):
        assert trace not in text, text
    return text


def test_a_failure_says_what_was_asked_and_measured_and_how_to_repeat_it(stage: Stage) -> None:
    result = stage.run(BAD, "mine.yaml")
    assert result.ret == 1
    text_of(result)
    result.stdout.fnmatch_lines(
        [
            "____* high?stub-bad? ____*",
            "fail: required > 0.5, measured 0 ± 0.01: the 95% interval ?-0.02, 0.02? lies wholly *",
            "  asks:      Is it high?",
            "  measured:  level of mine/first",
            "  run alone: pytest --icl-model=stub:bad mine.yaml::high",
            "FAILED mine.yaml::high?stub-bad?*",
        ]
    )


@pytest.mark.parametrize("options", [(), ("-n", "2"), ("--tb=no",), ("-q",)])
def test_each_reason_is_told_once(stage: Stage, options: tuple[str, ...]) -> None:
    result = stage.run(BAD, "--icl-model=stub:broken", "mine.yaml", *options)
    text = " ".join(text_of(result).split())
    assert text.count("required > 0.5, measured 0 ± 0.01") == 1
    assert text.count("calling 'broken' failed: no such luck") == 1
    # Every check that has no result because of it is named there.
    (line,) = [one for one in result.outlines if "there, low" in one]
    assert ("no result either" in line) == ("--tb=no" not in options)
    # What pytest counts, and what it says failed, is as ever.
    result.assert_outcomes(failed=1, passed=2, errors=3)
    result.stdout.fnmatch_lines(["FAILED mine.yaml::high?stub-bad?"])


def test_errors_of_other_tests_stay_as_they_are(stage: Stage) -> None:
    stage.write(
        "test_own.py",
        "import pytest\n@pytest.fixture\ndef broken(): raise OSError('mine')\n"
        "def test_a(broken): pass\ndef test_b(broken): pass\n",
    )
    result = stage.run("--icl-model=stub:broken", "mine.yaml", "test_own.py")
    result.assert_outcomes(errors=5)
    assert result.stdout.str().count("E   OSError: mine") == 2
    result.stdout.fnmatch_lines(["ERROR test_own.py::test_b - OSError: mine"])


def test_the_command_that_is_shown_runs_this_check_alone(stage: Stage) -> None:
    stage.write("a folder/mine.yaml", MINE)
    foreign = stage.write("foreign/.keep", "").parent
    result = stage.run(BAD, GOOD, "a folder/mine.yaml", f"--rootdir={foreign}", "--icl-seed=3")
    (command,) = {line.split("run alone: ")[1] for line in result.outlines if "run alone" in line}
    name, *arguments = shlex.split(command)
    assert name == "pytest" and "--icl-seed=3" in arguments
    stage.run(*arguments, f"--rootdir={foreign}").assert_outcomes(failed=1)


def test_the_command_for_a_shipped_suite_names_it(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = stage.write("shipped/mine.yaml", MINE).parent
    monkeypatch.setattr(catalog, "shipped_folder", lambda: folder)
    result = stage.run(BAD, "--icl-suite=mine")
    result.stdout.fnmatch_lines(
        [
            "  run alone: pytest --icl-model=stub:bad --icl-suite=mine -k high",
            "FAILED suites/mine.yaml::high?stub-bad?*",
        ]
    )
    stage.run(BAD, "--icl-suite=mine", "-k", "high").assert_outcomes(failed=1, deselected=2)


def test_a_failed_quiz_item_shows_question_and_options(stage: Stage) -> None:
    stage.write("quiz.yaml", QUIZ)
    result = stage.run(BAD, "quiz.yaml")
    assert result.ret == 1
    result.stdout.fnmatch_lines(
        [
            "fail: measured 0 ± 0.01, which supports b: It is low; expected a",
            "  question:  What is the level?",
            "  expected   (a) It is high.",
            "  option     (b) It is low.",
        ]
    )


def test_an_undecided_check_fails_by_default(stage: Stage) -> None:
    stage.write("doubt.yaml", DOUBT)
    result = stage.run(GOOD, "doubt.yaml")
    assert result.ret == 1
    text_of(result)
    result.stdout.fnmatch_lines(["inconclusive: *?-9, 9? straddles 0.5*", "  run alone: *"])
    assert stage.verdicts("stub-good") == {"sure": "inconclusive"}


def test_an_undecided_check_passes_with_a_warning_when_asked_to(stage: Stage) -> None:
    stage.write("doubt.yaml", DOUBT)
    result = stage.run(GOOD, "doubt.yaml", "--icl-inconclusive=warn")
    assert result.ret == 0
    result.assert_outcomes(passed=1, warnings=1)
    text_of(result)
    result.stdout.fnmatch_lines(["*doubt.yaml:1: InconclusiveWarning: sure?stub-good?: *"])
    assert stage.verdicts("stub-good") == {"sure": "inconclusive"}


def test_warnings_turned_into_errors_fail_it_without_a_traceback(stage: Stage) -> None:
    stage.write("doubt.yaml", DOUBT)
    result = stage.run(GOOD, "doubt.yaml", "--icl-inconclusive=warn", "-W", "error")
    result.assert_outcomes(failed=1)
    text_of(result)


def test_a_model_that_cannot_be_opened_makes_its_own_checks_errors(stage: Stage) -> None:
    result = stage.run("--icl-model=stub:broken", GOOD, "mine.yaml")
    assert result.ret == 1
    result.assert_outcomes(errors=3, passed=3)
    text_of(result)
    result.stdout.fnmatch_lines(
        [
            "____* ERROR at setup of high?stub-broken? ____*",
            "model 'stub:broken': calling 'broken' failed: no such luck",
            "ERROR mine.yaml::high?stub-broken?*",
        ]
    )
    assert set(stage.verdicts("stub-broken").values()) == {"error"}
    assert set(stage.verdicts("stub-good").values()) == {"pass"}


def test_a_measurement_that_breaks_is_an_error_of_its_own_checks(stage: Stage) -> None:
    stage.write("mine.yaml", acting("break"))
    result = stage.run(GOOD, BAD, "mine.yaml")
    assert result.ret == 1
    result.assert_outcomes(errors=2, passed=3, failed=1)
    text_of(result)
    result.stdout.fnmatch_lines(["probe 'stub' broke: ValueError: the stub broke (stub.py:*"])
    assert stage.verdicts("stub-good") == {"high": "error", "there": "error", "low": "pass"}


def test_what_a_model_does_not_have_is_skipped_with_the_reason(stage: Stage) -> None:
    result = stage.run(GOOD, "-rs", "mine.yaml", "--icl-suite=core", "-k", "has-induction or high")
    assert result.ret == 0 and result.parseoutcomes()["skipped"] == 1
    result.stdout.fnmatch_lines(["SKIPPED ?1? *core.yaml: a stub has no heads"])


def test_a_check_for_another_model_is_skipped_without_measuring(stage: Stage) -> None:
    only = "metric: level, above: 0.5, models: [stub-good],"
    stage.write("mine.yaml", MINE.replace("metric: level, above: 0.5,", only))
    result = stage.run(BAD, "mine.yaml", "-k", "high", "-rs")
    result.assert_outcomes(skipped=1, deselected=2)
    result.stdout.fnmatch_lines(["SKIPPED*applies only to stub-good"])
    assert stage.log("measured") == []


ELSE = MINE.replace("metric:", "models: [else*], metric:")
UNDECIDED = "no check was decided: 3 skipped (applies only to else[*])"


def test_a_run_in_which_no_check_was_decided_fails(stage: Stage) -> None:
    stage.write("mine.yaml", ELSE)
    result = stage.run(GOOD, "mine.yaml")
    result.assert_outcomes(skipped=3)
    assert result.ret == 1
    result.stdout.fnmatch_lines([UNDECIDED])
    assert set(stage.verdicts("stub-good").values()) == {"skipped"}
    # One check that is decided, on one of the models, is enough.
    stage.write("mine.yaml", ELSE.replace("else*", "stub-good", 1))
    assert stage.run(GOOD, BAD, "mine.yaml").ret == 0


def test_a_run_of_workers_in_which_no_check_was_decided_fails(stage: Stage) -> None:
    stage.write("mine.yaml", ELSE)
    result = stage.run(GOOD, "mine.yaml", "-n", "2")
    assert result.ret == 1
    result.stdout.fnmatch_lines([UNDECIDED])


def test_where_all_checks_are_left_out_on_purpose_none_has_to_be_decided(stage: Stage) -> None:
    stage.write("test_it.py", "def test_it(): pass")
    assert stage.run(GOOD, "test_it.py", "mine.yaml", "-k", "test_it").ret == 0
    assert stage.run(GOOD, "mine.yaml", "-k", "nothing").ret == 5


def test_checks_that_another_plugin_skips_are_not_decided(stage: Stage) -> None:
    stage.write(
        "conftest.py",
        "import pytest\n"
        "def pytest_collection_modifyitems(items):\n"
        "    for item in items: item.add_marker(pytest.mark.skip(reason='not today'))\n",
    )
    result = stage.run(GOOD, "mine.yaml")
    assert result.ret == 1
    result.stdout.fnmatch_lines(["no check was decided: 3 skipped (*not today)"])


def test_whose_record_lies_in_the_report_folder_switches_no_check_off(stage: Stage) -> None:
    stage.write("mine.yaml", MINE.replace("metric: level", "models: [it], metric: level"))
    assert stage.run("--icl-model=it=stub:fine", "mine.yaml").ret == 0
    result = stage.run("--icl-model=it=stub:good", "mine.yaml")
    result.assert_outcomes(passed=3)
    (other,) = (stage.path / "reports").glob("it-*")
    assert set(stage.verdicts(other.name).values()) == {"pass"}


def test_a_measurement_is_taken_once_for_all_its_checks(stage: Stage) -> None:
    stage.write("again.yaml", MINE.replace("name: mine", "name: again"))
    assert stage.run(GOOD, "mine.yaml", "again.yaml").ret == 0
    assert stage.log("measured") == ["good", "good second"]


def test_what_no_check_reads_is_in_the_record_of_a_whole_run(stage: Stage) -> None:
    stage.write("mine.yaml", MINE.replace("checks:", "  shown: {probe: stub, tag: shown}\nchecks:"))
    assert stage.run(GOOD, "mine.yaml", "-k", "high or there").ret == 0
    assert stage.log("measured") == ["good"]
    assert stage.run(GOOD, "mine.yaml").ret == 0
    assert stage.log("measured")[1:] == ["good", "good second", "good shown"]
    assert "mine/shown" in stage.record("stub-good").measurements


def test_what_no_check_reads_cannot_fail_the_run(stage: Stage) -> None:
    more = "  shown: {probe: stub, tag: shown, act: break}\nchecks:"
    stage.write("mine.yaml", MINE.replace("checks:", more))
    assert stage.run(GOOD, "mine.yaml").ret == 0
    broken = stage.record("stub-good").measurements["mine/shown"]
    assert broken.status == "error" and "the stub broke" in broken.reason


def test_a_plugin_that_reruns_failures_does_not_measure_again(stage: Stage) -> None:
    stage.write(
        "conftest.py",
        "from _pytest.runner import runtestprotocol\n"
        "def pytest_runtest_protocol(item, nextitem):\n"
        "    for _ in range(2):\n"
        "        reports = runtestprotocol(item, nextitem=nextitem, log=False)\n"
        "    for report in reports: item.ihook.pytest_runtest_logreport(report=report)\n"
        "    return True",
    )
    stage.run(BAD, "mine.yaml").assert_outcomes(failed=1, passed=2)
    assert stage.log("measured") == ["bad", "bad second"]
    assert stage.verdicts("stub-bad") == {"high": "fail", "there": "pass", "low": "pass"}
