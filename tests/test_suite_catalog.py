"""Shipped suites are found by name, other suites by path, and YAML that is no suite is left."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from icl_bench.errors import SuiteError
from icl_bench.suite import catalog, find_suite, is_suite, shipped_suites
from icl_bench.suite.loading import load_suite

TEXT = """\
icl_suite: 1
name: {name}
quiz: [{{id: q, prompt: P, choices: [" a", " b"], answer: " b"}}]
"""


@pytest.fixture
def shipped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a folder that stands for the shipped suites: core and olsson, and a stranger."""
    folder = tmp_path / "shipped"
    folder.mkdir()
    for name in ("olsson", "core"):
        (folder / f"{name}.yaml").write_text(TEXT.format(name=name))
    (folder / "stranger.yaml").write_text("a: 1\n")
    monkeypatch.setattr(catalog, "shipped_folder", lambda: folder)
    monkeypatch.chdir(tmp_path)
    return folder


@pytest.mark.parametrize(
    "text",
    [
        "icl_suite: 1\n",
        "icl_suite:\n",
        "icl_suite:",
        "\ufefficl_suite: 1\n",
        "\n\n# a comment\n  # another\n---\nicl_suite: 1\n",
        "%YAML 1.2\n---\nicl_suite: 1\n",
        "--- # begins\nicl_suite: 1\n",
        "\r\nicl_suite: 1\r\n",
        "'icl_suite': 1\n",
        '{"icl_suite": 1, "name": "x"}',
        '{\n  "icl_suite": 1\n}',
        "--- {icl_suite: 1}",
        "icl_suite : 1",
        "icl_suite: 99\nwrong: [",
    ],
)
def test_a_file_whose_first_key_is_icl_suite_is_a_suite(tmp_path: Path, text: str) -> None:
    path = tmp_path / "x.yaml"
    path.write_bytes(text.encode())
    assert is_suite(path)
    assert is_suite(str(path))


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"\n\n",
        b"# icl_suite: 1\n",
        b"name: x\nicl_suite: 1\n",
        b"icl_suite2: 1\n",
        b"icl_suite\n",
        b"icl_suite:1\n",
        b"- icl_suite: 1\n",
        b"'icl_suite\": 1\n",
        b"\xff\xfei\x00c\x00",
        bytes(range(256)) * 100,
        b"# " + b"x" * 2 * catalog.HEAD_BYTES + b"\nicl_suite: 1\n",
    ],
)
def test_other_files_are_no_suites(tmp_path: Path, raw: bytes) -> None:
    path = tmp_path / "x.yaml"
    path.write_bytes(raw)
    assert not is_suite(path)


def test_what_cannot_be_read_is_no_suite(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert not is_suite(tmp_path)
    assert not is_suite(tmp_path / "missing.yaml")
    assert not is_suite("a\0b.yaml")
    path = tmp_path / "x.yaml"
    path.write_text("icl_suite: 1\n")

    def refuse(*_: object) -> None:
        raise PermissionError

    monkeypatch.setattr("builtins.open", refuse)
    assert not is_suite(path)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
def test_a_pipe_is_no_suite_and_does_not_block(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.yaml")
    assert not is_suite(tmp_path / "pipe.yaml")


def test_shipped_suites_are_listed_by_name_and_strangers_are_not(shipped: Path) -> None:
    assert shipped_suites() == {
        "core": shipped / "core.yaml",
        "olsson": shipped / "olsson.yaml",
    }
    assert list(shipped_suites()) == ["core", "olsson"]


def test_a_suite_is_found_by_name_and_by_path(shipped: Path, tmp_path: Path) -> None:
    assert find_suite("core").path == shipped / "core.yaml"
    assert find_suite("core").shipped
    mine = tmp_path / "mine.yaml"
    mine.write_text(TEXT.format(name="mine"))
    for given in ("mine.yaml", "./mine.yaml", str(mine), mine):
        assert find_suite(given).name == "mine"
    assert not find_suite(mine).shipped


def test_a_bare_name_is_the_shipped_suite_and_a_path_the_file(
    shipped: Path, tmp_path: Path
) -> None:
    (tmp_path / "core").write_text(TEXT.format(name="local"))
    assert find_suite("core").name == "core"
    assert find_suite("./core").name == "local"


def test_the_home_folder_may_be_written_as_a_tilde(
    shipped: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "mine.yaml").write_text(TEXT.format(name="mine"))
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    assert find_suite("~/mine.yaml").name == "mine"


def test_a_name_without_its_ending_is_told_the_file(shipped: Path, tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text(TEXT.format(name="mine"))
    (tmp_path / "other.yaml").write_text("a: 1\n")
    with pytest.raises(SuiteError, match=r"called 'mine'; did you mean 'mine\.yaml'\?"):
        find_suite("mine")
    with pytest.raises(SuiteError, match="called 'other'; valid names: core, olsson"):
        find_suite("other")
    with pytest.raises(SuiteError, match=r"mnie\.yaml: no such suite file; .* 'mine\.yaml'\?"):
        find_suite("mnie.yaml")


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("cor", "no shipped suite and no file is called 'cor'; did you mean 'core'?"),
        ("zzz", "no shipped suite and no file is called 'zzz'; valid names: core, olsson"),
        ("", "no shipped suite and no file is called ''; valid names: core, olsson"),
        ("a\0b", "no shipped suite and no file is called 'a\\x00b'; valid names: core, olsson"),
        ("core.yaml", "core.yaml: no such suite file; did you mean 'core'?"),
        ("suites/olson.yml", "suites/olson.yml: no such suite file; did you mean 'olsson'?"),
        ("folder/zzz.yaml", "folder/zzz.yaml: no such suite file"),
        (".", ".: a folder; a suite is one YAML file"),
    ],
)
def test_an_unknown_suite_is_an_error_that_names_the_nearest(
    shipped: Path, given: str, message: str
) -> None:
    with pytest.raises(SuiteError) as caught:
        find_suite(given)
    assert str(caught.value) == message


def test_shipped_suites_lie_in_the_package_or_beside_it_in_a_checkout(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / "icl_bench"
    (package / "suite").mkdir(parents=True)
    monkeypatch.setattr(catalog, "__file__", str(package / "suite" / "catalog.py"))
    (tmp_path / "suites").mkdir()
    assert catalog.shipped_folder() is None  # a stranger's folder beside an installed package
    assert shipped_suites() == {}
    assert not catalog.is_shipped(tmp_path / "suites" / "x.yaml")
    (tmp_path / "pyproject.toml").touch()
    assert catalog.shipped_folder() == tmp_path / "suites"
    (package / "suites").mkdir()
    assert catalog.shipped_folder() == package / "suites"
    assert catalog.is_shipped(package / "suites" / "x.yaml")
    assert not catalog.is_shipped(tmp_path / "suites" / "x.yaml")


def test_every_shipped_suite_loads_and_its_name_is_that_of_its_file() -> None:
    for name, path in shipped_suites().items():
        assert load_suite(path).name == name


def test_a_long_name_does_not_fill_the_terminal(shipped: Path) -> None:
    with pytest.raises(SuiteError, match="x: no such suite file|characters") as caught:
        find_suite("x" * 5000 + ".yaml")
    assert str(caught.value).endswith(".yaml: no such suite file")
    assert len(str(caught.value)) < 3000
