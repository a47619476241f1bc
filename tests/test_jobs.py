"""`--jobs`: what several processes measure makes the record of a run in one."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from conftest import plain

import icl_bench
from icl_bench.cli import main
from icl_bench.errors import SettingsError
from icl_bench.executors.protocol import Hire, Lost, Share, Take
from icl_bench.models.sources.parsing import parse_spec
from icl_bench.options import RunOptions
from icl_bench.records.record import RunRecord
from icl_bench.running.dealing import Part, PartResult
from icl_bench.running.job import Job
from icl_bench.running.part_worker import PartWorker
from icl_bench.running.request import Request
from icl_bench.running.series_run import ends_first
from icl_bench.suite import find_suite
from icl_bench.suite.plan import make_plan

SERIES = "builtin:induction-2l@1,500,2000"
MODELS = ["builtin:handwired", "builtin:control-1l"]
SMALL = """\
icl_suite: 1
name: small
defaults: {sequences: 16}
measure:
  repeats: {probe: induction, control: false}
  losses: {probe: losses}
  training: {probe: phase_change, scores: repeats, losses: losses}
checks:
  - {id: induction, on: repeats, metric: induction_max, above: 0.4}
  - {id: copies, on: losses, metric: gain, above: 1}
  - {id: forms, on: training, metric: size, above: 0.3}
