"""A plan on a series of checkpoints: step by step, kept at once, whatever breaks on the way."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import checkpoints
import pytest
import torch
from hub_server import HubServer, Repo
from test_loading_hub import use_hub

import icl_bench
from icl_bench import reference
from icl_bench.api import load_model
from icl_bench.errors import SpecError
from icl_bench.models.opening.streaming import CheckpointStream
from icl_bench.models.sources.checking import check_spec
from icl_bench.models.sources.parsing import parse_spec
from icl_bench.options import RunOptions
from icl_bench.probes import PROBES
from icl_bench.progress import ProgressState, RunProgress
from icl_bench.records.parts import Measurement
from icl_bench.records.record import RunRecord
from icl_bench.running.cache import open_cache
from icl_bench.running.model_run import ModelRun
from icl_bench.running.series_run import SeriesRun, start_run
from icl_bench.running.setup import Setup
from icl_bench.suite import load_suite
from icl_bench.suite.plan import make_plan

SUITE = """\
icl_suite: 1
name: small
defaults: {sequences: 4, period: 8}
measure:
  repeats: {probe: induction, control: false}
  off: {probe: ablation, heads: {from: repeats, top: 1}, null_sets: 0}
  change: {probe: toy, scores: repeats}
checks:
  - {id: low, on: repeats, metric: induction_max, below: 0.9}
  - {id: rises, on: change, metric: rise, above: -1}
  - {id: whole, on: off, metric: gain, above: -9}
"""


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


def write_series(count: int = 4, place: str = "runs") -> list[Path]:
    return [
        checkpoints.write_llama(Path(place, f"step{step}"), seed=step)
        for step in range(1, count + 1)
    ]


def run(text: str = "runs@*", **options: Any) -> RunRecord:
    return icl_bench.run(["small.yaml"], text, **options)


def make_run(text: str = "runs@*", progress: RunProgress | None = None) -> Any:
    spec, options = parse_spec(text), RunOptions()
    plan = make_plan([load_suite("small.yaml")])
    setup = Setup(plan, options, progress or RunProgress(), open_cache(options))
    return start_run(spec, "slug", setup, check_spec(spec))


def spoil(folder: Path) -> None:
    """Cut a checkpoint's weights short."""
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-64])


def test_every_step_is_measured_and_the_last_one_is_judged(opened: list[str]) -> None:
    write_series()
    record = run()
    assert opened == ["step1", "step2", "step3", "step4"]
    alone = {step: run(f"runs@{step}", cache=False) for step in (1, 2, 3, 4)}
    for key in ("small/repeats", "small/off"):
        taken = record.measurements[key]
        assert taken.status == "measured" and taken.reason is None
        rows = taken.tables["steps"]
        assert [row["step"] for row in rows] == [1, 2, 3, 4]
        for row in rows:
            expected = alone[row["step"]].measurements[key].metrics
            assert {name for name in expected if name in row} == set(expected)
            for name, metric in expected.items():
                for end in ("", "_stderr", "_ci_low", "_ci_high"):
                    value = getattr(metric, end[1:] or "value")
                    found = row.get(f"{name}{end}")
                    assert found == (None if value is None else pytest.approx(value, abs=1e-7))
        last = alone[4].measurements[key]
        assert taken.metrics == last.metrics and taken.heads == last.heads
        assert taken.tokens_sha256 == last.tokens_sha256
        assert "broken_steps" not in taken.tables
    judged = {check.id: check for check in record.checks}
    for check in alone[4].checks:
        if check.id != "rises":
            assert judged[check.id] == check
    assert record.status == "complete"


def test_the_record_is_about_the_last_step_under_the_name_of_the_series() -> None:
    write_series()
    model, last = run().model, run("runs@4").model
    assert (model.spec, model.slug, model.steps) == ("runs@*", "runs--", [1, 2, 3, 4])
    same = {"spec": last.spec, "slug": last.slug, "origin": last.origin, "steps": None}
    assert model.model_copy(update=same) == last
    assert RunRecord.model_validate_json(run().to_json()).model == model


