"""What was measured is not measured again, and nothing that changed is mistaken for it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from conftest import MINE, Stage

GOOD = "--icl-model=stub:good"
SECOND = "{probe: stub, tag: second"
SOME = "* passed; 2 of 2 measurements from the cache"


@pytest.fixture
def kept(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> Stage:
    """A stage whose stub can be told from others, after a run of all checks."""
    monkeypatch.setenv("STUB_WEIGHTS", "1")
    assert stage.run(GOOD, "mine.yaml").ret == 0
    assert stage.log("measured") == ["good", "good second"]
    return stage


def new(stage: Stage, *arguments: str) -> list[str]:
    """Run again and return what was measured."""
    before = len(stage.log("measured"))
    stage.run(GOOD, "mine.yaml", *arguments)
    return stage.log("measured")[before:]


def test_a_second_run_measures_nothing_and_says_so(kept: Stage) -> None:
    first = kept.record("stub-good")
    result = kept.run(GOOD, "mine.yaml")
    assert result.ret == 0
    result.stdout.fnmatch_lines([SOME])
    assert kept.log("measured") == ["good", "good second"]
    second = kept.record("stub-good")
    assert all(taken.cached for taken in second.measurements.values())
    assert not any(taken.cached for taken in first.measurements.values())
    for key, taken in second.measurements.items():
        assert taken.model_copy(update={"cached": False}) == first.measurements[key]
    assert second.checks == first.checks and second.model == first.model
    report = (kept.path / "reports" / "stub-good" / "report.md").read_text()
    assert "2 of 2 measurements from the cache" in report
    assert report.count("in the run that took it, from the cache") == 2


def test_other_checks_on_the_same_measurements_measure_nothing(kept: Stage) -> None:
    text = MINE.replace("above: 0.5", "above: 7").replace('"Is it high?"', '"Is it very high?"')
    text = text.replace("name: mine", "name: other").replace("first", "renamed")
    kept.write("mine.yaml", text + "  - {id: more, on: second, metric: exact, above: 0}\n")
    assert new(kept) == []
    verdicts = {"high": "fail", "there": "pass", "low": "pass", "more": "pass"}
    assert kept.verdicts("stub-good") == verdicts


def test_a_changed_setting_and_a_new_measurement_are_measured_and_nothing_else(
    kept: Stage,
) -> None:
    text = MINE.replace("tag: second", "tag: changed")
    kept.write("mine.yaml", text)
    assert new(kept) == ["good changed"]
    text = text.replace("checks:", "  third: {probe: stub, tag: third}\nchecks:")
    kept.write("mine.yaml", text + "  - {id: more, on: third, metric: exact, above: 0}\n")
    assert new(kept) == ["good third"]
    assert [m.cached for m in kept.record("stub-good").measurements.values()] == [1, 1, 0]


def test_another_model_and_other_weights_are_measured(
    kept: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept.run("--icl-model=stub:fine", "mine.yaml")
    assert kept.log("measured")[2:] == ["fine", "fine second"]
    monkeypatch.setenv("STUB_WEIGHTS", "2")
    assert new(kept) == ["good", "good second"]


def test_a_changed_probe_is_measured(kept: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("icl_bench.probes.package_version", lambda name: "other")
    assert new(kept) == ["good", "good second"]


def test_without_the_cache_nothing_is_read_and_nothing_written(kept: Stage) -> None:
    folder = Path(os.environ["ICL_BENCH_CACHE"])
    before = {path: path.stat() for path in folder.rglob("*")}
    assert new(kept, "--icl-no-cache") == ["good", "good second"]
    kept.write("mine.yaml", MINE.replace("tag: second", "tag: changed"))
    new(kept, "--icl-no-cache")
    after = {path: path.stat() for path in folder.rglob("*")}
    assert {p: s.st_mtime_ns for p, s in before.items()} == {
        p: s.st_mtime_ns for p, s in after.items()
    }


def test_the_folder_can_be_chosen_and_be_deleted(kept: Stage) -> None:
    assert new(kept, "--icl-cache-dir=here") == ["good", "good second"]
    assert new(kept, "--icl-cache-dir=here") == []
    for path in (kept.path / "here" / "measurements").iterdir():
        path.unlink()
    assert new(kept, "--icl-cache-dir=here") == ["good", "good second"]


def test_a_broken_entry_is_measured_again_and_replaced(kept: Stage) -> None:
    folder = Path(os.environ["ICL_BENCH_CACHE"]) / "measurements"
    for path in folder.iterdir():
        path.write_bytes(path.read_bytes()[:-9])
    assert new(kept) == ["good", "good second"]
    assert new(kept) == []


def test_a_cache_that_cannot_be_written_is_one_warning(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STUB_WEIGHTS", "1")
    Path(os.environ["ICL_BENCH_CACHE"]).write_text("a file where a folder is needed")
    result = stage.run(GOOD, "mine.yaml")
    result.assert_outcomes(passed=3, warnings=1)
    result.stdout.fnmatch_lines(
        ["*CacheWarning: * cannot be written (*); what is measured is not*"]
    )


@pytest.mark.parametrize("act", ["break", "interrupt"])
def test_what_failed_is_tried_again_and_what_came_before_it_is_kept(
    stage: Stage, monkeypatch: pytest.MonkeyPatch, act: str
) -> None:
    monkeypatch.setenv("STUB_WEIGHTS", "1")
    stage.write("mine.yaml", MINE.replace(SECOND, f"{SECOND}, act: {act}"))
    stage.run(GOOD, "mine.yaml")
    assert stage.log("measured") == ["good", "good second"]
    assert new(stage) == ["good second"]


def test_a_process_that_is_killed_loses_only_what_it_was_measuring(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STUB_WEIGHTS", "1")
    stage.write("mine.yaml", MINE.replace(SECOND, f"{SECOND}, act: crash"))
    assert stage.run_apart(GOOD, "mine.yaml").ret == 9
    stage.write("mine.yaml", MINE)
    assert new(stage) == ["good second"]


def test_workers_keep_and_find_what_is_measured(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("xdist")
    monkeypatch.setenv("STUB_WEIGHTS", "1")
    both = (GOOD, "--icl-model=stub:fine", "mine.yaml", "-n", "2")
    for _ in range(2):
        stage.run(*both).assert_outcomes(passed=6)
        assert len(stage.log("measured")) == 4
    assert all(taken.cached for taken in stage.record("stub-fine").measurements.values())
    assert new(stage) == []
