"""What a run leaves behind: reports, and their state when it was cut short."""

from __future__ import annotations

import pytest
from conftest import MINE, Stage

GOOD = "--icl-model=stub:good"
BAD = "--icl-model=stub:bad"


def test_what_was_measured_is_held_once(stage: Stage) -> None:
    stage.write(
        "conftest.py",
        "import pytest\n"
        "from icl_bench.plugin.ids import PAYLOAD, SESSION\n"
        "@pytest.hookimpl(trylast=True)\n"
        "def pytest_sessionfinish(session):\n"
        "    icl = session.config.stash[SESSION]\n"
        "    terminal = session.config.pluginmanager.get_plugin('terminalreporter')\n"
        "    reports = [one for some in terminal.stats.values() for one in some]\n"
        "    assert not any(getattr(one, PAYLOAD, None) for one in reports)\n"
        "    own = icl.job.runs['stub-good'].results.measurements\n"
        "    for key, taken in icl.gathering.results['stub-good'].measurements.items():\n"
        "        assert taken is own[key]\n"
        "    print('held once')\n",
    )
    result = stage.run(GOOD, "mine.yaml", "-s")
    assert result.ret == 0
    result.stdout.fnmatch_lines(["*held once*"])


def test_a_run_with_a_model_writes_a_record_that_reads_back(stage: Stage) -> None:
    result = stage.run(GOOD, "mine.yaml")
    record = stage.record("stub-good")
    assert record.status == "complete"
    assert record.model.spec == "stub:good" and record.model.slug == "stub-good"
    assert [suite.name for suite in record.suites] == ["mine"]
    assert list(record.measurements) == ["mine/first", "mine/second"]
    assert [check.id for check in record.checks] == ["high", "there", "low"]
    written = {path.name for path in (stage.path / "reports" / "stub-good").iterdir()}
    reports = {"report.md", "report.html", "checks.csv", "heads.csv", "badge.json"}
    assert written == {"results.json", *reports}
    result.stdout.fnmatch_lines(["Reports in reports?stub-good?", "  results.json, *"])


def test_the_report_folder_can_be_chosen(stage: Stage) -> None:
    stage.run(GOOD, "mine.yaml", "--icl-report-dir=here/below")
    assert (stage.path / "here" / "below" / "stub-good" / "results.json").exists()
    assert not (stage.path / "reports").exists()


def test_a_test_that_changes_the_working_directory_does_not_move_the_reports(stage: Stage) -> None:
    stage.write("test_it.py", "import os\ndef test_it(tmp_path): os.chdir(tmp_path)")
    stage.run(GOOD, "test_it.py", "mine.yaml")
    assert set(stage.verdicts("stub-good").values()) == {"pass"}


@pytest.mark.parametrize("arguments", [["."], [GOOD, "mine.yaml", "--collect-only"]])
def test_nothing_is_written_without_a_model_or_when_only_collecting(
    stage: Stage, arguments: list[str]
) -> None:
    stage.write("taken", "a file")
    assert stage.run(*arguments, "--icl-report-dir=taken").ret == 0
    assert stage.run(*arguments).ret == 0
    assert not (stage.path / "reports").exists()
    assert stage.log() == []


def test_deselected_checks_are_skipped_and_the_record_is_partial(stage: Stage) -> None:
    stage.run(GOOD, "mine.yaml", "-k", "low")
    record = stage.record("stub-good")
    assert record.status == "partial"
    told = {check.id: (check.verdict, check.reason) for check in record.checks}
    assert told == {
        "high": ("skipped", "deselected"),
        "there": ("skipped", "deselected"),
        "low": ("pass", None),
    }
    # What only the deselected checks need is not measured.
    assert list(record.measurements) == ["mine/second"]


def test_a_partial_run_does_not_replace_a_complete_record(stage: Stage) -> None:
    stage.run(GOOD, "mine.yaml")
    stage.run(GOOD, "mine.yaml", "-k", "low")
    assert stage.record("stub-good").status == "complete"
    assert stage.record("stub-good", "results.partial.json").status == "partial"
    stage.run(GOOD, "mine.yaml")
    assert not (stage.path / "reports" / "stub-good" / "results.partial.json").exists()


def test_checks_after_the_first_failure_say_that_the_run_stopped(stage: Stage) -> None:
    assert stage.run(BAD, "mine.yaml", "-x").ret == 1
    record = stage.record("stub-bad")
    assert record.status == "partial"
    assert [check.verdict for check in record.checks] == ["fail", "skipped", "skipped"]
    assert record.checks[1].reason == "not run: the run stopped early"


def test_checks_that_another_plugin_skips_or_breaks_say_so(stage: Stage) -> None:
    stage.write(
        "conftest.py",
        "import pytest\n"
        "def pytest_runtest_setup(item):\n"
        "    if item.name.startswith('high'): pytest.skip('not today')\n"
        "    if item.name.startswith('low'): raise OSError('disk full')",
    )
    stage.run(GOOD, "mine.yaml").assert_outcomes(skipped=1, passed=1, errors=1)
    record = stage.record("stub-good")
    assert record.status == "partial"
    told = {check.id: (check.verdict, check.reason) for check in record.checks}
    assert told["high"] == ("skipped", "not run: Skipped: not today")
    assert told["low"][0] == "error" and "OSError" in str(told["low"][1])


