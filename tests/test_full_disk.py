"""A full disk: which files were written and which not, nothing half written, the verdict stands."""

from __future__ import annotations

import errno
import os
import resource
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from conftest import MINE, Stage
from test_render_records import make_record

import icl_bench
from icl_bench.errors import SettingsError
from icl_bench.ranking import rank, read_entries
from icl_bench.records import writing
from icl_bench.reports.files import render_again, write_reports
from icl_bench.reports.leaderboard import write_leaderboard
from icl_bench.running.cache import Cache, CacheWarning

GOOD = "--icl-model=stub:good"
FULL = "No space left on device"
Fill = Callable[[str], None]


@pytest.fixture
def fill(monkeypatch: pytest.MonkeyPatch) -> Fill:
    """Let files whose name holds some text find the disk full, in the middle of writing."""
    replace = os.replace

    def choose(text: str) -> None:
        def fail(source: str, target: str | Path) -> None:
            if text in Path(target).name:
                Path(source).write_text("half")
                raise OSError(errno.ENOSPC, FULL)
            replace(source, target)

        monkeypatch.setattr(writing.os, "replace", fail)

    return choose


@contextmanager
def small_files(size: int) -> Iterator[None]:
    """Let no file of this process be larger: a limit that the system keeps."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def halves(folder: Path) -> list[str]:
    return [path.name for path in folder.rglob(".*") if path.is_file()]


@pytest.mark.parametrize("name", ["report.md", "report.html", "checks.csv", "badge.json"])
def test_one_report_that_does_not_fit_costs_no_other(stage: Stage, fill: Fill, name: str) -> None:
    assert stage.run(GOOD, "mine.yaml").ret == 0
    fill(name)
    result = stage.run(GOOD, "mine.yaml")
    assert result.ret == 1
    folder = stage.path / "reports" / "stub-good"
    [line] = [line for line in result.stdout.lines if line.startswith("reports: not written: ")]
    failed, _, written = line.partition("; written: ")
    assert f"{name} ({FULL})" in failed and "results.json" in written and name not in written
    result.assert_outcomes(passed=3)
    # No report of an earlier run beside the new record.
    assert not (folder / name).exists() and (folder / "heads.csv").exists()
    assert not halves(stage.path / "reports")


def test_a_record_that_does_not_fit_leaves_the_old_one_with_its_reports(
    stage: Stage, fill: Fill
) -> None:
    assert stage.run(GOOD, "mine.yaml").ret == 0
    folder = stage.path / "reports" / "stub-good"
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    fill("results.json")
    stage.write("mine.yaml", MINE.replace("level, above: 0.5", "level, above: 7"))
    result = stage.run(GOOD, "mine.yaml")
    assert result.ret == 1
    result.assert_outcomes(passed=2, failed=1)
    result.stdout.fnmatch_lines([f"*not written: *results.json*({FULL}); nothing was written*"])
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def test_files_that_are_really_too_large(tmp_path: Path) -> None:
    record = make_record()
    with small_files(20_000), pytest.raises(SettingsError) as caught:
        write_reports([record], tmp_path / "reports")
    told = str(caught.value)
    assert "report.html (File too large); written: " in told and "results.json" in told
    assert not halves(tmp_path)
    troubles: list[str] = []
    with small_files(20_000):
        paths = write_reports([record], tmp_path / "reports", troubles=troubles)
    assert paths[0].name == "results.json" and len(troubles) == 1
    with small_files(20_000), pytest.raises(SettingsError, match="report.html"):
        render_again(record, paths[0], paths[0].parent)
    with small_files(100), pytest.raises(SettingsError, match="nothing was written"):
        write_reports([record], tmp_path / "other")
    assert not halves(tmp_path)


def test_a_leaderboard_names_its_files(tmp_path: Path) -> None:
    write_reports([make_record()], tmp_path)
    board = rank(read_entries([tmp_path]).read)
    with small_files(20_000), pytest.raises(SettingsError) as caught:
        write_leaderboard(board, tmp_path)
    assert "not written: " in str(caught.value) and "leaderboard.html" in str(caught.value)
    assert "written: " in str(caught.value) and "leaderboard.csv" in str(caught.value)
    assert (tmp_path / "leaderboard.csv").exists() and not halves(tmp_path)


def test_a_comparison_that_does_not_fit_does_not_keep_the_baseline_from_being_saved(
    stage: Stage, fill: Fill
) -> None:
    assert stage.run(GOOD, "mine.yaml", "--icl-save-baseline=old.json").ret == 0
    fill("comparison.md")
    options = ("--icl-baseline=old.json", "--icl-save-baseline=new.json")
    result = stage.run(GOOD, "mine.yaml", *options)
    assert result.ret == 1
    result.stdout.fnmatch_lines([f"*comparison.md: cannot be written ({FULL})*"])
    assert icl_bench.read_record(stage.path / "new.json").status == "complete"
    fill("new.json")
    (stage.path / "new.json").unlink()
    result = stage.run(GOOD, "mine.yaml", *options)
    assert result.ret == 1
    result.stdout.fnmatch_lines([f"*new.json: cannot be written ({FULL})*"])
    assert not (stage.path / "new.json").exists()


def test_a_cache_that_is_full_costs_no_measurement(tmp_path: Path) -> None:
    [taken, *_] = make_record().measurements.values()
    cache = Cache(tmp_path / "cache")
    with small_files(100), pytest.warns(CacheWarning, match="File too large.*is not kept"):
        cache.keep("0" * 64, taken)
    assert not halves(tmp_path) and cache.find("0" * 64) is None
