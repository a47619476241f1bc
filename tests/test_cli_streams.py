"""Output that nobody reads: the command does all the rest, and its exit code says what came out."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import Stage
from test_render_records import make_check, make_record
from waiting import HANG

pytestmark = pytest.mark.skipif(os.name != "posix", reason="closes a pipe")

STUBBED = "import stub, sys; from icl_bench.cli import main; stub.install(); sys.exit(main())"
COMMAND = [sys.executable, "-m", "icl_bench.cli"]


def run_unread(*command: str, folder: Path, **environ: str) -> tuple[int, str]:
    """Run with a standard output whose reader has left; return the exit code and what was said."""
    reading, writing = os.pipe()
    os.close(reading)
    done = subprocess.run(
        command,
        cwd=folder,
        stdout=writing,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | environ,
        timeout=HANG,
    )
    os.close(writing)
    return done.returncode, done.stderr


@pytest.fixture
def records(tmp_path: Path) -> Path:
    """A folder with two records, of which `bad.json` fails a check that `good.json` passes."""
    for name, verdict in (("good", "pass"), ("bad", "fail")):
        checks = [make_check("one", verdict=verdict)]
        make_record(checks=checks).write(tmp_path / f"{name}.json")
    return tmp_path


def test_a_comparison_that_nobody_reads_keeps_its_exit_code_and_its_files(records: Path) -> None:
    for now, code in (("bad.json", 1), ("good.json", 0)):
        command = (*COMMAND, "compare", "good.json", now, "--md=told.md")
        summary = records / f"{now}.summary"
        where = {"GITHUB_ACTIONS": "true", "GITHUB_STEP_SUMMARY": str(summary)}
        assert run_unread(*command, folder=records, **where) == (code, "")
        assert (records / "told.md").read_text() and summary.read_text()
        (records / "told.md").unlink()


def test_files_that_cannot_be_read_are_still_told(records: Path) -> None:
    (records / "broken.json").write_text("{")
    code, said = run_unread(*COMMAND, "report", "broken.json", "good.json", folder=records)
    assert (code, said.count("\n")) == (1, 1) and said.startswith("icl-bench: broken.json:1:2: ")
    assert (records / "good.report.md").exists()
    code, said = run_unread(*COMMAND, "validate", "broken.json", folder=records)
    assert (code, said.count("\n")) == (4, 1)


@pytest.mark.parametrize("arguments", [["schema"], ["--help"], ["run", "--help"]])
def test_what_went_well_is_exit_code_0_unread(tmp_path: Path, arguments: list[str]) -> None:
    assert run_unread(*COMMAND, *arguments, folder=tmp_path) == (0, "")


@pytest.mark.parametrize(("model", "code"), [("good", 0), ("bad", 1)])
def test_a_run_that_nobody_reads_writes_all_its_files(stage: Stage, model: str, code: int) -> None:
    found, said = run_unread(
        *(sys.executable, "-c", STUBBED, "run", f"stub:{model}", "--suite=mine.yaml"),
        *("--save-baseline=base.json", "--openmetrics=metrics.txt", "--code-quality=quality.json"),
        folder=stage.path,
        GITHUB_ACTIONS="true",
        GITHUB_STEP_SUMMARY=str(stage.path / "summary.md"),
    )
    assert found == code and "Traceback" not in said and "ignored" not in said
    for name in ("base.json", "metrics.txt", "quality.json", "summary.md"):
        assert (stage.path / name).read_text()
    assert stage.verdicts(f"stub-{model}")


def test_errors_that_nobody_reads_keep_their_exit_code(records: Path) -> None:
    for arguments, code in ((["compare", "good.json", "nowhere.json"], 4), (["rnu"], 4)):
        reading, writing = os.pipe()
        os.close(reading)
        done = subprocess.run([*COMMAND, *arguments], cwd=records, stdout=writing, stderr=writing)
        os.close(writing)
        assert done.returncode == code


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a full disk")
def test_output_that_is_lost_is_told() -> None:
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [*COMMAND, "list", "models"], stdout=full, stderr=subprocess.PIPE, text=True
        )
    told = "icl-bench: standard output cannot be written (No space left on device)\n"
    assert (done.returncode, done.stderr) == (1, told)


def test_a_command_that_was_started_without_an_output_does_its_work(records: Path) -> None:
    command = " ".join([*COMMAND, "compare", "good.json", "bad.json", ">&-"])
    done = subprocess.run(command, shell=True, cwd=records, stderr=subprocess.PIPE, text=True)
    assert (done.returncode, done.stderr) == (1, "")
