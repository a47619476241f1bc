"""Progress of xdist's workers: a line each, of those that are busy, and none when all is over."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import threading
from types import SimpleNamespace
from typing import Any

import pytest
from conftest import MINE, Stage
from terminal_pictures import Picture, run_on_terminal
from test_progress import Clock
from waiting import HANG, finish, start, wait_until

from icl_bench.progress import ProgressState
from icl_bench.progress.workers import CHANNEL, ToController, WorkersProgress

GOOD, BAD = "--icl-model=stub:good", "--icl-model=stub:bad"


class Board:
    """A screen that keeps the lines that stand on it, and those that were written to a log."""

    def __init__(self, redraws: bool = True) -> None:
        self.redraws, self.width = redraws, 79
        self.lines: list[str] = []
        self.log: list[str] = []
        self.drawn = 0

    def draw(self, lines: list[str]) -> None:
        self.lines, self.drawn = list(lines), self.drawn + 1

    def clear(self) -> None:
        self.lines = []

    def write_line(self, line: str) -> None:
        self.log.append(line)


def make(redraws: bool = True) -> tuple[WorkersProgress, Board, Clock]:
    board, clock = Board(redraws), Clock()
    return WorkersProgress(board, clock), board, clock  # type: ignore[arg-type]


def said(model: str, task: str = "losses") -> str:
    return json.dumps(ProgressState(model, 1, 2, task=task).as_data())


def test_every_busy_worker_has_a_line() -> None:
    workers, board, clock = make()
    workers.receive("gw1", said("m"))
    clock.now += 1
    workers.receive("gw0", said("n"))
    assert [line.split()[0:3] for line in board.lines] == [
        ["gw0", "1/2", "n:"],
        ["gw1", "1/2", "m:"],
    ]
    clock.now += 1
    workers.receive("gw1", "")
    assert len(board.lines) == 1
    workers.forget("gw0")
    with workers.paused():
        assert board.lines == []
    assert board.lines == []


class Gate:
    """A lock that tells when somebody waits for it."""

    def __init__(self) -> None:
        self._lock, self.asked = threading.RLock(), threading.Event()

    def acquire(self, timeout: float) -> bool:
        self.asked.set()
        return self._lock.acquire(timeout=HANG)

    def release(self) -> None:
        self._lock.release()

    def __enter__(self) -> None:
        self._lock.acquire()

    def __exit__(self, *error: object) -> None:
        self._lock.release()


def test_lines_come_back_after_pytest_has_written_and_not_before() -> None:
    workers, board, clock = make()
    workers.receive("gw0", said("m"))
    gate = Gate()
    workers._lock = gate  # type: ignore[assignment]
    drawn = board.drawn
    with workers.paused():
        assert board.lines == []
        other = threading.Thread(target=workers.receive, args=("gw1", said("n")))
        clock.now += 10
        other.start()
        assert gate.asked.wait(HANG)
        assert board.drawn == drawn  # it waits
    other.join()
    assert len(board.lines) == 2


def test_lines_are_not_drawn_too_often_nor_after_the_end() -> None:
    workers, board, clock = make()
    for _ in range(50):
        workers.receive("gw0", said("m"))
    assert board.drawn == 1
    workers.end()
    clock.now += 100
    workers.receive("gw0", said("m"))
    assert board.drawn == 1 and board.lines == []


def test_a_log_gets_lines_every_fifteen_seconds_with_something_new() -> None:
    workers, board, clock = make(redraws=False)
    for seconds in (0, 10, 4.9, 0.2, 10, 10):
        clock.now += seconds
        workers.receive("gw0", said("m", task=f"losses {seconds > 9}"))
        workers.receive("gw1", said("n"))
    # At 15.1 s and at 35.1 s; then nothing new.
    assert [line.split()[0] for line in board.log] == ["gw0", "gw1"] * 2
    clock.now += 100
    workers.receive("gw1", said("n"))
    assert len(board.log) == 4


def test_what_cannot_be_read_ends_the_picture_and_nothing_else() -> None:
    workers, board, _ = make()
    workers.receive("gw0", '{"no": "standing"}')
    workers.receive("gw0", said("m"))
    assert board.lines == []


def test_a_worker_measures_on_when_nobody_listens() -> None:
    class Closed:
        calls = 0

        def send(self, text: str) -> None:
            self.calls += 1
            raise OSError("cannot send to a closed channel")

    channel = Closed()
    display = ToController(channel)
    display.show(ProgressState("m"))
    display.clear()
    assert channel.calls == 1


def test_a_worker_gets_a_channel_of_its_own() -> None:
    workers, board, _ = make()
    heard: list[Any] = []
    channel = SimpleNamespace(setcallback=heard.append)
    gateway = SimpleNamespace(id="gw7", newchannel=lambda: channel)
    node = SimpleNamespace(gateway=gateway, workerinput={})
    workers.listen_to(node)
    assert node.workerinput == {CHANNEL: channel}
    heard[0](said("m"))
    assert board.lines[0].startswith(" gw7 1/2 m: losses")


@pytest.fixture
def telling(stage: Stage) -> Stage:
    """The stage with a measurement that reports progress."""
    stage.write("mine.yaml", MINE.replace("{probe: stub}", "{probe: stub, act: report}"))
    return stage


@pytest.mark.long
@pytest.mark.parametrize("arguments", [[], ["-q", "-s"]], ids=" ".join)
def test_lines_of_workers_are_drawn_on_a_terminal_and_erased(
    telling: Stage, arguments: list[str]
) -> None:
    # A line that pytest keeps waiting for long is left out; here none is to be.
    telling.write("conftest.py", "from icl_bench.progress import workers; workers.PATIENCE = 900.0")
    code, written = run_on_terminal(telling.path, GOOD, BAD, "mine.yaml", "-n", "2", *arguments)
    assert code == 1, written
    assert re.search(r" gw[01] 1/2 stub-good: 1/2 first", written)
    assert re.search(r" gw[01] 2/2 stub-bad: 1/2 first", written)
    lines = Picture(100).feed(written)
    assert not any(re.search(r" gw[01] \d/2 ", line) for line in lines), lines
    assert any("1 failed, 5 passed" in line for line in lines)


@pytest.mark.parametrize("arguments", [["-p", "no:terminal"], ["--capture=no", "-q"]])
def test_other_ways_to_write_do_not_break(telling: Stage, arguments: list[str]) -> None:
    result = telling.run_apart(GOOD, "mine.yaml", "-n", "2", *arguments)
    assert result.ret == 0, result.stdout.str() + result.stderr.str()
    assert set(telling.verdicts("stub-good").values()) == {"pass"}


def test_in_a_log_workers_models_are_named_and_nothing_is_drawn(telling: Stage) -> None:
    result = telling.run_apart(GOOD, BAD, "mine.yaml", "-n", "2")
    text = result.stdout.str()
    assert "\x1b" not in text
    for slug in ("stub-good", "stub-bad"):
        assert len(re.findall(rf"icl_bench: model \d of 2, {slug}: 2 measurements", text)) == 1


@pytest.mark.skipif(os.name != "posix", reason="sends POSIX signals")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_a_run_that_is_ended_leaves_nothing_behind(stage: Stage, number: int) -> None:
    stage.write("mine.yaml", MINE.replace("{probe: stub}", "{probe: stub, act: wait}"))
    before = {path.name for path in stage.path.iterdir()}
    temporary = stage.path / "tmp"
    temporary.mkdir()
    process = start(
        [sys.executable, "-m", "pytest", GOOD, "mine.yaml", "-n", "1", "-p", "no:cacheprovider"],
        stage.path,
        env={**os.environ, "TMPDIR": str(temporary), "PYTHONDONTWRITEBYTECODE": "1"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    wait_until((stage.path / "waiting").exists, process)
    os.killpg(process.pid, number)
    finish(process)
    left = {path.name for path in stage.path.iterdir()} - before - {"waiting", "reports", "tmp"}
    assert left == set()
    # pytest's own folder for tmp_path at most.
    assert {path.name.partition("-")[0] for path in temporary.iterdir()} <= {"pytest"}
