"""Who gets colour: the command follows pytest's rules, whatever the environment says."""

from __future__ import annotations

import io
import itertools
import os
from pathlib import Path
from types import SimpleNamespace

import pytest
from terminal_pictures import run_on_terminal
from test_render_records import make_record

from icl_bench.render.writing.outlet import outlet_of, outlet_of_pytest, redraws, wants_color

VARIABLES = ("PY_COLORS", "NO_COLOR", "FORCE_COLOR", "TERM")


class Stream(io.StringIO):
    """A stream that says whether it is a terminal."""

    def __init__(self, terminal: bool) -> None:
        super().__init__()
        self.terminal = terminal

    def isatty(self) -> bool:
        return self.terminal


@pytest.mark.parametrize("terminal", [True, False])
def test_the_rules_are_pytests(terminal: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    # pytest's own function is the reference: every mixture of what it looks at.
    from _pytest._io.terminalwriter import should_do_markup

    choices = [(None, "0", "1", "x"), (None, "", "1"), (None, "", "1"), (None, "xterm", "dumb")]
    seen = set()
    for values in itertools.product(*choices):
        environ = {name: value for name, value in zip(VARIABLES, values) if value is not None}
        for name in VARIABLES:
            monkeypatch.delenv(name, raising=False)
        for name, value in environ.items():
            monkeypatch.setenv(name, value)
        stream = Stream(terminal)
        assert wants_color(stream, environ=environ) is should_do_markup(stream), environ
        assert wants_color(stream) is should_do_markup(stream), environ
        seen.add(wants_color(stream))
    assert seen == {True, False}


def test_the_option_comes_before_everything() -> None:
    assert wants_color(Stream(False), "yes", {"NO_COLOR": "1", "TERM": "dumb"}) is True
    assert wants_color(Stream(True), "no", {"FORCE_COLOR": "1"}) is False


def test_erasing_needs_a_terminal_that_knows_how_and_has_nothing_to_do_with_colour() -> None:
    assert redraws(Stream(True), {"TERM": "xterm", "NO_COLOR": "1"})
    assert not redraws(Stream(True), {"TERM": "dumb"})
    assert not redraws(Stream(False), {"TERM": "xterm", "FORCE_COLOR": "1"})


def test_width_and_signs_are_those_of_the_place(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "133")
    assert outlet_of(Stream(False)).options() == {"width": 133, "color": False, "unicode": False}
    writer = SimpleNamespace(_file=SimpleNamespace(encoding="UTF-8"), fullwidth=90, hasmarkup=True)
    assert outlet_of_pytest(writer).options() == {"width": 90, "color": True, "unicode": True}


@pytest.mark.skipif(os.name != "posix", reason="needs a POSIX terminal")
@pytest.mark.parametrize(
    ("arguments", "variables", "colored"),
    [
        ([], {}, True),
        ([], {"NO_COLOR": "1"}, False),
        ([], {"TERM": "dumb"}, False),
        (["--color=no"], {"FORCE_COLOR": "1"}, False),
    ],
)
def test_a_comparison_is_coloured_on_a_terminal(
    tmp_path: Path, arguments: list[str], variables: dict[str, str], colored: bool
) -> None:
    make_record().write(tmp_path / "a.json")
    code, written = run_on_terminal(
        tmp_path,
        *("compare", "a.json", "a.json", *arguments),
        program=("-m", "icl_bench.cli"),
        variables=dict.fromkeys(("NO_COLOR", "FORCE_COLOR", "PY_COLORS"), "") | variables,
    )
    assert code == 0, written
    assert ("\x1b[1m" in written) is colored
    assert colored or "\x1b" not in written
