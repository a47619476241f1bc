"""A series whose checkpoints are broken, vanish or kill, and one that is interrupted."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import checkpoints
import pytest
from small_series import SUITE, make_run, run, spoil, write_series

import icl_bench
from icl_bench.models.opening.streaming import CheckpointStream
from icl_bench.models.sources.parsing import parse_spec
from icl_bench.probes import PROBES
from icl_bench.records.parts import Measurement
from icl_bench.running.series_run import SeriesRun
from icl_bench.running.setup import Setup
from icl_bench.suite import load_suite
from icl_bench.suite.plan import make_plan


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(PROBES, "toy", "series_probes")
    Path("small.yaml").write_text(SUITE)


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Every checkpoint that is opened."""
    found: list[str] = []
    original = CheckpointStream.open

    def count(stream: CheckpointStream, spec: Any, *rest: Any) -> Any:
        found.append(spec.revision)
        return original(stream, spec, *rest)

    monkeypatch.setattr(CheckpointStream, "open", count)
    return found


def test_one_bad_checkpoint_is_told_and_does_not_end_the_series(opened: list[str]) -> None:
    folders = write_series(5)
    spoil(folders[2])
    record = run()
    assert opened == ["step1", "step2", "step3", "step4", "step5"]
    assert record.model.steps == [1, 2, 4, 5]
    for key in ("small/repeats", "small/off"):
        taken = record.measurements[key]
        assert [row["step"] for row in taken.tables["steps"]] == [1, 2, 4, 5]
        (row,) = taken.tables["broken_steps"]
        assert row["step"] == 3
        assert "model.safetensors is cut short or damaged" in row["reason"]
        assert taken.reason is not None
        told = "1 of 5 checkpoints could not be measured: step 3: "
        assert taken.reason.startswith(told) and "cut short" in taken.reason
    change = record.measurements["small/change"]
    assert change.settings["seen"] == [1, 2, 4, 5]
    assert change.tables["broken_steps"][0]["reason"].startswith(
        "repeats: model.safetensors is cut"
    )
    assert change.reason is not None and "step 3: repeats: " in change.reason
    assert {check.verdict for check in record.checks} == {"pass"}
    # It is tried again, and it alone.
    del opened[:]
    run()
    assert opened == ["step3"]


@pytest.mark.parametrize("place", [0, 3])
def test_the_first_or_the_last_checkpoint_may_be_bad(place: int) -> None:
    folders = write_series()
    weight = checkpoints.make_llama().lm_head.weight.detach().clone()
    weight[0, 0] = float("nan")
    checkpoints.edit_weights(folders[place], lm_head__weight=weight)
    record = run()
    good = [step for step in (1, 2, 3, 4) if step != place + 1]
    assert record.model.steps == good
    taken = record.measurements["small/repeats"]
    alone = run(f"runs@{good[-1]}", cache=False)
    assert taken.metrics == alone.measurements["small/repeats"].metrics
    assert record.model.fingerprint == alone.model.fingerprint
    late = "the last one among them, so the values are those of step 3"
    assert taken.reason is not None and (late in taken.reason) == (place == 3)
    assert "NaN or infinite" in taken.reason


def test_a_checkpoint_without_config_is_told() -> None:
    folders = write_series()
    (folders[1] / "config.json").unlink()
    record = run()
    assert record.model.steps == [1, 3, 4]
    (row,) = record.measurements["small/repeats"].tables["broken_steps"]
    assert "no config.json" in row["reason"]


def test_fewer_than_two_good_checkpoints_are_an_error() -> None:
    folders = write_series(3)
    for folder in folders[1:]:
        checkpoints.edit_weights(folder, model__norm__weight=None)
    record = run()
    for check in record.checks:
        assert check.verdict == "error"
        assert check.reason is not None
        assert "fewer than two of 3 checkpoints could be measured: step 2" in check.reason
        assert "1 weights are missing" in check.reason and check.reason.count("missing") == 1
    assert {taken.status for taken in record.measurements.values()} == {"error"}


