"""Bars of the `icl-bench` command: drawn on a terminal and erased, lines elsewhere."""

from __future__ import annotations

import io
import os

import pytest
from conftest import MINE, Stage
from terminal_pictures import Picture, run_on_terminal
from test_render_outlet import Stream

from icl_bench.progress import ProgressState, RunProgress
from icl_bench.progress.bars import Bars, command_progress

PROGRAM = (
    "-c",
    "import stub, sys; from icl_bench.cli import main; stub.install(); sys.exit(main())",
)


@pytest.mark.skipif(os.name != "posix", reason="needs a POSIX terminal")
@pytest.mark.parametrize("color", ["yes", "no"])
def test_bars_are_drawn_and_erased(stage: Stage, color: str) -> None:
    stage.write("mine.yaml", MINE.replace("{probe: stub}", "{probe: stub, act: report}"))
    code, written = run_on_terminal(
        stage.path,
        *("run", "stub:good", "stub:fine", "--suite=mine.yaml", f"--color={color}"),
        program=PROGRAM,
    )
    assert code == 0, written
    for text in ("model 1 of 2 stub-good: 1/2 first", "model 2 of 2", "stubbing"):
        assert text in written
    assert ("\x1b[32mPASS" in written) is (color == "yes")
    assert not any("stubbing" in line or "time left" in line for line in Picture(100).feed(written))


def test_elsewhere_there_is_a_line_per_model_and_no_code() -> None:
    stream = io.StringIO()
    progress = command_progress(["m", "n"], stream=stream)
    progress.announce("m", ["a"])
    progress.enter("m", {"a": "mine/first"})
    with progress.measuring("a"), progress.task("losses", 10) as advance:
        advance(5)
    assert stream.getvalue() == "icl_bench: model 1 of 2, m: 1 measurement\n"


def test_what_models_are_called_is_no_markup(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "100")
    stream = Stream(True)
    progress = command_progress(["[red]m[/red]", "n"], stream=stream)
    assert isinstance(progress, RunProgress)
    bars = Bars(stream, color=False)
    bars.show(ProgressState("[red]m[/red]", 1, 2, task="[bold]\x1b[2Jx[/]", total=4, done=1))
    bars.clear()
    bars.clear()
    text = stream.getvalue()
    assert "[red]m[/red]" in text and "[bold][2Jx[/]" in text and "25%" in text
    assert "\x1b[2J" not in text and "\x1b[31m" not in text
