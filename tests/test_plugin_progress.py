"""Progress: one line on a terminal, erased when it is done; next to nothing in a log."""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
import sys
from types import SimpleNamespace

import pytest
from conftest import MINE, Stage

from icl_bench import progress

pty = pytest.importorskip("pty", reason="needs a POSIX terminal")

GOOD = "--icl-model=stub:good"
ESCAPES = re.compile(r"(\x1b\[(\d*)[;\d]*([A-Za-z]))|([^\x1b])")


@pytest.fixture
def telling(stage: Stage) -> Stage:
    """The stage with a measurement that reports progress, prints and warns."""
    stage.write("mine.yaml", MINE.replace("{probe: stub}", "{probe: stub, act: report}"))
    return stage


def run_on_terminal(stage: Stage, *arguments: str) -> tuple[int, str]:
    """Run pytest on a terminal and return its exit code and all that it wrote."""
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "pytest", GOOD, *arguments],
        cwd=stage.path,
        env={**os.environ, "COLUMNS": "100", "TERM": "xterm"},
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
    )
    os.close(theirs)
    written = b""
    with os.fdopen(ours, "rb", buffering=0) as terminal, contextlib.suppress(OSError):
        # Linux reports the other end's closing as an error.
        while part := terminal.read(65536):
            written += part
    return process.wait(60), written.decode()


def seen(written: str) -> list[str]:
    """Return the lines as they stand on the terminal in the end."""
    lines = []
    for row in written.replace("\r\n", "\n").split("\n"):
        cells: list[str] = []
        place = 0
        for code, number, kind, character in ESCAPES.findall(row):
            if kind == "C":
                place += int(number or 1)
            elif kind == "K":
                del cells[place:]
            elif character == "\r":
                place = 0
            elif not code:
                cells[len(cells) :] = " " * (place - len(cells))
                cells[place : place + 1] = character
                place += 1
        lines.append("".join(cells).rstrip())
    return lines


@pytest.mark.parametrize("arguments", [[], ["-s"], ["--capture=sys"]], ids=["fd", "no", "sys"])
def test_a_line_is_drawn_on_a_terminal_and_erased(telling: Stage, arguments: list[str]) -> None:
    code, written = run_on_terminal(telling, "mine.yaml", *arguments)
    assert code == 0, written
    assert " icl_bench 0%: stubbing" in written
    lines = seen(written)
    assert not any("stubbing" in line for line in lines)
    if not arguments:
        # pytest's own line goes on where it was.
        assert any(re.fullmatch(r"mine\.yaml \.\.\. +\[100%\]", line) for line in lines), lines
        assert "a print of the model's" not in written


def test_long_ids_leave_the_line_to_itself(telling: Stage) -> None:
    long = "x" * 60
    telling.write(f"{long}/mine.yaml", (telling.path / "mine.yaml").read_text())
    code, written = run_on_terminal(telling, "-v", long)
    assert code == 0, written
    assert "stubbing" in written
    lines = seen(written)
    assert not any("stubbing" in line for line in lines)
    assert sum("PASSED" in line for line in lines) == 3


def test_nothing_is_drawn_where_nothing_can_be_erased(telling: Stage) -> None:
    result = telling.run(GOOD, "mine.yaml")
    assert result.ret == 0
    assert "stubbing" not in result.stdout.str()


def test_captured_output_and_warnings_stay_pytests(telling: Stage) -> None:
    text = (telling.path / "mine.yaml").read_text().replace("above: 0.5", "above: 5")
    telling.write("mine.yaml", text)
    result = telling.run(GOOD, "mine.yaml")
    result.assert_outcomes(failed=1, passed=2, warnings=1)
    result.stdout.fnmatch_lines(["*Captured stdout setup*", "a print of the model's"])
    result.stdout.fnmatch_lines(["*UserWarning: a warning of the model's"])


class Recorder:
    """A terminal reporter that keeps what is written."""

    def __init__(self, isatty: bool, column: int = 0) -> None:
        self.isatty = isatty
        self.currentfspath: str | None = "mine.yaml"
        self.written = ""
        self.fresh = 0
        file = SimpleNamespace(write=self._write, flush=lambda: None, encoding="ascii")
        self._tw = SimpleNamespace(_file=file, fullwidth=80, width_of_current_line=column)

    def _write(self, text: str) -> None:
        self.written += text

    def ensure_newline(self) -> None:
        self.fresh += 1


def make_progress(reporter: Recorder | None) -> progress.TerminalProgress:
    plugins = {"terminalreporter": reporter}
    config = SimpleNamespace(pluginmanager=SimpleNamespace(get_plugin=plugins.get))
    return progress.TerminalProgress(config)  # type: ignore[arg-type]


def set_clock(monkeypatch: pytest.MonkeyPatch, *times: float) -> None:
    clock = iter(times)
    monkeypatch.setattr(progress, "time", SimpleNamespace(monotonic=lambda: next(clock)))


def test_the_line_says_how_far_it_is_and_what_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    set_clock(monkeypatch, 0, 0, 10, 10.1, 300)
    reporter = Recorder(isatty=True, column=12)
    with make_progress(reporter).task("losses of Müller", 100) as advance:
        advance(20)
        advance(1)  # too soon to be drawn
        advance(9)
    drawn = reporter.written.split("\x1b[K")
    assert drawn == [
        "",
        " icl_bench 0%: losses of M?ller\r\x1b[12C",
        " icl_bench 20%, 40 s left: losses of M?ller\r\x1b[12C",
        " icl_bench 30%, 12 min left: losses of M?ller\r\x1b[12C",
        "",
    ]
    assert reporter.fresh == 0


def test_a_log_gets_a_line_now_and_then(monkeypatch: pytest.MonkeyPatch) -> None:
    set_clock(monkeypatch, 0, 0, 1, 2, 20, 21)
    reporter = Recorder(isatty=False, column=12)
    with make_progress(reporter).task("losses", 100) as advance:
        for _ in range(4):
            advance(10)
    assert reporter.written == " icl_bench 30%, 47 s left: losses\n"
    # pytest starts a line of its own afterwards.
    assert reporter.fresh == 1 and reporter.currentfspath is None


def test_without_a_terminal_reporter_nothing_happens() -> None:
    with make_progress(None).task("losses", 100) as advance:
        advance(10)
