"""A callable's module is looked for, and only its parent packages are run."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from icl_bench.errors import SpecError
from icl_bench.models.sources.checking import check_spec
from icl_bench.models.sources.parsing import parse_spec


@pytest.fixture(autouse=True)
def _fresh_modules(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    # Whatever the test imports is forgotten again.
    monkeypatch.setattr(sys, "modules", dict(sys.modules))


def refusal(text: str) -> str:
    with pytest.raises(SpecError) as caught:
        check_spec(parse_spec(text))
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_module_in_the_working_directory_is_found_without_running_it(tmp_path: Path) -> None:
    (tmp_path / "spec_models.py").write_text("raise AssertionError('was run')\ndef make(): ...")
    before = list(sys.path)
    check_spec(parse_spec("spec_models:make"))
    assert sys.path == before


def test_a_module_in_a_package_is_found(tmp_path: Path) -> None:
    (tmp_path / "spec_package").mkdir()
    text = "raise AssertionError('was run')\ndef make(): ..."
    (tmp_path / "spec_package" / "inner.py").write_text(text)
    check_spec(parse_spec("spec_package.inner:make"))


def test_an_installed_module_is_found() -> None:
    check_spec(parse_spec("json:loads"))


@pytest.mark.parametrize("text", ["no_such_module:f", "no_such.module:f", "json.nothing:f"])
def test_a_missing_module_is_refused(text: str) -> None:
    assert f"there is no module {text.partition(':')[0]!r}" in refusal(text)


def test_a_colon_in_place_of_an_at_sign_is_explained() -> None:
    assert "a revision of a hub id is written 'gpt2_x@main'" in refusal("gpt2_x:main")


def test_a_file_name_in_place_of_a_module_is_explained(tmp_path: Path) -> None:
    (tmp_path / "spec_models.py").write_text("")
    assert "did you mean 'spec_models:make'?" in refusal("spec_models.py:make")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("1 / 0", "ZeroDivisionError: division by zero"),
        ("import no_such_dependency", "No module named 'no_such_dependency'"),
        ("raise SystemExit(3)", "SystemExit: 3"),
    ],
)
def test_a_package_that_cannot_be_imported_is_refused_with_file_and_line(
    tmp_path: Path, content: str, message: str
) -> None:
    (tmp_path / "spec_broken").mkdir()
    (tmp_path / "spec_broken" / "__init__.py").write_text(f"\n{content}\n")
    text = refusal("spec_broken.models:make")
    assert f"importing the package of 'spec_broken.models' failed: {message}" in text.replace(
        "ModuleNotFoundError: ", ""
    )
    assert f"{Path('spec_broken') / '__init__.py'}:2" in text


def test_a_name_that_the_module_does_not_have_is_refused_with_its_own_functions(
    tmp_path: Path,
) -> None:
    text = "import os\nfrom json import loads as make_loads\n\ndef make_model(): ...\n\n"
    (tmp_path / "mine.py").write_text(text + "made = make_model\nraise RuntimeError\n")
    assert "'mine' has no 'mak_model'; did you mean 'make_model'?" in refusal("mine:mak_model")
    for name in ("make_model", "made", "make_loads", "os.path"):
        check_spec(parse_spec(f"mine:{name}"))


@pytest.mark.parametrize(
    "line", ["from json import *", "def __getattr__(name): ...", "globals()['x'] = 1"]
)
def test_names_that_only_running_the_module_tells_are_not_guessed(
    tmp_path: Path, line: str
) -> None:
    (tmp_path / "mine.py").write_text(f"{line}\n")
    check_spec(parse_spec("mine:anything"))