def test_a_series_probe_is_given_every_step(monkeypatch: pytest.MonkeyPatch) -> None:
    folders = write_series()
    history = [{"step": 1, "loss": 3.0}, {"step": 2, "loss": 2.0}]
    (folders[3] / "trainer_state.json").write_text(json.dumps({"log_history": history}))
    record = run()
    taken = record.measurements["small/change"]
    assert taken.settings["seen"] == [1, 2, 3, 4]
    rows = record.measurements["small/repeats"].tables["steps"]
    rise = rows[-1]["induction_max"] - rows[0]["induction_max"]
    values = {name: metric.value for name, metric in taken.metrics.items()}
    assert values == {"rise": pytest.approx(rise), "steps": 4, "recorded": 2}
    assert taken.seconds is not None
    check = next(check for check in record.checks if check.id == "rises")
    assert check.verdict == "pass" and check.value == pytest.approx(rise)


def test_a_single_model_has_no_series() -> None:
    write_series(2)
    Path("small.yaml").write_text(
        SUITE.replace("scores: repeats}", "scores: repeats}")
        .replace("  - {id: low, on: repeats, metric: induction_max, below: 0.9}\n", "")
        .replace("  - {id: whole, on: off, metric: gain, above: -9}\n", "")
        .replace("  off: {probe: ablation, heads: {from: repeats, top: 1}, null_sets: 0}\n", "")
    )
    record = run("runs@1")
    taken = record.measurements["small/change"]
    assert taken.status == "skipped"
    assert taken.reason == "needs a series of checkpoints: --icl-model=...@*"
    assert [check.verdict for check in record.checks] == ["skipped"]
    # What it reads is measured all the same, for a run on the whole series to find it.
    assert record.measurements["small/repeats"].status == "measured"
    again = run()
    assert again.measurements["small/repeats"].cached_steps == [1]


def test_a_single_model_is_measured_as_far_as_it_goes(opened: list[str]) -> None:
    write_series(2)
    verdicts = {check.id: check.verdict for check in run("runs@1").checks}
    assert verdicts == {"low": "pass", "rises": "skipped", "whole": "pass"}
    record = run("runs@1")
    assert record.measurements["small/repeats"].cached and opened == []


def test_a_second_run_opens_nothing(opened: list[str]) -> None:
    write_series()
    first = run()
    del opened[:]
    second = run()
    assert opened == []
    assert second.model == first.model
    for key, taken in first.measurements.items():
        again = second.measurements[key]
        assert again.metrics == taken.metrics and again.tables == taken.tables
    assert all(taken.cached for taken in second.measurements.values())
    assert not first.measurements["small/repeats"].cached


def test_a_series_and_its_checkpoints_share_what_was_measured(opened: list[str]) -> None:
    write_series()
    run("runs@2")
    run("runs@1,3")
    assert opened == ["step1", "step3"]
    run()
    assert opened[2:] == ["step4"]
    assert run("runs@4").measurements["small/repeats"].cached


def test_a_new_checkpoint_costs_itself_alone(opened: list[str]) -> None:
    write_series()
    run()
    checkpoints.write_llama(Path("runs/step5"), seed=5)
    del opened[:]
    assert run().model.steps == [1, 2, 3, 4, 5]
    assert opened == ["step5"]


