"""`icl-bench init`, `show` and `validate`: how a suite begins, what it says, what is wrong."""

from __future__ import annotations

from pathlib import Path

import pytest

from icl_bench.cli import main
from icl_bench.suite import load_suite, shipped_suites


@pytest.fixture(autouse=True)
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_a_suite_is_begun_with_and_passes_validation(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["init"]) == main(["init", "Two words.yml"]) == 0
    assert "icl-bench validate icl_suite.yaml" in capsys.readouterr().out
    assert main(["validate", "--strict", "icl_suite.yaml", "Two words.yml"]) == 0
    first, second = load_suite("icl_suite.yaml"), load_suite("Two words.yml")
    assert (first.name, second.name) == ("mine", "two-words") and not first.warnings
    assert first.checks and first.quiz
    text = Path("icl_suite.yaml").read_text()
    assert text.count("#") > 10
    # What is commented out is right too.
    wanted = [line[2:] for line in text.splitlines() if line.startswith(("# extends", "# remove"))]
    Path("child.yaml").write_text("\n".join(["icl_suite: 1", "name: child", *wanted]))
    assert load_suite("child.yaml").extends[0].name == "core"


@pytest.mark.parametrize("name", ["there.yaml", ".", "no/folder/x.yaml", "a\0b"])
def test_what_cannot_be_begun_is_one_message(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    Path("there.yaml").write_text("mine")
    assert main(["init", name]) == 4
    out, err = capsys.readouterr()
    assert not out and err.startswith("icl-bench: ") and err.count("\n") == 1
    assert Path("there.yaml").read_text() == "mine"


def test_a_suite_is_shown_as_written_and_as_run(capsys: pytest.CaptureFixture[str]) -> None:
    Path("mine.yaml").write_text("icl_suite: 1\nname: mine  # my own\nextends: core\n")
    assert main(["show", "core"]) == 0
    assert capsys.readouterr().out == shipped_suites()["core"].read_text()
    assert main(["show", "mine.yaml"]) == 0
    assert capsys.readouterr().out == Path("mine.yaml").read_text()
    assert main(["show", "mine.yaml", "--resolved"]) == 0
    Path("whole.yaml").write_text(capsys.readouterr().out)
    assert load_suite("whole.yaml").sha256 == load_suite("mine.yaml").sha256
    for name, hint in (("cor", "'core'"), ("mne.yaml", "'mine.yaml'")):
        assert main(["show", name]) == main(["show", name, "--resolved"]) == 4
        assert f"did you mean {hint}?" in capsys.readouterr().err


def test_what_is_shown_does_not_act_on_a_terminal_or_ci(
    capsys: pytest.CaptureFixture[str],
) -> None:
    Path("evil.yaml").write_text("a: \033[31m\n::error::x\n\tb\n")
    assert main(["show", "evil.yaml"]) == 0
    assert capsys.readouterr().out == "a: [31m\n·:error::x\n\tb\n"


def test_a_suite_is_validated_by_name_and_by_path(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["validate", "core"]) == 0
    assert capsys.readouterr().out.startswith("core: ok: suite 'core', 7 measurements, ")
    assert main(["validate", "cor"]) == 4
    assert "did you mean 'core'?" in capsys.readouterr().err


def test_a_suite_that_judges_nothing_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    Path("mine.yaml").write_text("icl_suite: 1\nname: x\nmeasure: {r: {probe: induction}}\n")
    assert main(["validate", "--strict", "mine.yaml"]) == 0
    assert capsys.readouterr().out.endswith("0 checks, 0 quiz items; it only measures\n")


def test_other_yaml_is_passed_over_where_that_is_asked(capsys: pytest.CaptureFixture[str]) -> None:
    Path("ci.yaml").write_text("on: push\n")
    Path("late.yaml").write_text("name: late\nicl_suite: 1\n")
    main(["init", "mine.yaml"])
    capsys.readouterr()
    assert main(["validate", "ci.yaml", "mine.yaml"]) == 4
    capsys.readouterr()
    assert main(["validate", "--only-suites", "ci.yaml", "mine.yaml"]) == 0
    assert capsys.readouterr().out.splitlines()[1:] == ["1 passed over: no suites"]
    # A suite whose first key stands elsewhere is meant as one, and a file that is not there.
    assert main(["validate", "--only-suites", "late.yaml"]) == 4
    assert "icl_suite must be the first key" in capsys.readouterr().err
    assert main(["validate", "--only-suites", "gone.yaml"]) == 4


def test_a_warning_is_an_error_where_that_is_asked(capsys: pytest.CaptureFixture[str]) -> None:
    Path("mine.yaml").write_text(
        "icl_suite: 1\nname: mine\nquiz: [{id: q, prompt: P, choices: [a, b], answer: b}]\n"
    )
    assert main(["validate", "mine.yaml"]) == 0
    assert main(["validate", "--strict", "mine.yaml"]) == 1
    assert capsys.readouterr().err.count("(warning)") == 2
    assert main(["validate", "--strict", "mine.yaml", "cor"]) == 4
