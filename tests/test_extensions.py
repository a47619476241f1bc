"""What other packages add is found by name, loaded when it is used, and refused in one line."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from icl_bench.errors import SettingsError, SpecError
from icl_bench.extensions import SOURCES, find, names

KNOWN = ("builtin", "hub")

Install = Callable[..., None]


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Install:
    """Put a distribution with entry points, and its only module, on the path."""

    def add(package: str, entries: str, code: str = "", group: str = SOURCES) -> None:
        module = package.replace("-", "_")
        site = tmp_path / package
        info = site / f"{module}-1.2.dist-info"
        info.mkdir(parents=True)
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.2\n")
        (info / "entry_points.txt").write_text(f"[{group}]\n{entries}\n")
        (site / f"{module}.py").write_text(code)
        monkeypatch.syspath_prepend(site)
        monkeypatch.delitem(sys.modules, module, raising=False)

    return add


def test_an_object_is_loaded_by_the_name_that_users_type(install: Install) -> None:
    install("their-models", "mine = their_models:box.inner", "class box:\n    inner = 'it'")
    assert (found := find(SOURCES, "mine", KNOWN)) is not None
    assert (found.object, found.where) == ("it", "their_models:box.inner")
    assert (found.name, found.package, found.version) == ("mine", "their-models", "1.2")


def test_a_name_that_no_package_adds_is_none_and_imports_nothing(install: Install) -> None:
    install("their-models", "mine = their_models:box", "raise SystemExit")
    assert find(SOURCES, "yours", KNOWN) is None
    assert find("icl_bench.probes", "mine", KNOWN) is None
    assert "mine" in names(SOURCES) and "mine" not in names("icl_bench.probes")
    assert "their_models" not in sys.modules


def test_a_name_that_icl_bench_has_is_refused(install: Install) -> None:
    install("their-models", "mine = their_models:box\nhub = their_models:hub", "box = hub = 1")
    for asked in ("mine", "hub", "another"):
        with pytest.raises(SettingsError, match=r"^package their-models 1.2 adds a source 'hub'"):
            find(SOURCES, asked, KNOWN)


def test_two_packages_with_one_name_are_named(install: Install) -> None:
    for package in ("their-models", "her-models"):
        install(package, f"mine = {package.replace('-', '_')}:box", "box = 1")
    message = r"2 packages add a source 'mine': her-models 1.2, their-models 1.2; uninstall all but"
    with pytest.raises(SettingsError, match=message):
        find(SOURCES, "mine", KNOWN)
    assert find(SOURCES, "other", KNOWN) is None


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        ("import nothing_of_this_name", "ModuleNotFoundError: No module named 'nothing_of_this_"),
        ("raise ValueError('one\\ntwo')", "ValueError: one two"),
        ("raise SystemExit(3)", "SystemExit: 3"),
        ("box = (", "SyntaxError: "),
        ("bax = 1", "AttributeError: module 'their_models' has no attribute 'box'"),
    ],
)
def test_an_object_that_cannot_be_loaded_is_one_line(
    install: Install, code: str, reason: str
) -> None:
    install("their-models", "mine = their_models:box", code)
    with pytest.raises(SpecError) as caught:
        find(SOURCES, "mine", KNOWN, error=SpecError)
    start = "source 'mine' of package their-models 1.2, their_models:box, cannot be loaded: "
    assert str(caught.value).startswith(f"{start}{reason}") and "\n" not in str(caught.value)


def test_what_an_object_lacks_is_named(install: Install) -> None:
    install("their-models", "mine = their_models", "def check(): ...", group="icl_bench.reports")
    assert find("icl_bench.reports", "mine", (), wanted=("check",)) is not None
    with pytest.raises(SettingsError, match=r"report 'mine' of .*, their_models, has no open, x$"):
        find("icl_bench.reports", "mine", (), wanted=("open", "check", "x"))