def test_all_that_is_wanted_of_a_step_is_measured_before_the_next_is_opened(
    opened: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    write_series(3)
    order: list[Any] = []
    original = ModelRun.measure

    def note(self: ModelRun, key: str) -> Any:
        order.append((self.spec.revision, key))
        return original(self, key)

    monkeypatch.setattr(ModelRun, "measure", note)
    make_run().check("small", "low")
    steps = [step for step, _ in order]
    assert steps == sorted(steps) and len(set(steps)) == 3
    assert {key for _, key in order} == {"small/repeats", "small/off"}


def test_only_what_the_selected_checks_need_is_measured(opened: list[str]) -> None:
    write_series(2)
    series = make_run()
    series.expect({("small", "low")})
    series.check("small", "low")
    assert set(series.results.measurements) == {"small/repeats"}
    series.check("small", "whole")
    assert series.results.measurements["small/off"].tables["steps"][1]["step"] == 2
    series.check("small", "rises")
    assert series.results.measurements["small/change"].status == "measured"


def test_progress_says_which_step_it_is() -> None:
    write_series(2)
    said: list[tuple[int | None, int, int, str | None]] = []

    class Display:
        wait, redraws = 0.0, True

        def show(self, standing: ProgressState) -> None:
            place = (standing.step, standing.step_place, standing.steps)
            said.append((*place, standing.task))

        def clear(self) -> None:
            pass

    series = make_run(progress=RunProgress(["slug"], Display()))
    series.run()
    heads = "attention of every head"
    assert [one for one in said if one[3] in ("opening runs@step1", heads)][:2] == [
        (1, 1, 2, "opening runs@step1"),
        (1, 1, 2, heads),
    ]
    assert (2, 2, 2, heads) in said
    assert said[-1] == (None, 0, 0, "looking at it all")


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


def test_what_a_series_probe_found_is_kept_until_what_it_read_changes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    import series_probes

    calls: list[tuple[int, ...]] = []
    original = series_probes.measure_series

    def count(series: Any, *rest: Any) -> Any:
        calls.append(series.steps)
        return original(series, *rest)

    monkeypatch.setattr(series_probes, "measure_series", count)
    folders = write_series(3)
    first, second = run(), run()
    assert calls == [(1, 2, 3)]
    key = "small/change"
    assert second.measurements[key].cached and not first.measurements[key].cached
    assert second.measurements[key].metrics == first.measurements[key].metrics
    (folders[2] / "trainer_state.json").write_text('{"log_history": [{"step": 1, "loss": 2.0}]}')
    assert run().measurements[key].metrics["recorded"].value == 1
    checkpoints.write_llama(Path("runs/step4"), seed=4)
    run()
    assert calls == [(1, 2, 3), (1, 2, 3), (1, 2, 3, 4)]
    run(cache=False)
    assert len(calls) == 4


def test_a_hubs_revisions_are_measured_and_kept(
    opened: list[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    folders = write_series(3)
    repo = Repo({f"step{step}": folder for step, folder in enumerate(folders, start=1)})
    with HubServer({"org/run": repo}) as server:
        use_hub(monkeypatch, server.endpoint, tmp_path / "hub")
        record = run("org/run@*")
        assert opened == ["step1", "step2", "step3"]
        assert (record.model.spec, record.model.steps) == ("org/run@*", [1, 2, 3])
        assert record.model.revision == repo.commit("step3")
        again = run("org/run@*")
        assert len(opened) == 3 and again.measurements["small/repeats"].cached
        local = run()
    rows = record.measurements["small/repeats"].tables["steps"]
    assert rows == local.measurements["small/repeats"].tables["steps"]


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


def test_a_second_run_imports_no_torch() -> None:
    write_series(2)
    run()
    code = (
        f"import sys; sys.path.insert(0, {str(Path(__file__).parent)!r})\n"
        "from icl_bench.probes import PROBES; PROBES['toy'] = 'series_probes'\n"
        "from icl_bench import cli; cli.main(['run', 'runs@*', '--suite=./small.yaml'])\n"
        "print('torch' in sys.modules)\n"
    )
    package = str(Path(icl_bench.__file__).parents[1])
    known = os.pathsep.join(filter(None, [package, os.environ.get("PYTHONPATH", "")]))
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": known},
        capture_output=True,
        text=True,
    )
    assert done.stdout.splitlines()[-1] == "False", done.stdout + done.stderr


def test_a_test_is_lent_the_last_checkpoint_that_opens() -> None:
    folders = write_series(3)
    spoil(folders[2])
    series = make_run()
    model = series.open_for_caller()
    assert model.fingerprint == load_model("runs@2").fingerprint
    with torch.no_grad():
        model.model.lm_head.weight.zero_()
    assert series.open_for_caller() is model
    record = series.run()
    assert record.model.steps == [1, 2]
    assert record.checks == run(cache=False).checks


def test_a_built_in_models_training_is_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    from icl_bench.reference.handwired import handwired
    from icl_bench.reference.tokenizer import build_tokenizer

    def load(name: str, step: int | None = None) -> Any:
        model = handwired(shift=1)
        return model, build_tokenizer(model.config.max_position_embeddings)

    monkeypatch.setattr(reference, "series_steps", lambda name: (1, 5, 9), raising=False)
    monkeypatch.setattr(
        reference, "training_losses", lambda name: {1: 3.0, 2: 2.0, 3: 1.0}, raising=False
    )
    monkeypatch.setattr(reference, "load", load)
    record = run("builtin:handwired@*", cache=False)
    assert (record.model.spec, record.model.steps) == ("builtin:handwired@*", [1, 5, 9])
    metrics = record.measurements["small/change"].metrics
    assert (metrics["rise"].value, metrics["recorded"].value) == (0, 3)


def test_one_model_is_needed_to_open_one() -> None:
    write_series(2)
    with pytest.raises(SpecError, match=r"'@\*' names several checkpoints, and one model is need"):
        load_model("runs@*")
    assert load_model("runs@2").spec == "runs@2"


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
