"""A series in a pytest run: one model in ids and reports, its steps a table."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import checkpoints
import pytest
from conftest import HERE, Stage
from small_series import SUITE, spoil, write_series

import icl_bench
from icl_bench.models.opening.streaming import CheckpointStream
from icl_bench.probes import PROBES

SERIES = "--icl-model=runs@*"


@pytest.fixture
def series_stage(real_stage: Stage, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Stage:
    """A folder with a series of checkpoints, and the suite `small.yaml`."""
    monkeypatch.chdir(real_stage.path)
    monkeypatch.setitem(PROBES, "toy", "series_probes")
    monkeypatch.setenv("PYTEST_PLUGINS", "series_probes")
    known = [str(HERE), os.environ.get("PYTHONPATH", "")]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, known)))
    real_stage.write("small.yaml", SUITE)
    write_series(3)
    return real_stage


def test_a_series_is_one_model(series_stage: Stage) -> None:
    result = series_stage.run(SERIES, "small.yaml", "-v")
    assert result.ret == 0
    result.assert_outcomes(passed=3)
    result.stdout.fnmatch_lines(
        [
            "icl_bench: model runs-- (3 checkpoints, steps 1 to 3); suite small",
            "small.yaml::low[[]runs--[]] PASSED*",
            "small.yaml::rises[[]runs--[]] PASSED*",
            "small.yaml::whole[[]runs--[]] PASSED*",
            "runs@[*] — LlamaForCausalLM, *",
            "Over 3 checkpoints, steps 1 to 3",
            "small/repeats * induction_max *",
            "*results.json, report.md, checks.csv, heads.csv, badge.json, steps.csv*",
        ]
    )
    record = series_stage.record("runs--")
    assert (record.model.spec, record.model.steps) == ("runs@*", [1, 2, 3])
    report = (series_stage.path / "reports/runs--/report.md").read_text()
    assert "A series of 3 checkpoints, steps 1 to 3." in report
    assert "## Over the training run" in report and "### Step by step: small/repeats" in report
    lines = (series_stage.path / "reports/runs--/steps.csv").read_text().splitlines()
    assert lines[0] == "model,suite,measurement,step,metric,value,stderr,ci_low,ci_high"
    assert any(line.startswith("runs@*,small,repeats,2,induction_max,0") for line in lines)


def test_under_xdist_a_series_stays_on_one_worker(series_stage: Stage) -> None:
    pytest.importorskip("xdist")
    models = (SERIES, "--icl-model=runs@3")
    result = series_stage.run(*models, "small.yaml", "-n", "2", "-v")
    result.assert_outcomes(passed=5, skipped=1)
    series = series_stage.record("runs--")
    assert series.model.steps == [1, 2, 3]
    assert series_stage.record("runs-3").model.steps is None
    assert series.measurements["small/change"].metrics["steps"].value == 3


def test_a_check_that_fails_on_a_series_says_how_to_run_it_alone(series_stage: Stage) -> None:
    series_stage.write("small.yaml", SUITE.replace("above: -1", "above: 1"))
    result = series_stage.run(SERIES, "small.yaml")
    assert result.ret == 1
    result.stdout.fnmatch_lines(
        [
            "fail: required > 1, measured *",
            "  run alone: pytest '--icl-model=runs@[*]' small.yaml::rises",
        ]
    )
    result = series_stage.run(SERIES, "small.yaml::rises[runs--]")
    result.assert_outcomes(failed=1)
    assert series_stage.verdicts("runs--", "results.partial.json")["low"] == "skipped"


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("runs@1,7", "*model 'runs@1,7': folder 'runs' has no checkpoint '7'; nearest: step1, *"),
        ("empty@*", "*model 'empty@[*]': folder 'empty' holds no checkpoints: looked for *"),
        ("bad@*", "*model 'bad@[*]': fewer than two of its 2 checkpoints can be read: *"),
        ("small.yaml@*", "*model 'small.yaml@[*]': 'small.yaml' is a local path*"),
    ],
)
def test_a_series_that_is_none_ends_in_exit_code_4(
    series_stage: Stage, spec: str, message: str
) -> None:
    (series_stage.path / "empty").mkdir()
    for step in (1, 2):
        checkpoints.write_llama(Path(f"bad/step{step}"))
    spoil(Path("bad/step2"))
    result = series_stage.run(f"--icl-model={spec}", "small.yaml")
    assert result.ret == 4
    result.stderr.fnmatch_lines([message])
    result.stderr.no_fnmatch_line("*Traceback*")


def test_a_bad_checkpoint_is_in_the_report_and_the_rest_passes(series_stage: Stage) -> None:
    spoil(series_stage.path / "runs" / "step2")
    result = series_stage.run(SERIES, "small.yaml")
    assert result.ret == 0
    result.stdout.fnmatch_lines(
        ["*2 checkpoints, steps 1 to 3*", "Not measured: step 2: *cut short*"]
    )
    report = (series_stage.path / "reports/runs--/report.md").read_text()
    assert "Not measured, step 2: model.safetensors is cut short" in report


def test_an_interruption_leaves_the_steps_so_far_and_the_next_run_goes_on(
    series_stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[str] = []
    original = CheckpointStream.open

    def interrupt(stream: CheckpointStream, spec: object, *rest: object) -> object:
        opened.append(spec.revision)  # type: ignore[attr-defined]
        if opened == ["step1", "step2", "step3"]:
            raise KeyboardInterrupt
        return original(stream, spec, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(CheckpointStream, "open", interrupt)
    result = series_stage.run(SERIES, "small.yaml")
    assert result.ret == 2
    result.stdout.fnmatch_lines(["*interrupted run*", "Over 2 checkpoints, steps 1 to 2"])
    record = series_stage.record("runs--")
    assert record.status == "interrupted" and record.model.steps == [1, 2]
    assert [row["step"] for row in record.measurements["small/repeats"].tables["steps"]] == [1, 2]
    assert (series_stage.path / "reports/runs--/report.md").exists()
    result = series_stage.run(SERIES, "small.yaml")
    assert result.ret == 0
    assert opened[3:] == ["step3"]
    assert series_stage.record("runs--").status == "complete"


def test_the_fixture_gives_the_last_checkpoint(series_stage: Stage) -> None:
    series_stage.write(
        "test_it.py",
        "import icl_bench\n"
        "def test_it(icl_model):\n"
        "    last = icl_bench.load_model('runs@3')\n"
        "    assert icl_model.fingerprint == last.fingerprint\n",
    )
    result = series_stage.run(SERIES, "test_it.py", "small.yaml")
    result.assert_outcomes(passed=4)
    result.stdout.no_fnmatch_line("*Traceback*")


def test_a_series_and_a_single_model_side_by_side(series_stage: Stage) -> None:
    result = series_stage.run(SERIES, "--icl-model=builtin:handwired", "small.yaml")
    assert result.ret == 1  # it is no random Llama
    record = series_stage.record("builtin-handwired")
    verdicts = {check.id: (check.verdict, check.reason) for check in record.checks}
    needed = "needs a series of checkpoints: --icl-model=...@*"
    assert verdicts["rises"] == ("skipped", needed)
    assert series_stage.record("runs--").model.steps == [1, 2, 3]


def test_the_command_runs_a_series_too(series_stage: Stage) -> None:
    code = (
        "import series_probes, sys; series_probes.pytest_configure()\n"
        "from icl_bench import cli; sys.exit(cli.main(sys.argv[1:]))\n"
    )
    package = str(Path(icl_bench.__file__).parents[1])
    known = os.pathsep.join([package, os.environ["PYTHONPATH"]])
    command = [sys.executable, "-c", code, "run", "runs@*", "--suite=./small.yaml"]
    environment = {**os.environ, "PYTHONPATH": known, "PYTHONIOENCODING": "utf-8"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    assert "Over 3 checkpoints, steps 1 to 3" in done.stdout
    assert series_stage.record("runs--").model.steps == [1, 2, 3]
    command = [sys.executable, "-m", "icl_bench.cli", "sweep", "runs@*"]
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 4 and "one model is expected here: give '@STEP'" in done.stderr


def test_a_suite_for_series_decides_nothing_on_one_checkpoint(real_stage: Stage) -> None:
    one = "--icl-model=builtin:induction-2l@700"
    result = real_stage.run(one, "--icl-suite=phase-change", "-k", "induction-forms")
    assert result.ret == 1
    result.stdout.fnmatch_lines(["no check was decided: 1 skipped (needs a series of checkpoints*"])