def test_reports_that_cannot_be_written_fail_the_run(stage: Stage) -> None:
    stage.write("reports/stub-good", "a file where the folder should be")
    result = stage.run(GOOD, "mine.yaml")
    assert result.ret == 1
    result.stdout.fnmatch_lines(
        ["the reports were not written: report folder *cannot be written (not written: *stub-good*"]
    )
    assert "Traceback" not in result.stdout.str()


def test_every_model_has_a_record_of_its_own(stage: Stage) -> None:
    result = stage.run(GOOD, BAD, "mine.yaml")
    result.assert_outcomes(passed=5, failed=1)
    assert stage.verdicts("stub-good") == {"high": "pass", "there": "pass", "low": "pass"}
    assert stage.verdicts("stub-bad") == {"high": "fail", "there": "pass", "low": "pass"}
    folders = [path.name for path in (stage.path / "reports").iterdir() if path.is_dir()]
    assert sorted(folders) == ["stub-bad", "stub-good"]


def test_the_summary_goes_to_a_terminal_that_knows_ascii_only(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONIOENCODING", "ascii")
    result = stage.run_apart(BAD, "mine.yaml")
    assert result.ret == 1
    assert "UnicodeEncodeError" not in result.stdout.str() + result.stderr.str()
    result.stdout.fnmatch_lines(["*2 passed, 1 failed*", "Reports in reports?stub-bad?"])


def test_two_runs_in_one_process_do_not_mix(stage: Stage) -> None:
    stage.run(GOOD, "mine.yaml")
    result = stage.run("mine.yaml")
    assert "Reports in" not in result.stdout.str()
    stage.write("again.yaml", MINE.replace("name: mine", "name: again"))
    stage.run(GOOD, "again.yaml", "-k", "high", "--icl-report-dir=other")
    assert stage.record("stub-good").status == "complete"


def test_a_run_inside_a_test_does_not_take_the_outer_results(stage: Stage) -> None:
    stage.write("conftest.py", "pytest_plugins = 'pytester'")
    stage.write(
        "test_it.py",
        "def test_it(pytester): assert pytester.runpytest_inprocess('--version').ret == 0\n"
        "def test_more(pytester):\n"
        "    pytester.makepyfile('def test(): pass')\n"
        "    assert pytester.runpytest_inprocess().ret == 0",
    )
    stage.run_apart(GOOD, "test_it.py", "mine.yaml").assert_outcomes(passed=5)
    assert set(stage.verdicts("stub-good").values()) == {"pass"}


def test_models_of_one_name_keep_reports_of_their_own(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("icl_bench.running.job.check_spec", lambda spec, allow_pickle: None)
    for folder in ("a", "b"):
        stage.write(f"{folder}/it.gguf", folder)
    for folder, name in (("a", "it"), ("b", "b-it"), ("a", "it")):
        result = stage.run(f"--icl-model={folder}/it.gguf", "mine.yaml")
        assert result.ret == 0
        assert stage.record(name).model.origin
    both = stage.run("--icl-model=a/it.gguf", "--icl-model=b/it.gguf", "mine.yaml")
    both.assert_outcomes(passed=6)
    origins = {stage.record(name).model.origin for name in ("it", "b-it")}
    assert len(origins) == 2
    assert sorted(path.name for path in (stage.path / "reports").iterdir() if path.is_dir()) == [
        "b-it",
        "it",
    ]


def test_a_name_of_the_users_own_is_in_ids_folders_and_records(stage: Stage) -> None:
    named = ["--icl-model=первая=stub:good", "--icl-model=b=stub:bad"]
    result = stage.run(*named, "mine.yaml", "-v")
    result.stdout.fnmatch_lines(["*mine.yaml::high[[]первая] *"])
    assert stage.record("первая").model.spec == "stub:good"
    assert stage.record("b").model.slug == "b"
    result.stdout.fnmatch_lines(["*pytest --icl-model=b=stub:bad *"])


def test_workers_call_a_model_as_the_controller_does(stage: Stage) -> None:
    stage.run("--icl-model=b=stub:bad", "mine.yaml")
    stage.write("test_it.py", "def test_it(icl_model): pass")
    named = ["--icl-model=b=stub:good", "--icl-model=первая=stub:fine"]
    again = stage.run(*named, "mine.yaml", "test_it.py", "-v", "-n", "2")
    again.stdout.fnmatch_lines(["icl_bench: 'b' is also another model's name, *"])
    again.stdout.fnmatch_lines(["*mine.yaml::high[[]b-??????]*"])
    assert again.ret == 0 and len(stage.processes("fine")) == 1
    assert stage.record("b").model.spec == "stub:bad"
    assert stage.record("первая").model.spec == "stub:fine"
