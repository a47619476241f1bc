"""Which runs are alive that share a folder, on this machine or on others.

A run leaves an empty file in the folder, its mark, named by when it began, process and machine. It
holds a lock on it, which the operating system frees when the process ends, however it ends. Marks
of other machines, and on file systems without locks, count until they were not touched for a day.
"""

from __future__ import annotations

import contextlib
import os
import re
import socket
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

try:
    import fcntl
except ImportError:  # no Unix
    fcntl = None  # type: ignore[assignment]

DAY_SECONDS = 24 * 3600
TOUCH_SECONDS = 600
"""How often a busy run touches its mark."""

_mine: set[Path] = set()
"""Marks of this process."""


class Mark:
    """The mark of a run that is alive; see `leave_mark`.

    Args:
        path: the file.
        handle: file descriptor that holds the lock.
        start: when the run began, in nanoseconds of the file system's clock.
    """

    def __init__(self, path: Path, handle: int, start: int) -> None:
        self.path, self._handle = path, handle
        self._touched = time.monotonic()
        # Looked for first: a folder that cannot be listed leaves no mark of this process behind.
        others = [_start(other) for other in _alive(path.parent) if other != path]
        _mine.add(path)
        self.beside = len(others)
        """How many other processes with a run there were when this one began."""
        self.since = min([start, *others])
        """When the first of all these began, this one included."""

    @property
    def is_nested(self) -> bool:
        """Whether this process has another run on the same folder."""
        return any(path != self.path and path.parent == self.path.parent for path in _mine)

    def touch(self) -> None:
        """Show other machines that this run goes on."""
        if time.monotonic() - self._touched > TOUCH_SECONDS:
            self._touched = time.monotonic()
            with contextlib.suppress(OSError):
                os.utime(self.path)

    def remove(self) -> None:
        """Take the mark away: the run is over."""
        _mine.discard(self.path)
        with contextlib.suppress(OSError):
            self.path.unlink(missing_ok=True)
        os.close(self._handle)


def leave_mark(folder: Path) -> Mark:
    """Mark that a run is alive, and look which others are; marks of dead ones are removed.

    What a run uses after this call is not older than its mark, by the one clock of the file system.

    Args:
        folder: where marks are; made when it is not there.

    Raises:
        OSError: no mark can be left there.
    """
    if fcntl is None:
        raise OSError("marks need Unix")
    folder.mkdir(parents=True, exist_ok=True)
    prefix, suffix = f".{os.getpid()}.", f"@{socket.gethostname()}"
    handle, name = tempfile.mkstemp(dir=folder, prefix=prefix, suffix=suffix)
    try:
        os.chmod(name, 0o644)
        with contextlib.suppress(OSError):
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        start = os.fstat(handle).st_mtime_ns
        # Only now under a name that others look at, so that none finds it without its lock.
        path = Path(name).rename(folder / f"{start}{Path(name).name}")
        name = str(path)
        return Mark(path, handle, start)
    except BaseException:
        os.close(handle)
        Path(name).unlink(missing_ok=True)
        raise


_MARK = re.compile(r"[0-9]*\.[0-9]+\.[^@.]+@.+")
"""Start in ns (none yet before the first dot), process, anything, host."""


def _start(mark: Path) -> int:
    return int(mark.name.partition(".")[0])


def _alive(folder: Path) -> Iterator[Path]:
    """Marks of runs that are alive; the rest is removed."""
    for path in folder.iterdir():
        # Files of other names are not ours.
        if not _MARK.fullmatch(path.name):
            continue
        if not _is_alive(path):
            with contextlib.suppress(OSError):
                path.unlink(missing_ok=True)
        elif not path.name.startswith("."):  # such a one is not a mark yet, or never became one
            yield path


def _is_alive(path: Path) -> bool:
    if path in _mine:
        return True
    try:
        if path.name[0] != "." and path.name.rpartition("@")[2] == socket.gethostname():
            with path.open("rb") as file:
                # Shared, for two that look at once not to take each other for the run.
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
                return False
    except BlockingIOError:
        return True
    except OSError:
        pass  # no locks on this file system, not to be read, or it has just gone
    try:
        return time.time() - path.stat().st_mtime < DAY_SECONDS
    except OSError:
        return False
