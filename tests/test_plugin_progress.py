"""Progress: one line on a terminal, erased when it is done; next to nothing in a log."""

from __future__ import annotations

import re
from types import SimpleNamespace

import pytest
from conftest import MINE, Stage
from terminal_pictures import Picture, run_on_terminal

from icl_bench.progress import RunProgress
from icl_bench.progress.hooks import show_progress
from icl_bench.progress.log import Log
from icl_bench.progress.screen import Screen, make_display

pytest.importorskip("pty", reason="needs a POSIX terminal")

GOOD = "--icl-model=stub:good"


@pytest.fixture
def telling(stage: Stage) -> Stage:
    """The stage with a measurement that reports progress, prints and warns."""
    stage.write("mine.yaml", MINE.replace("{probe: stub}", "{probe: stub, act: report}"))
    return stage


@pytest.mark.parametrize("arguments", [[], ["-s"], ["--capture=sys"]], ids=["fd", "no", "sys"])
def test_a_line_is_drawn_on_a_terminal_and_erased(telling: Stage, arguments: list[str]) -> None:
    code, written = run_on_terminal(telling.path, GOOD, "mine.yaml", *arguments)
    assert code == 0, written
    assert " icl_bench 1/2 first: stubbing 0%; time left unknown yet" in written
    lines = Picture(100).feed(written)
    assert not any("stubbing" in line for line in lines)
    if not arguments:
        # pytest's own line goes on where it was.
        assert any(re.fullmatch(r"mine\.yaml \.\.\. +\[100%\]", line) for line in lines), lines
        assert "a print of the model's" not in written


def test_long_ids_leave_the_line_to_itself(telling: Stage) -> None:
    long = "x" * 60
    telling.write(f"{long}/mine.yaml", (telling.path / "mine.yaml").read_text())
    code, written = run_on_terminal(telling.path, GOOD, "-v", long)
    assert code == 0, written
    assert "stubbing" in written
    lines = Picture(100).feed(written)
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


@pytest.mark.parametrize("width", [60, 80])
def test_pytests_own_line_goes_on_where_it_was_also_when_it_is_wrapped(
    telling: Stage, width: int
) -> None:
    long = "x" * 70
    telling.write(f"{long}/mine.yaml", (telling.path / "mine.yaml").read_text())
    code, written = run_on_terminal(telling.path, GOOD, "-v", long, width=width)
    assert code == 0, written
    assert "stubbing" in written
    text = "".join(Picture(width).feed(written))
    assert "stubbing" not in text
    assert text.count("PASSED") == 3
    assert len(re.findall(rf"{long}/mine.yaml::high\[stub-good\] PASSED", text)) == 1


def test_a_terminal_that_cannot_erase_is_a_log(telling: Stage) -> None:
    code, written = run_on_terminal(telling.path, GOOD, "mine.yaml", variables={"TERM": "dumb"})
    assert code == 0, written
    assert "\x1b" not in written and "stubbing" not in written
    assert written.count("icl_bench: model 1 of 1, stub-good: 2 measurements") == 1


def test_a_log_names_every_model_before_its_first_check(telling: Stage) -> None:
    result = telling.run(GOOD, "--icl-model=stub:fine", "mine.yaml")
    lines = [line for line in result.outlines if line.startswith(("icl_bench: model ", "mine"))]
    assert [line for line in lines if " of 2, " in line] == [
        "icl_bench: model 1 of 2, stub-good: 2 measurements",
        "icl_bench: model 2 of 2, stub-fine: 2 measurements",
    ]
    assert " of 2, " in lines[0] or lines[0].startswith("icl_bench: model stub-good")
    quiet = telling.run(GOOD, "mine.yaml", "-q")
    assert not any("1 of 1" in line for line in quiet.outlines)


class Recorder:
    """A terminal reporter that keeps what is written."""

    def __init__(self, isatty: bool, column: int = 0, encoding: str = "ascii") -> None:
        self.isatty = isatty
        self.currentfspath: str | None = "mine.yaml"
        self.written = ""
        self.fresh = 0
        file = SimpleNamespace(write=self._write, flush=lambda: None, encoding=encoding)
        self._tw = SimpleNamespace(_file=file, fullwidth=80, width_of_current_line=column)

    def _write(self, text: str) -> None:
        self.written += text

    def ensure_newline(self) -> None:
        self.fresh += 1


def test_the_cursor_goes_back_to_the_end_of_pytests_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    reporter = Recorder(isatty=True, column=12)
    screen = Screen(reporter)
    screen.draw(["one", "two of Müller"])
    assert reporter.written == "\x1b[J\r\n\x1b[Kone\r\n\x1b[Ktwo of M?ller\x1b[2A\r\x1b[12C"
    picture = Picture(80)
    picture.feed("mine.yaml ..")
    picture.feed(reporter.written)
    assert picture.feed(".")[:2] == ["mine.yaml ...", "one"]
    screen.clear()
    assert picture.feed("\x1b[J") == ["mine.yaml ..."]
    assert reporter.fresh == 0


@pytest.mark.parametrize(("column", "fresh", "end"), [(80, 1, "\r"), (92, 0, "\x1b[12C")])
def test_a_line_at_the_edge_is_ended_first(column: int, fresh: int, end: str) -> None:
    reporter = Recorder(isatty=True, column=column)
    Screen(reporter).draw(["one"])
    assert reporter.fresh == fresh
    assert reporter.written.endswith(end)


def test_more_workers_than_lines_are_counted() -> None:
    reporter = Recorder(isatty=True)
    Screen(reporter).draw([f"worker {number}" for number in range(20)])
    assert "worker 6" in reporter.written and "worker 7" not in reporter.written
    assert " icl_bench: 13 more workers" in reporter.written


def test_a_line_in_a_log_makes_pytest_start_one_of_its_own() -> None:
    reporter = Recorder(isatty=False, column=12)
    screen = Screen(reporter)
    assert isinstance(make_display(screen), Log)
    screen.write_line("losses")
    assert reporter.written == "losses\n"
    assert reporter.fresh == 1 and reporter.currentfspath is None


def test_without_a_terminal_reporter_nothing_happens() -> None:
    config = SimpleNamespace(pluginmanager=SimpleNamespace(get_plugin=lambda name: None))
    assert show_progress(config, lambda nodeid: None) is None  # type: ignore[arg-type]
    with RunProgress().task("losses", 100) as advance:
        advance(10)
