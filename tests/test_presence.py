"""Which runs are alive in a folder, however they end and on whatever machine they are."""

from __future__ import annotations

import errno
import os
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from icl_bench.running import presence
from icl_bench.running.presence import Mark, leave_mark

RUN = """
import sys
from pathlib import Path
from icl_bench.running.presence import leave_mark
mark = leave_mark(Path(sys.argv[1]))
print(mark.path, flush=True)
sys.stdin.read()
mark.remove()
"""

Start = Callable[[], "subprocess.Popen[str]"]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "runs"


@pytest.fixture
def start(folder: Path) -> Iterator[Start]:
    """Starts a process that has left its mark when this returns."""
    started: list[subprocess.Popen[str]] = []

    def begin() -> subprocess.Popen[str]:
        command = [sys.executable, "-c", RUN, str(folder)]
        run = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        started.append(run)
        assert run.stdout and Path(run.stdout.readline().strip()).exists()
        return run

    yield begin
    for run in started:
        run.kill()
        run.communicate()


@pytest.fixture
def leave(folder: Path) -> Iterator[Callable[[], Mark]]:
    """Leaves a mark of this process."""
    left: list[Mark] = []

    def begin() -> Mark:
        left.append(leave_mark(folder))
        return left[-1]

    yield begin
    for mark in left:
        if mark.path in presence._mine:
            mark.remove()


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def foreign(folder: Path, start: int = 5, host: str = "elsewhere") -> Path:
    """The mark of a run on another machine, or one without a lock."""
    folder.mkdir(exist_ok=True)
    path = folder / f"{start}.1.x@{host}"
    path.touch()
    return path


def test_a_mark_is_there_as_long_as_the_run(folder: Path, leave: Callable[[], Mark]) -> None:
    mark = leave()
    assert names(folder) == [mark.path.name] and mark.beside == 0
    mark.remove()
    assert names(folder) == []


def test_what_is_used_after_a_mark_was_left_is_not_older(
    folder: Path, leave: Callable[[], Mark]
) -> None:
    before = folder.parent / "before"
    before.touch()
    mark = leave()
    before_mark = before.stat().st_mtime_ns
    (folder.parent / "after").touch()
    assert before_mark <= mark.since <= (folder.parent / "after").stat().st_mtime_ns


def test_another_process_counts_as_long_as_it_is_alive(
    folder: Path, leave: Callable[[], Mark], start: Start
) -> None:
    first = start()
    (name,) = names(folder)
    mark = leave()
    assert mark.beside == 1 and mark.since == int(name.partition(".")[0])
    assert leave().beside == 2
    first.communicate("")
    assert name not in names(folder) and leave().beside == 2


def test_a_process_that_was_killed_does_not_count_and_its_mark_goes(
    folder: Path, leave: Callable[[], Mark], start: Start
) -> None:
    run = start()
    run.kill()
    run.wait()
    mark = leave()
    assert mark.beside == 0
    assert names(folder) == [mark.path.name]


def test_another_machine_counts_until_it_was_silent_for_a_day(
    folder: Path, leave: Callable[[], Mark]
) -> None:
    other = foreign(folder)
    mark = leave()
    assert (mark.beside, mark.since) == (1, 5) and other.exists()
    os.utime(other, (1, 1))
    assert leave().beside == 1 and not other.exists()


@pytest.mark.parametrize("number", [errno.ENOSYS, errno.ENOLCK])
def test_without_locks_every_mark_counts_until_it_is_a_day_old(
    folder: Path,
    leave: Callable[[], Mark],
    monkeypatch: pytest.MonkeyPatch,
    number: int,
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(number, "no locks")

    monkeypatch.setattr(presence.fcntl, "flock", refuse)
    here = foreign(folder, host=socket.gethostname())
    assert leave().since == 5 and here.exists()
    os.utime(here, (1, 1))
    assert leave().since > 5 and not here.exists()


def test_a_mark_that_cannot_be_read_counts_until_it_is_a_day_old(
    folder: Path, leave: Callable[[], Mark], monkeypatch: pytest.MonkeyPatch
) -> None:
    here = foreign(folder, host=socket.gethostname())
    original = Path.open

    def refuse(path: Path, *rest: str) -> object:
        if path == here:
            raise PermissionError(errno.EACCES, "not yours")
        return original(path, *rest)

    monkeypatch.setattr(Path, "open", refuse)
    assert leave().since == 5 and here.exists()


def test_what_is_no_mark_is_left_alone_and_what_never_became_one_goes(
    folder: Path, leave: Callable[[], Mark]
) -> None:
    folder.mkdir()
    for name in ("notes.txt", ".7.fresh@here", ".7.old@here"):
        (folder / name).touch()
    os.utime(folder / ".7.old@here", (1, 1))
    mark = leave()
    assert mark.beside == 0
    assert set(names(folder)) == {"notes.txt", ".7.fresh@here", mark.path.name}


def test_runs_of_one_process_know_of_each_other(
    folder: Path, leave: Callable[[], Mark], tmp_path: Path
) -> None:
    elsewhere = leave_mark(tmp_path / "others")
    outer = leave()
    assert not outer.is_nested
    inner = leave()
    assert inner.is_nested and inner.since == outer.since and inner.beside == 1
    inner.remove()
    assert not outer.is_nested and not elsewhere.is_nested
    elsewhere.remove()


def test_a_busy_run_touches_its_mark_now_and_then(
    leave: Callable[[], Mark], monkeypatch: pytest.MonkeyPatch
) -> None:
    mark = leave()
    os.utime(mark.path, (1, 1))
    mark.touch()
    assert mark.path.stat().st_mtime == 1
    monkeypatch.setattr(presence, "TOUCH_SECONDS", -1)
    mark.touch()
    assert mark.path.stat().st_mtime > 1
    mark.path.unlink()
    mark.touch()
    mark.remove()


def test_where_no_mark_can_be_left_that_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "runs").write_text("a file where a folder is needed")
    with pytest.raises(OSError):
        leave_mark(tmp_path / "runs")
