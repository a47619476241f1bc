"""Processes of this machine, each with its share of the cores, as an executor.

They are started anew rather than forked, for a process that has used CUDA or threads cannot be
forked safely, and without the caller's main module, so that a script needs no guard.
"""

from __future__ import annotations

import contextlib
import os
import pickle
import secrets
import signal
import subprocess
import sys
import tempfile
import threading
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Client, Connection, Listener, wait
from pathlib import Path
from typing import Any

from icl_bench.executors.protocol import Hire, Lost, Share, Take

TRIES = 3
"""How often a part is begun whose process dies."""
GRACE = 5.0
"""Seconds that a process has to end before it is killed."""
_START = (
    "import pickle, sys; path, how = pickle.load(sys.stdin.buffer); sys.path[:] = path; "
    "from icl_bench.executors.processes import serve; serve(*how)"
)


@dataclass
class _Process:
    """One process: its connection, and the place of the part that it is at."""

    share: Share
    process: subprocess.Popen[bytes]
    connection: Connection
    at: int | None = None


class LocalProcesses:
    """Carries parts out in processes of this machine, one part at a time in each.

    A part whose process dies is begun again in a new one, three times in all.

    Args:
        jobs: how many processes, at most as many as there are parts.
    """

    def __init__(self, jobs: int) -> None:
        self.jobs = jobs

    def __str__(self) -> str:
        return f"{self.jobs} processes"

    def carry_out(self, hire: Hire, parts: Sequence[Any], take: Take, lost: Lost) -> None:
        """Have all parts carried out; returns when each is done or lost.

        Args:
            hire: makes a worker.
            parts: plain data, in the order in which they are begun.
            take: gets the results.
            lost: is told of parts that nobody could carry out.
        """
        left = deque(enumerate(parts))
        tries = dict.fromkeys(range(len(parts)), 0)
        count = min(self.jobs, len(parts))
        with _listener() as start:
            open_ones: list[_Process] = []
            try:
                for place in range(count):
                    open_ones.append(start(hire, Share(place, count)))
                for one in open_ones:
                    _give(one, left, tries)
                while any(one.at is not None for one in open_ones):
                    ready = wait([one.connection for one in open_ones if one.at is not None])
                    for one in [one for one in open_ones if one.connection in ready]:
                        if _hear(one, take, lost):
                            if one.at is None:
                                _give(one, left, tries)
                            continue
                        why = _end_of(one.process)
                        assert one.at is not None
                        if tries[one.at] < TRIES:
                            left.appendleft((one.at, parts[one.at]))
                        else:
                            lost(one.at, f"the process that measured it {why}, {TRIES} times")
                        open_ones.remove(one)
                        if left:
                            another = start(hire, one.share)
                            open_ones.append(another)
                            _give(another, left, tries)
            finally:
                _end(open_ones)


def _give(one: _Process, left: deque[tuple[int, Any]], tries: dict[int, int]) -> None:
    """Give a process the next part, if there is one."""
    if not left:
        return
    one.at, part = left.popleft()
    tries[one.at] += 1
    with contextlib.suppress(OSError):  # it has died: hearing from it will tell
        one.connection.send((one.at, part))


def _hear(one: _Process, take: Take, lost: Lost) -> bool:
    """Take in what a process says; False where it has died."""
    try:
        kind, place, what = one.connection.recv()
    except (EOFError, OSError):
        return False
    if kind == "result":
        take(place, what)
    else:
        one.at = None
        if kind == "broke":
            lost(place, what)
    return True


def _end_of(process: subprocess.Popen[bytes]) -> str:
    """Return how a process ended, in words."""
    assert process.stdin is not None
    try:
        code = process.wait(GRACE)
    except subprocess.TimeoutExpired:
        process.kill()
        code = process.wait()
    finally:
        # Not before: it ends at once when this is closed.
        with contextlib.suppress(OSError):
            process.stdin.close()
    if code >= 0:
        return f"ended with exit code {code}"
    with contextlib.suppress(ValueError):
        name = signal.Signals(-code).name
        return f"was killed ({name}{', perhaps for memory' if name == 'SIGKILL' else ''})"
    return f"was killed by signal {-code}"


def _end(processes: Sequence[_Process]) -> None:
    """End processes: those with nothing to do of themselves, the others in the middle of it."""
    for one in processes:
        one.connection.close()
        if one.at is not None:
            one.process.terminate()
    for one in processes:
        _end_of(one.process)


class _Start:
    """Starts processes that connect to a listener."""

    def __init__(self, listener: Listener, key: bytes) -> None:
        self.listener, self.key = listener, key

    def __call__(self, hire: Hire, share: Share) -> _Process:
        environment = dict(os.environ)
        environment.setdefault("OMP_NUM_THREADS", str(max(1, _cores() // share.workers)))
        # Isolated: nothing in the working directory is imported before this path is there.
        process = subprocess.Popen(
            [sys.executable, "-I", "-c", _START], stdin=subprocess.PIPE, env=environment
        )
        assert process.stdin is not None
        address, connected = self.listener.address, threading.Event()
        # By the pipe, for others can read a process' arguments and environment.
        with contextlib.suppress(OSError):
            pickle.dump((sys.path, (address, self.key)), process.stdin)
            process.stdin.flush()

        def stand_in() -> None:
            # For one that dies before it connects; its connection ends at once, as it did.
            process.wait()
            if not connected.is_set():
                Client(address, authkey=self.key).close()

        threading.Thread(target=stand_in, daemon=True).start()
        connection = self.listener.accept()
        connected.set()
        with contextlib.suppress(OSError):
            connection.send((hire, share))
        return _Process(share, process, connection)


@contextlib.contextmanager
def _listener() -> Iterator[_Start]:
    """Yield what starts processes; only they can connect."""
    key = secrets.token_bytes(32)
    with tempfile.TemporaryDirectory(prefix="icl_bench-") as folder:
        address = str(Path(folder) / "socket") if hasattr(os, "mkfifo") else None
        with Listener(address, authkey=key) as listener:
            yield _Start(listener, key)


def _cores() -> int:
    """Return how many cores this process may use."""
    known = getattr(os, "sched_getaffinity", None)
    return len(known(0)) if known else os.cpu_count() or 1


def serve(address: str | tuple[str, int], key: bytes) -> None:
    """Work in this process, which `LocalProcesses` has started, until there is no more to do.

    Args:
        address: where the process that started this one listens.
        key: what lets this one connect.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the process that started this one ends it
    threading.Thread(target=_end_with_parent, daemon=True).start()
    connection = Client(address, authkey=key)
    hire, share = connection.recv()
    worker = hire(share)
    try:
        while True:
            place, part = connection.recv()
            try:
                worker.carry_out(part, lambda result, place=place: _tell(connection, place, result))
            except Exception as error:
                connection.send(("broke", place, f"{type(error).__name__}: {error}"))
            else:
                connection.send(("done", place, None))
    except (EOFError, OSError):
        pass  # there is no more to do
    finally:
        worker.close()


def _tell(connection: Connection, place: int, result: Any) -> None:
    connection.send(("result", place, result))


def _end_with_parent() -> None:
    """End this process when the one that started it is gone, even if it was killed."""
    with contextlib.suppress(OSError):
        os.read(0, 1)  # not by sys.stdin, whose lock it would hold when this process ends
    os._exit(1)
