"""A leaderboard that is there is kept up to date by every run, as it was asked for."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from boards import make, write
from conftest import Stage
from test_leaderboard_command import files

from icl_bench.cli import main
from icl_bench.errors import SettingsError
from icl_bench.reports.leaderboard import REQUEST, update_leaderboard

GOOD, BAD = "--icl-model=stub:good", "--icl-model=stub:bad"


@pytest.fixture
def reports(tmp_path: Path) -> Path:
    folder = tmp_path / "reports"
    folder.mkdir()
    return write(folder, make("good", 0.9, seed=1), make("bad", 0.1, seed=2))


def texts(folder: Path) -> dict[str, str]:
    return {path.name: path.read_text() for path in folder.glob("leaderboard.*")}


def models(folder: Path) -> list[str]:
    data = json.loads((folder / "leaderboard.json").read_text())
    return [row["model"] for group in data["groups"] for row in group["rows"]]


def test_a_run_of_one_model_updates_what_is_there_and_makes_none(stage: Stage) -> None:
    folder = stage.path / "reports"
    assert stage.run(GOOD, "mine.yaml").ret == 0
    assert files(folder) == []
    assert stage.run(GOOD, "--icl-model=stub:fine", "mine.yaml").ret == 0
    assert sorted(models(folder)) == ["stub:fine", "stub:good"]
    result = stage.run(BAD, "mine.yaml")
    assert models(folder)[-1] == "stub:bad"
    result.stdout.fnmatch_lines(["*leaderboard.json*"])
    # The command makes the same of it.
    automatic = texts(folder)
    assert main(["leaderboard", str(folder)]) == 0
    assert texts(folder) == automatic and len(automatic) == 4


@pytest.mark.parametrize("workers", [[], ["-n", "2"]])
def test_so_do_workers_the_command_and_python(stage: Stage, workers: list[str]) -> None:
    if workers:
        pytest.importorskip("xdist")
    folder = stage.path / "reports"
    stage.run(GOOD, "mine.yaml")
    assert main(["leaderboard", str(folder), "--json"]) == 0
    stage.run(BAD, "mine.yaml", *workers)
    assert "stub:bad" in models(folder)
    main(["run", "stub:fine", "--suite=mine.yaml", "--no-cache"])
    assert len(models(folder)) == 3 and files(folder) == ["leaderboard.json"]


def test_it_is_updated_by_the_score_and_records_it_was_asked_for_with(reports, tmp_path):
    other = write(tmp_path / "theirs", make("theirs", 0.5, seed=3))
    asked = ["leaderboard", str(reports), str(other), "--score", "repeated_loss", "--md", "--json"]
    assert main(asked) == 0
    write(reports, make("new", 0.7, seed=4))
    assert [path.suffix for path in update_leaderboard(reports, several=False)] == [".md", ".json"]
    data = json.loads((reports / "leaderboard.json").read_text())
    assert data["score"] == "core/collapse.repeated_loss"
    assert sorted(models(reports)) == ["bad", "good", "new", "theirs"]
    automatic = texts(reports)
    assert main(asked) == 0 and texts(reports) == automatic
    # Asked for in the usual way again, it is updated so.
    assert main(["leaderboard", str(reports)]) == 0 and not (reports / REQUEST).exists()
    assert sorted(models(reports)) == ["bad", "good", "new"]


def test_other_records_that_are_gone_are_named(reports, tmp_path):
    other = write(tmp_path / "theirs", make("theirs", 0.5, seed=3))
    assert main(["leaderboard", str(reports), str(other)]) == 0
    shutil.rmtree(other)
    assert update_leaderboard(reports, several=False)
    assert "theirs: there is no such file or folder" in (reports / "leaderboard.md").read_text()


def test_files_alone_or_another_folder_are_not_remembered(reports, tmp_path):
    assert main(["leaderboard", str(reports / "good" / "results.json"), "--score=gain"]) == 4
    record = str(reports / "good" / "results.json")
    assert main(["leaderboard", record, "--score=repeated_loss"]) == 0
    assert (
        main(["leaderboard", str(reports), f"--output={tmp_path / 'new'}", "--score=repeated_loss"])
        == 0
    )
    assert not list(tmp_path.rglob(REQUEST))


def test_one_that_cannot_be_updated_is_told_of(reports):
    assert main(["leaderboard", str(reports), "--suite", "core"]) == 0
    write(reports, *(make(name, 0.5, suite="other") for name in ("good", "bad")))
    with pytest.raises(SettingsError, match="the leaderboard was not updated: "):
        update_leaderboard(reports, several=False)
    (reports / REQUEST).write_text("{")
    with pytest.raises(SettingsError, match="cannot be read; icl-bench leaderboard writes it anew"):
        update_leaderboard(reports, several=False)
