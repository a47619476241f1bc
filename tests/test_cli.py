"""The `icl-bench` command: what each of its commands prints, and its exit codes."""

from __future__ import annotations

import errno
import importlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import jsonschema
import pytest
from conftest import MINE, Stage
from test_render_records import make_record
from waiting import HANG, finish, start, wait_until

import icl_bench
from icl_bench.cli import main
from icl_bench.records.parts import SuiteRef
from icl_bench.suite import document

HERE = Path(__file__).parent
COMMAND = [sys.executable, "-m", "icl_bench.cli"]


@pytest.fixture
def stubbed(stage: Stage) -> Iterator[Stage]:
    """The stage with the stub known to this process."""
    importlib.import_module("stub").install()
    yield stage
    # pytest warns of plugins that are loaded already when it loads them itself.
    del sys.modules["stub"]


def call(*arguments: str) -> int:
    """Run the command in this process; argparse leaves by SystemExit."""
    try:
        return main(arguments)
    except SystemExit as leaving:
        assert isinstance(leaving.code, int)
        return leaving.code


def test_the_version_is_that_of_the_package() -> None:
    done = subprocess.run([*COMMAND, "--version"], capture_output=True, text=True, check=True)
    assert done.stdout == f"icl-bench {icl_bench.__version__}\n"


