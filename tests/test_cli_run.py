"""The command `run`, beginning to end."""

from __future__ import annotations

import importlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterator

import pytest
from cli_calls import COMMAND, call
from conftest import MINE, Stage
from test_render_records import make_record
from waiting import HANG, finish, start, wait_until

from icl_bench.cli import main
from icl_bench.records.parts import SuiteRef


@pytest.fixture
def stubbed(stage: Stage) -> Iterator[Stage]:
    """The stage with the stub known to this process."""
    importlib.import_module("stub").install()
    yield stage
    # pytest warns of plugins that are loaded already when it loads them itself.
    del sys.modules["stub"]


def test_run_is_compared_with_a_baseline_and_saved_as_one(
    stubbed: Stage, capsys: pytest.CaptureFixture[str]
) -> None:
    run = ["run", "--suite=mine.yaml", "--no-cache"]
    assert call(*run, "stub:good", "--save-baseline=base.json") == 0
    assert "saved as a baseline: base.json" in capsys.readouterr().out
    assert call(*run, "stub:fine", "--baseline=base.json", "--save-baseline=new.json") == 0
    assert "no regression" in capsys.readouterr().out
    assert (stubbed.path / "reports" / "stub-fine" / "comparison.md").exists()
    assert call(*run, "stub:bad", "--baseline=base.json", "--save-baseline=worse.json") == 1
    out = capsys.readouterr().out
    assert "REGRESSION" in out and "not saved as a baseline, because it is worse" in out
    assert (stubbed.path / "new.json").exists() and not (stubbed.path / "worse.json").exists()
    # Every check passes, and yet something is worse: the exit code says so.
    easy = MINE.replace("level, above: 0.5", "level, above: -1")
    stubbed.write("mine.yaml", easy)
    assert call(*run, "stub:good", "--save-baseline=base.json") == 0
    assert call(*run, "stub:bad", "--baseline=base.json") == 1
    assert call(*run, "stub:bad", "--baseline=base.json", "--limit=*e*=2") == 0
    assert call(*run, "stub:bad", "--baseline=base.json", "--limit=level=2") == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--limit=level=1"], "--limit needs --baseline=FILE"),
        (["stub:bad", "--save-baseline=x"], "--save-baseline is for exactly one model"),
        (["--baseline=nowhere.json"], "nowhere.json: cannot be read"),
        (["--baseline=old.json", "--limit=levle=1"], "'levle' names no metric of the baseline; "),
        (["--save-baseline=."], "--save-baseline=.: is a folder"),
    ],
)
def test_mistakes_about_baselines_come_before_measuring(
    stubbed: Stage, arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    make_record(suites=[SuiteRef(name="mine", sha256="0")]).write(stubbed.path / "old.json")
    assert call("run", "stub:good", "--suite=mine.yaml", *arguments) == 4
    assert message in capsys.readouterr().err and stubbed.log() == []


@pytest.mark.skipif(os.name != "posix", reason="needs a terminal")
def test_run_shows_progress_on_a_terminal_only(
    stubbed: Stage, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    text = MINE.replace("{probe: stub}", "{probe: stub, act: report}")
    stubbed.write("mine.yaml", text)
    with pytest.warns(UserWarning, match="a warning of the model's"):
        assert call("run", "stub:good", "--suite=mine.yaml") == 0
    assert "1/2 first" not in capsys.readouterr().err
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    with pytest.warns(UserWarning, match="a warning of the model's"):
        assert call("run", "stub:good", "--suite=mine.yaml") == 0
    out, err = capsys.readouterr()
    assert "1/2 first" in err and "2/2 second" in err and err.endswith("\033[2K")
    assert "1/2" not in out


def test_run_measures_and_writes_reports(
    stubbed: Stage, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call("run", "stub:good", "--suite=mine.yaml") == 0
    out, err = capsys.readouterr()
    assert "3 passed" in out and "Reports in reports" in out
    assert err == "icl_bench: model 1 of 1, stub-good: 2 measurements\n"
    assert stubbed.record("stub-good").status == "complete"


def test_run_fails_when_a_check_does(stubbed: Stage, capsys: pytest.CaptureFixture[str]) -> None:
    assert call("run", "stub:good", "stub:bad", "--suite=mine.yaml", "--report-dir=here") == 1
    assert "FAIL" in capsys.readouterr().out
    folders = {path.name for path in (stubbed.path / "here").iterdir() if path.is_dir()}
    assert folders == {"stub-good", "stub-bad"}
    assert stubbed.log("held") == []


def test_run_fails_when_no_check_is_decided(
    stubbed: Stage, capsys: pytest.CaptureFixture[str]
) -> None:
    stubbed.write("mine.yaml", MINE.replace("metric:", "models: [else*], metric:"))
    assert main(["run", "stub:good", "--suite=mine.yaml"]) == 1
    assert "icl-bench: no check was decided: 3 skipped (applies" in capsys.readouterr().err
    assert set(stubbed.verdicts("stub-good").values()) == {"skipped"}


def test_run_calls_a_model_as_the_user_does(
    stubbed: Stage, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["run", "it=stub:good", "--suite=mine.yaml"]) == 0
    assert main(["run", "it=stub:fine", "--suite=mine.yaml"]) == 0
    assert "'it' is also another model's name, in this run or in reports" in capsys.readouterr().err
    assert stubbed.record("it").model.spec == "stub:good"
    assert len(list((stubbed.path / "reports").glob("it-*/results.json"))) == 1


def test_a_leaderboard_that_cannot_be_written_costs_nothing_else(
    stubbed: Stage, capsys: pytest.CaptureFixture[str]
) -> None:
    stubbed.write("reports/leaderboard.md/x", "")
    assert main(["run", "stub:good", "stub:fine", "--suite=mine.yaml"]) == 1
    told = capsys.readouterr()
    assert "the leaderboard cannot be written" in told.err and "1 PASS" in told.out


def test_run_goes_on_after_a_model_that_cannot_be_opened(
    stubbed: Stage, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call("run", "stub:broken", "stub:good", "--suite=mine.yaml") == 1
    assert "calling 'broken' failed: no such luck" in " ".join(capsys.readouterr().out.split())
    assert set(stubbed.verdicts("stub-good").values()) == {"pass"}


def test_run_counts_doubt_as_asked(stubbed: Stage) -> None:
    stubbed.write("mine.yaml", MINE.replace("metric: level, above", "metric: unsure, above"))
    assert call("run", "stub:good", "--suite=mine.yaml") == 1
    assert call("run", "stub:good", "--suite=mine.yaml", "--inconclusive=warn") == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["builtin:handwire"], "did you mean 'handwired'?"),
        (["stub:good", "--suite=cor"], "did you mean 'core'?"),
        (["stub:good", "--suite=mine.yaml", "--seed=y"], "--seed=y: must be a whole number"),
        (["stub:good", "--suite=mine.yaml", "--seed=-1"], "must not be negative"),
        (["stub:good", "--suite=mine.yaml", "--batch-size=0"], "must be at least 1"),
        (["stub:good", "--device=gpu"], "unknown device 'gpu'"),
        (["stub:good", "--dtype=int8"], "unknown dtype 'int8'"),
        (["stub:good", "--report-dir=mine.yaml"], "--report-dir=mine.yaml: "),
    ],
)
def test_mistakes_are_one_message_and_exit_code_4(
    stubbed: Stage, arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call("run", *arguments) == 4
    out, err = capsys.readouterr()
    assert out == "" and message in err
    assert err.startswith("icl-bench: ") and err.count("\n") == 1
    assert stubbed.log() == []


def test_an_interruption_keeps_what_was_measured(
    stubbed: Stage, capsys: pytest.CaptureFixture[str]
) -> None:
    second = "{probe: stub, tag: second"
    stubbed.write("mine.yaml", MINE.replace(second, f"{second}, act: interrupt"))
    assert call("run", "stub:good", "stub:bad", "--suite=mine.yaml") == 2
    told = (
        "icl-bench: interrupted: what was measured is kept; the same command continues from there"
    )
    assert told in capsys.readouterr().err
    record = stubbed.record("stub-good")
    assert record.status == "interrupted" and list(record.measurements) == ["mine/first"]
    assert not (stubbed.path / "reports" / "stub-bad").exists()


def test_an_interruption_before_anything_was_measured_writes_nothing(
    stubbed: Stage, capsys: pytest.CaptureFixture[str]
) -> None:
    stubbed.write("mine.yaml", MINE.replace("{probe: stub}", "{probe: stub, act: interrupt}"))
    assert call("run", "stub:good", "--suite=mine.yaml") == 2
    assert not (stubbed.path / "reports").exists()
    assert "Traceback" not in capsys.readouterr().err


@pytest.mark.skipif(os.name != "posix", reason="sends POSIX signals")
def test_ctrl_c_is_exit_code_2_without_a_traceback(stage: Stage) -> None:
    stage.write("mine.yaml", MINE.replace("{probe: stub}", "{probe: stub, act: wait}"))
    code = "import stub, sys; from icl_bench.cli import main; stub.install(); sys.exit(main())"
    command = [sys.executable, "-c", code, "run", "stub:good", "--suite=mine.yaml"]
    process = start(command, stage.path, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    wait_until((stage.path / "waiting").exists, process)
    process.send_signal(signal.SIGINT)
    err = finish(process)
    announced = "icl_bench: model 1 of 1, stub-good: 2 measurements\n"
    assert (process.returncode, err) == (
        2,
        f"{announced}icl-bench: interrupted: nothing was measured\n",
    )


@pytest.mark.skipif(os.name != "posix", reason="closes a pipe")
def test_a_reader_that_leaves_is_no_error() -> None:
    with subprocess.Popen(
        [*COMMAND, "schema"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout and process.stderr
        process.stdout.close()
        assert process.stderr.read() == ""
        assert process.wait(HANG) == 0


def test_a_fault_of_the_program_is_exit_code_3(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def break_down() -> None:
        raise ZeroDivisionError("planted")

    monkeypatch.setattr("icl_bench.suite.completion.json_schema", break_down)
    assert call("schema") == 3
    assert "planted" in capsys.readouterr().err


def test_run_on_a_real_model(real_stage: Stage, capsys: pytest.CaptureFixture[str]) -> None:
    assert call("run", "builtin:handwired", "--suite=tiny.yaml") == 0
    assert "IclReferenceForCausalLM" in capsys.readouterr().out
    assert set(real_stage.verdicts("builtin-handwired").values()) == {"pass"}