def test_a_model_that_can_be_measured_at_no_step_is_skipped(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # `choice` needs a tokenizer, which these checkpoints do not have.
    for step in (1, 2):
        checkpoints.write_llama(Path(f"runs/step{step}"), seed=step, tokenizer=False)
    item = "  asked: {probe: choice, items: [{prompt: the, choices: [a, b], answer: a}]}\nchecks:"
    suite = SUITE.replace("checks:", item) + "  - {id: fox, on: asked, metric: margin, above: 0}\n"
    text = suite.replace("scores: repeats}", "scores: repeats, losses: asked}")
    Path("small.yaml").write_text(suite)
    record = run()
    verdicts = {check.id: check for check in record.checks}
    assert verdicts["fox"].verdict == "skipped" and verdicts["low"].verdict == "pass"
    assert verdicts["fox"].reason is not None
    assert verdicts["fox"].reason.endswith("the folder has no tokenizer files")
    # As a source that may be missing, it takes no step away.
    Path("small.yaml").write_text(text)
    taken = run().measurements["small/change"]
    assert taken.status == "measured" and taken.settings["told"] == ["skipped", "skipped"]


def test_a_series_probe_that_refuses_or_breaks_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    import series_probes

    write_series(2)
    Path("small.yaml").write_text(SUITE.replace("scores: repeats", "scores: repeats, refuse: true"))
    taken = run().measurements["small/change"]
    assert (taken.status, taken.reason) == ("skipped", "there is nothing to see")
    monkeypatch.setattr(series_probes, "measure_series", lambda *given: 1 / 0)
    taken = run().measurements["small/change"]
    assert taken.status == "error" and "probe 'toy' broke: ZeroDivisionError" in str(taken.reason)


def test_an_interrupted_series_keeps_the_steps_so_far(
    opened: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    write_series()
    original = CheckpointStream.open

    def interrupt(stream: CheckpointStream, spec: Any, *rest: Any) -> Any:
        if spec.revision == "step3":
            raise KeyboardInterrupt
        return original(stream, spec, *rest)

    monkeypatch.setattr(CheckpointStream, "open", interrupt)
    series = make_run()
    with pytest.raises(KeyboardInterrupt):
        series.run()
    record = series.record(interrupted=True)
    assert record.status == "interrupted" and record.model.steps == [1, 2]
    taken = record.measurements["small/repeats"]
    assert [row["step"] for row in taken.tables["steps"]] == [1, 2]
    assert {check.reason for check in record.checks} == {"not run: interrupted"}
    # Asked again, it goes on where it stopped.
    monkeypatch.setattr(CheckpointStream, "open", original)
    del opened[:]
    assert series.run().model.steps == [1, 2, 3, 4]
    assert opened == ["step3", "step4"]


KILLED = """
import os, signal, sys
sys.path.insert(0, {tests!r})
import icl_bench
from icl_bench.models.opening.streaming import CheckpointStream
from icl_bench.probes import PROBES
PROBES["toy"] = "series_probes"
original = CheckpointStream.open

def open(stream, spec, *rest):
    if spec.revision == "step4":
        os.kill(os.getpid(), signal.SIGKILL)
    return original(stream, spec, *rest)

CheckpointStream.open = open
icl_bench.run(["small.yaml"], "runs@*")
"""


def test_after_a_kill_only_the_missing_steps_are_measured(opened: list[str]) -> None:
    write_series(6)
    code = KILLED.format(tests=str(Path(__file__).parent))
    package = str(Path(icl_bench.__file__).parents[1])
    known = os.pathsep.join(filter(None, [package, os.environ.get("PYTHONPATH", "")]))
    done = subprocess.run([sys.executable, "-c", code], env={**os.environ, "PYTHONPATH": known})
    assert done.returncode == -signal.SIGKILL
    kept = list(Path(os.environ["ICL_BENCH_CACHE"]).glob("measurements/*"))
    assert len(kept) == 6  # two measurements of three steps
    record = run()
    assert opened == ["step4", "step5", "step6"]
    assert record.model.steps == [1, 2, 3, 4, 5, 6]
    fresh = run(cache=False)
    for key in ("small/repeats", "small/off"):
        rows = zip(
            record.measurements[key].tables["steps"], fresh.measurements[key].tables["steps"]
        )
        assert all(one == pytest.approx(other, abs=1e-7) for one, other in rows)


def test_what_another_process_died_of_is_left_out_at_every_step(opened: list[str]) -> None:
    write_series(3)
    series = make_run()
    failed = Measurement(probe="ablation", status="error", reason="not run: a process died")
    series.adopt({"small/off": failed}, [])
    record = series.run()
    told = {check.id: (check.verdict, check.reason) for check in record.checks}
    assert told["whole"] == ("error", "not run: a process died")
    assert told["rises"][0] == "pass"
    assert [row["step"] for row in record.measurements["small/repeats"].tables["steps"]] == [
        1,
        2,
        3,
    ]
    assert opened == ["step1", "step2", "step3"]


def test_of_a_series_that_kills_nothing_is_opened_again(opened: list[str]) -> None:
    write_series(2)
    series = make_run()
    failed = {
        key: Measurement(probe=planned.probe, status="error", reason="not run: a process died")
        for key, planned in series.plan.measurements.items()
    }
    series.adopt(failed, [])
    assert {check.reason for check in series.run().checks} == {"not run: a process died"}
    assert opened == []


def test_checkpoints_that_vanish_are_errors_and_the_rest_is_measured() -> None:
    write_series(3)
    series = make_run()
    shutil.rmtree("runs/step2")
    record = series.run()
    assert record.model.steps == [1, 3]
    shutil.rmtree("runs")
    found = parse_spec("./runs@*")
    gone = SeriesRun(found, "slug", Setup(make_plan([load_suite("small.yaml")])))
    (reason,) = {check.reason for check in gone.run().checks if check.verdict == "error"}
    assert reason is not None and reason.startswith("model './runs@*': there is no folder ")
