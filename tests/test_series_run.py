"""A plan on a series of checkpoints: step by step, kept at once, whatever breaks on the way."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import checkpoints
import pytest
import torch
from hub_server import HubServer, Repo
from small_series import SUITE, make_run, run, spoil, write_series
from test_loading_hub import use_hub

import icl_bench
from icl_bench import reference
from icl_bench.api import load_model
from icl_bench.errors import SpecError
from icl_bench.models.opening.streaming import CheckpointStream
from icl_bench.probes import PROBES
from icl_bench.progress import ProgressState, RunProgress
from icl_bench.records.record import RunRecord
from icl_bench.running.model_run import ModelRun


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
    with pytest.raises(
        SpecError, match=r"'@\*' names several checkpoints, but one model is expected"
    ):
        load_model("runs@*")
    assert load_model("runs@2").spec == "runs@2"
