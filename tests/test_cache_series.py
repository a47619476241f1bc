"""A series of checkpoints that several processes measure, each a part, and one gathers."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import icl_bench
from icl_bench.cli import main
from icl_bench.models.opening.streaming import CheckpointStream
from icl_bench.reference import series_steps
from icl_bench.suite import shipped_suites

MODEL = "builtin:induction-2l"
STEPS = series_steps("induction-2l")
REASON = "needs a series of checkpoints: --icl-model=...@*"

SHARE = """
import os, sys, time
from pathlib import Path
from icl_bench.reports import leaderboard
from icl_bench.cli import main
from icl_bench.models.opening import opening
from icl_bench.reports import files
# Pages of 24 models take longer than all else.
files.write_reports = leaderboard.update_leaderboard = lambda *given: []
together, *arguments = sys.argv[1:]
original = opening.open_model
def wait(*given):
    # Nothing is kept before all of them are there.
    while len(list(Path(os.environ["ICL_BENCH_CACHE"], "runs").glob("[0-9]*"))) < int(together):
        assert os.getppid() == int(os.environ["PARENT"])
        time.sleep(0.01)
    opening.open_model = original
    return original(*given)
opening.open_model = wait
main(["run", *arguments])
"""


@pytest.fixture(autouse=True)
def suite(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The suite phase-change on few and short sequences."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PARENT", str(os.getpid()))
    text = shipped_suites()["phase-change"].read_text()
    small = text.replace("sequences: 32, period: 50", "sequences: 2, period: 8")
    assert small != text
    (tmp_path / "small.yaml").write_text(small)
    return tmp_path / "small.yaml"


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """Every checkpoint of a series that is opened."""
    found: list[str] = []
    original = CheckpointStream.open

    def count(stream: CheckpointStream, *given: object) -> object:
        found.append(given[0].revision)  # type: ignore[attr-defined]
        return original(stream, *given)  # type: ignore[arg-type]

    monkeypatch.setattr(CheckpointStream, "open", count)
    yield found


def entries() -> int:
    """How many measurements are kept."""
    return len(list(Path(os.environ["ICL_BENCH_CACHE"], "measurements").glob("*.json")))


def share(number: int, *options: str, of: int = 4, together: int = 0) -> subprocess.Popen[bytes]:
    """Start the process that measures every `of`-th step, each as a model of its own."""
    specs = [f"{MODEL}@{step}" for step in STEPS[number::of]]
    rest = ["--suite=small.yaml", f"--report-dir=share-{number}", *options]
    command = [sys.executable, "-c", SHARE, str(together), *specs, *rest]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def gather(capsys: pytest.CaptureFixture[str], *options: str) -> str:
    rest = ["--suite=small.yaml", "--report-dir=gathered", *options]
    assert main(["run", f"{MODEL}@*", *rest]) in (0, 1)
    return capsys.readouterr().out


def test_on_one_checkpoint_the_sources_of_a_series_probe_are_measured(
    suite: Path, opened: list[str], openings: list[str]
) -> None:
    record = icl_bench.run([suite], f"{MODEL}@700")
    taken = record.measurements
    assert {key: one.status for key, one in taken.items()} == {
        "phase-change/repeats": "measured",
        "phase-change/losses": "measured",
        "phase-change/change": "skipped",
    }
    assert taken["phase-change/change"].reason == REASON
    assert {(check.verdict, check.reason) for check in record.checks} == {("skipped", REASON)}
    assert openings == [f"{MODEL}@700"] and entries() == 2
    again = icl_bench.run([suite], f"{MODEL}@700")
    assert len(openings) == 1
    assert {key for key, one in again.measurements.items() if one.cached} == {
        "phase-change/repeats",
        "phase-change/losses",
    }
    series = icl_bench.run([suite], f"{MODEL}@700,800")
    assert opened == ["800"]
    for name in ("repeats", "losses"):
        rows = series.measurements[f"phase-change/{name}"].tables["steps"]
        alone = taken[f"phase-change/{name}"].metrics
        (row,) = (row for row in rows if row["step"] == 700)
        assert {key: row[key] for key in alone if key in row} == {
            key: metric.value for key, metric in alone.items() if key in row
        }


def test_a_check_that_is_asked_for_alone_measures_what_it_needs_alone(
    suite: Path, openings: list[str]
) -> None:
    suite.write_text(suite.read_text() + "  - {id: now, on: losses, metric: gain, above: -9}\n")
    from icl_bench.models.sources.parsing import parse_spec
    from icl_bench.running.lazy_model import LazyModel
    from icl_bench.running.model_run import ModelRun
    from icl_bench.running.setup import Setup
    from icl_bench.suite import load_suite
    from icl_bench.suite.plan import make_plan

    spec = parse_spec(f"{MODEL}@700")
    setup = Setup(make_plan([load_suite(suite)]))
    run = ModelRun(LazyModel(spec, "slug", setup), setup)
    run.expect({("phase-change", "now")})
    assert run.wanted() == {"phase-change/losses"}
    run.expect({("phase-change", "induction-forms")})
    assert run.wanted() == {"phase-change/losses", "phase-change/repeats"}
    assert openings == []


@pytest.mark.long
def test_shares_measured_in_turn_are_gathered_whole(
    opened: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    for number in range(2):
        assert share(number, of=2).wait() in (0, 1)
    assert entries() == 48
    assert "24 of 24 steps from the cache" in gather(capsys)
    assert opened == [] and entries() == 49


@pytest.mark.long
def test_a_limit_that_is_given_holds_for_what_is_over(
    opened: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    for number in range(2):
        assert share(number, "--cache-limit=1kB").wait() in (0, 1)
        assert entries() == 12
    out = gather(capsys, "--cache-limit=1kB")
    assert "6 of 24 steps from the cache" in out and len(opened) == 18
    assert "cache: removed" not in out  # all that was there has been read
    assert entries() == 49


def test_shares_measured_at_once_are_gathered_whole_under_any_limit(
    opened: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    shares = [share(number, "--cache-limit=1kB", together=4) for number in range(4)]
    assert {run.wait() for run in shares} <= {0, 1}
    assert entries() == 48
    assert "24 of 24 steps from the cache" in gather(capsys, "--cache-limit=1kB")
    assert opened == [] and entries() == 49