@pytest.mark.parametrize(
    "arguments", [["rnu"], ["run"], ["validate"], ["run", "x", "--seed=y"], ["list", "--all"]]
)
def test_a_command_line_that_cannot_be_read_is_exit_code_4(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert call(*arguments) == 4
    assert "icl-bench: " in capsys.readouterr().err


def test_without_a_command_it_shows_its_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert call() == 4
    assert "validate" in capsys.readouterr().out


def test_validate_says_what_is_in_a_suite(
    stubbed: Stage, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call("validate", "mine.yaml") == 0
    told = "mine.yaml: ok: suite 'mine', 2 measurements, 3 checks, 0 quiz items\n"
    assert capsys.readouterr() == (told, "")


def test_validate_names_the_place_of_every_mistake(
    stubbed: Stage, capsys: pytest.CaptureFixture[str]
) -> None:
    stubbed.write("bad.yaml", MINE.replace("metric: exact", "metric: exat"))
    assert call("validate", "bad.yaml", "nowhere.yaml", "mine.yaml") == 4
    out, err = capsys.readouterr()
    assert out.startswith("mine.yaml: ok")
    first, second = err.splitlines()
    assert first.startswith("bad.yaml:9:") and "'exat'" in first
    assert second == "nowhere.yaml: no such suite file"


def test_schema_is_a_json_schema_that_the_core_suite_fits(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert call("schema") == 0
    schema = json.loads(capsys.readouterr().out)
    jsonschema.Draft202012Validator.check_schema(schema)
    core = HERE.parent / "suites" / "core.yaml"
    jsonschema.validate(document.parse(core.read_text()).data, schema)


def test_list_names_suites_models_and_metrics(capsys: pytest.CaptureFixture[str]) -> None:
    assert call("list") == 0
    words = capsys.readouterr().out.split()
    assert {"core", "builtin:handwired", "induction", "induction_max", "null_p_value"} <= set(words)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["rnu"], "no command is called 'rnu'; did you mean 'run'?"),
        (["run", "x", "--sed=1"], "no option is called '--sed'; did you mean '--seed'?"),
        (["run", "x", "--seed=1", "--seed", "2"], "--seed is given twice"),
        (["run", "x", "--inconclusive=wran"], "did you mean 'warn'?"),
        (["run", "x", "--see=1"], "no option is called '--see'"),
        (["list", "suits"], "did you mean 'suites'?"),
        (["compare", "a", "b", "c"], "'c' is one argument too many"),
        (["compare", "a"], "the following arguments are required: RECORD"),
        (["run", "x", "::error::y", "--sed"], "did you mean '--seed'?"),
        (["\n::error::y"], "no command is called"),
    ],
)
def test_what_cannot_be_read_is_one_line_with_the_nearest_name(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call(*arguments) == 4
    out, err = capsys.readouterr()
    assert message in err and err.startswith("icl-bench: ") and err.count("\n") == 1
    assert " --help)" in err and out == ""


def test_models_may_stand_on_both_sides_of_an_option(stubbed: Stage) -> None:
    assert call("run", "stub:good", "--suite=mine.yaml", "stub:fine") == 0
    assert set(stubbed.verdicts("stub-fine").values()) == {"pass"}
    assert set(stubbed.verdicts("stub-good").values()) == {"pass"}
    assert call("run", "stub:good", "--suite=mine.yaml", "--sed", "1") == 4


def test_an_option_that_may_be_repeated_may_be(stubbed: Stage) -> None:
    stubbed.write("more.yaml", MINE.replace("name: mine", "name: more"))
    arguments = ["--suite=mine.yaml", "--suite=more.yaml", "--suite=mine.yaml"]
    assert call("run", "stub:good", "stub:good", *arguments) == 0
    assert [suite.name for suite in stubbed.record("stub-good").suites] == ["mine", "more"]


def test_every_command_teaches_by_two_examples_and_its_exit_codes(
    capsys: pytest.CaptureFixture[str],
) -> None:
    from icl_bench.cli import make_parser

    _, names = make_parser()
    assert {"run", "report", "compare", "list", "validate", "schema"} <= set(names)
    for name in names:
        assert call(name, "--help") == 0
        text = capsys.readouterr().out
        examples = [line for line in text.splitlines() if f"icl-bench {name}" in line]
        assert len([line for line in examples if line.startswith("  ")]) >= 2, name
        assert "exit codes:" in text and "4  wrong usage" in text
    assert call("--help") == 0
    assert "icl-bench run builtin:induction-2l" in capsys.readouterr().out


@pytest.mark.parametrize("kind", ["suites", "models", "probes", "metrics"])
def test_each_list_is_there_as_text_and_as_json(
    kind: str, capsys: pytest.CaptureFixture[str]
) -> None:
    from icl_bench.probes import PROBES, get_probe
    from icl_bench.suite import shipped_suites

    assert call("list", kind, "--json") == 0
    rows = json.loads(capsys.readouterr().out)
    expected = {
        "suites": list(shipped_suites()),
        "models": ["builtin:handwired", "builtin:induction-2l", "builtin:control-1l"],
        "probes": list(PROBES),
        "metrics": [metric for name in PROBES for metric in get_probe(name).metrics],
    }[kind]
    assert [row["name"] for row in rows] == expected
    assert call("list", kind) == 0
    words = capsys.readouterr().out.split()
    assert set(expected) <= set(words)
    assert call("list", "--json") == 0
    assert json.loads(capsys.readouterr().out).keys() >= {"suites", "models", "metrics"}


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
        (["--save-baseline=."], "--save-baseline=.: a folder"),
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
        (["stub:good", "--suite=mine.yaml", "--seed=y"], "--seed=y: a whole number is needed"),
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
    assert "icl-bench: interrupted" in capsys.readouterr().err
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
    assert (process.returncode, err) == (2, f"{announced}icl-bench: interrupted\n")


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


def test_the_reference_models_can_be_trained_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import torch

    threads = torch.get_num_threads()
    try:
        assert call("train-reference", str(tmp_path / "new"), "--steps=2") == 0
    finally:
        torch.set_num_threads(threads)
    printed = capsys.readouterr()
    assert set(json.loads(printed.out)) == {"induction-2l", "control-1l"}
    assert "step 2 of 2: loss" in printed.err
    model = icl_bench.load_model(str(tmp_path / "new" / "induction-2l"))
    assert model.heads == {0: 12, 1: 12}


def test_their_checkpoints_can_be_kept(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import torch

    threads = torch.get_num_threads()
    try:
        assert call("train-reference", str(tmp_path / "new"), "--steps=1", "--save-series") == 0
        assert json.loads(capsys.readouterr().out)["control-1l"]["checkpoints"] == [1]
        assert call("train-reference", str(tmp_path / "new"), "--steps=1", "--save-series") == 4
    finally:
        torch.set_num_threads(threads)
    assert "holds checkpoints of an earlier training (step-1" in capsys.readouterr().err
    model = icl_bench.load_model(str(tmp_path / "new" / "control-1l" / "step-1"))
    assert model.heads == {0: 12}


def test_training_for_no_step_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert call("train-reference", "--steps=0") == 4
    assert "--steps must be at least 1" in capsys.readouterr().err


def test_sweep_lists_the_heads_that_matter_and_writes_all(tmp_path, capsys):
    file = tmp_path / "heads.csv"
    arguments = ["sweep", "builtin:induction-2l", "--sequences=2", "--period=12", "--top=2"]
    assert main([*arguments, f"--csv={file}"]) == 0
    listed = [line.split()[:2] for line in capsys.readouterr().out.splitlines()[2:]]
    assert ["0", "9"] in listed and len(listed) == 2
    assert len(file.read_text().splitlines()) == 1 + 24
    assert main([*arguments, "--adaptive"]) == 0


def test_sweep_refuses_what_cannot_be_in_one_sentence(capsys):
    assert main(["sweep", "builtin:induction-2l", "--top=0"]) == 4
    assert main(["sweep", "builtin:induction-2l", "--method=median"]) == 4
    assert "unknown method 'median'" in capsys.readouterr().err
    assert main(["sweep", "builtin:induction-3l"]) == 4
    capsys.readouterr()
    for file in (".", f"{__file__}/heads.csv"):  # before the model is opened, which is not there
        assert main(["sweep", "builtin:induction-3l", f"--csv={file}"]) == 4
        assert capsys.readouterr().err.startswith(f"icl-bench: --csv={file}: ")


def test_sweep_prints_what_it_could_not_write(tmp_path, capsys, monkeypatch):
    def fill_up(source, target):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), source, None, target)

    monkeypatch.setattr(os, "replace", fill_up)
    file = tmp_path / "heads.csv"
    arguments = ["sweep", "builtin:induction-2l", "--sequences=2", "--period=12", "--top=2"]
    assert main([*arguments, f"--csv={file}"]) == 1
    out, err = capsys.readouterr()
    told = f"icl-bench: --csv={file}: cannot be written (No space left on device)"
    assert len(out.splitlines()) == 4 and err.splitlines()[-1] == told
    assert list(tmp_path.glob("*.csv*")) == [] and "Traceback" not in err