"""


@pytest.fixture
def small(tmp_path: Path) -> Path:
    path = tmp_path / "small.yaml"
    path.write_text(SMALL)
    return path


class InThisProcess:
    """An executor that keeps order, and counts; an interruption comes after `most` results."""

    def __init__(self, jobs: int = 2, most: int | None = None, kills: Sequence[int] = ()) -> None:
        self.jobs, self.most, self.kills = jobs, most, kills
        self.parts: list[Part] = []

    def carry_out(self, hire: Hire, parts: Sequence[Any], take: Take, lost: Lost) -> None:
        self.parts += parts
        worker, told = pickle.loads(pickle.dumps(hire))(Share(0, 1)), 0
        for place, part in enumerate(pickle.loads(pickle.dumps(parts))):
            if place in self.kills:
                lost(place, "its process died")
                continue

            def tell(result: PartResult, place: int = place) -> None:
                nonlocal told
                told += 1
                take(place, pickle.loads(pickle.dumps(result)))
                if told == self.most:
                    raise KeyboardInterrupt

            worker.carry_out(part, tell)
        worker.close()


@pytest.fixture
def executor(monkeypatch: pytest.MonkeyPatch) -> Callable[..., InThisProcess]:
    def use(**how: Any) -> InThisProcess:
        one = InThisProcess(**how)
        monkeypatch.setattr("icl_bench.executors.processes.LocalProcesses", lambda jobs: one)
        return one

    return use


def run(suite: Path, folder: Path, *specs: str, jobs: int = 1) -> list[RunRecord]:
    options = RunOptions(cache=False)
    request = Request(specs, [find_suite(suite)], options, jobs, str(folder), tells_ci=False)
    job = Job(request)
    job.check()
    return job.run(icl_bench.progress.RunProgress()).records  # type: ignore[attr-defined]


def content(record: RunRecord) -> dict[str, Any]:
    told = plain(record)
    del told["environment"]
    for measurement in told["measurements"].values():
        measurement["seconds"] = None
        for row in measurement["tables"].get("steps", []):
            row.pop("seconds", None)
    return told


def test_two_processes_make_the_record_of_one(small: Path) -> None:
    serial = icl_bench.run([small], SERIES, cache=False)
    assert content(icl_bench.run([small], SERIES, cache=False, jobs=2)) == content(serial)
    assert {check.verdict for check in serial.checks} == {"pass"}


def test_the_ends_of_a_series_come_first(small: Path, executor: Any) -> None:
    one = executor()
    icl_bench.run([small], SERIES, jobs=2)
    assert [part.step for part in one.parts] == [1, 2000, 500]
    assert ends_first(9) == [0, 8, 4, 2, 6, 1, 3, 5, 7]
    assert [ends_first(count) for count in (0, 1, 2)] == [[], [0], [0, 1]]


def test_models_are_dealt_side_by_side(small: Path, tmp_path: Path, executor: Any) -> None:
    one = executor()
    dealt = run(small, tmp_path / "a", *MODELS, jobs=2)
    assert [part.slug for part in one.parts] == ["builtin-handwired", "builtin-control-1l"]
    serial = run(small, tmp_path / "b", *MODELS)
    assert [content(record) for record in dealt] == [content(record) for record in serial]


def test_one_model_is_measured_by_the_process_itself(small: Path, executor: Any) -> None:
    one = executor()
    icl_bench.run([small], MODELS[0], jobs=2)
    assert one.parts == []


def test_what_is_in_the_cache_is_dealt_and_found_there(small: Path, executor: Any) -> None:
    icl_bench.run([small], SERIES)
    executor()
    record = icl_bench.run([small], SERIES, jobs=2)
    assert record.measurements["small/repeats"].cached_steps == [1, 500, 2000]


def test_a_part_that_nobody_could_measure_is_an_error_with_its_reason(
    small: Path, tmp_path: Path, executor: Any
) -> None:
    executor(kills=[1])
    first, second = run(small, tmp_path / "r", *MODELS, jobs=2)
    assert {check.verdict for check in first.checks} <= {"pass", "skipped"}
    told = {check.verdict: check.reason for check in second.checks if check.id != "forms"}
    assert told == {"error": "its process died"}


def test_of_a_series_the_other_checkpoints_are_measured(small: Path, executor: Any) -> None:
    executor(kills=[2])
    record = icl_bench.run([small], SERIES, jobs=2)
    taken = record.measurements["small/repeats"]
    assert [row["step"] for row in taken.tables["steps"]] == [1, 2000]
    assert taken.tables["broken_steps"] == [{"step": 500, "reason": "its process died"}]


def test_what_came_back_before_an_interruption_is_written(
    small: Path, tmp_path: Path, executor: Any
) -> None:
    executor(most=3)  # both measurements of the first model, one of the second
    first, second = run(small, tmp_path / "r", *MODELS, jobs=2)
    assert (first.status, second.status) == ("interrupted", "interrupted")
    assert {"small/repeats", "small/losses"} <= first.measurements.keys()
    assert "small/repeats" in second.measurements
    assert (tmp_path / "r" / "builtin-control-1l" / "results.json").exists()


def test_pytest_has_the_option_too(small: Path, pytester: pytest.Pytester, executor: Any) -> None:
    one = executor()
    result = pytester.runpytest_inprocess(
        "--icl-model", SERIES, f"--icl-suite={small}", "--icl-jobs=2"
    )
    result.assert_outcomes(passed=3)
    assert len(one.parts) == 3


def test_a_checkpoint_that_cannot_be_opened_comes_back_as_data(small: Path) -> None:
    plan = make_plan([find_suite(small)])
    options = RunOptions(cache=False, device="cuda:99")
    told: list[PartResult] = []
    worker = PartWorker(plan, options, Share(0, 1))
    worker.carry_out(Part("x", parse_spec(MODELS[0]), None, ("small/repeats",)), told.append)
    assert told[-1].measurements["small/repeats"].status == "error"
    assert told[-1].environment is None


@pytest.mark.parametrize("jobs", ["0", "-1", "two"])
def test_no_number_of_processes_is_one_message(
    jobs: str, small: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["run", SERIES, f"--suite={small}", f"--jobs={jobs}"]) == 4
    assert capsys.readouterr().err.startswith(f"icl-bench: --jobs={jobs}: must be a")
    with pytest.raises(SettingsError, match=rf"^jobs={jobs}: must be a"):
        icl_bench.run([small], SERIES, jobs=jobs)  # type: ignore[arg-type]
