"""A choice that meets its prompt with too little or too much whitespace is warned of."""

from __future__ import annotations

from pathlib import Path

import pytest
from conftest import Stage

from icl_bench.cli import main
from icl_bench.suite import load_suite, shipped_suites

SUITE = """\
icl_suite: 1
name: seams
quiz:
  - {{id: q, prompt: {prompt}, choices: [{one}, {two}], answer: {one}}}
"""


def write(path: Path, prompt: str, one: str, two: str) -> Path:
    path.write_text(SUITE.format(prompt=f'"{prompt}"', one=f'"{one}"', two=f'"{two}"'))
    return path


@pytest.mark.parametrize(
    ("prompt", "one", "two", "says", "named"),
    [
        ("the fox", "jumps", "runs", "no whitespace stands between", "jumps"),
        ("the fox", " jumps", "runs", "no whitespace stands between", "runs"),
        ("the fox:", "jumps", " runs", "no whitespace stands between", "jumps"),
        ("the fox ", " jumps", "runs", "begins with whitespace and its prompt ends", " jumps"),
        ("the fox\\n", "jumps", " runs", "begins with whitespace and its prompt ends", " runs"),
    ],
)
def test_a_doubtful_seam_is_named_with_line_and_column(
    tmp_path: Path, prompt: str, one: str, two: str, says: str, named: str
) -> None:
    file = write(tmp_path / "s.yaml", prompt, one, two)
    (warning,) = load_suite(file).warnings
    assert says in warning
    line = file.read_text().splitlines()[3]
    column = line.index(f'"{named}"', line.index("choices")) + 1
    assert warning.split(": ")[0].endswith(f"s.yaml:4:{column}")


@pytest.mark.parametrize(
    ("prompt", "one", "two"),
    [
        ("the fox", " jumps", " runs"),
        ("the fox ", "jumps", "runs"),
        ("Q: the fox?\\nA:\\n", "jumps", "runs"),
        ("the fox", ".", ","),
        ("he said (", "yes", "no"),
        ("狐が", "走る", "跳ぶ"),
    ],
)
def test_other_seams_are_not_warned_of(tmp_path: Path, prompt: str, one: str, two: str) -> None:
    assert load_suite(write(tmp_path / "s.yaml", prompt, one, two)).warnings == ()


def test_shipped_suites_have_no_such_seam() -> None:
    assert [w for path in shipped_suites().values() for w in load_suite(path).warnings] == []


def test_validate_warns_and_ends_well(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = write(tmp_path / "s.yaml", "the fox", "jumps", "runs")
    assert main(["validate", str(file)]) == 0
    told = capsys.readouterr()
    assert "s.yaml:4:42: no whitespace" in told.err and "ok: suite 'seams'" in told.out


def test_pytest_shows_the_warning(stage: Stage) -> None:
    write(stage.pytester.path / "seams.yaml", "the fox", "jumps", "runs")
    result = stage.run("--icl-model=stub:good", "--icl-suite=seams.yaml")
    result.stdout.fnmatch_lines(["*SuiteWarning: *seams.yaml:4:42: no whitespace stands*"])
