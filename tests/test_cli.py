"""The `icl-bench` command: what each of its commands prints, and its exit codes."""

from __future__ import annotations

import errno
import importlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import jsonschema
import pytest
from cli_calls import COMMAND, call
from conftest import MINE, Stage

import icl_bench
from icl_bench.cli import main
from icl_bench.suite import document

HERE = Path(__file__).parent


@pytest.fixture
def stubbed(stage: Stage) -> Iterator[Stage]:
    """The stage with the stub known to this process."""
    importlib.import_module("stub").install()
    yield stage
    # pytest warns of plugins that are loaded already when it loads them itself.
    del sys.modules["stub"]


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
