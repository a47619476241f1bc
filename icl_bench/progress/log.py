"""Progress where nothing can be erased, as in the log of a CI job: now and then a line."""

from __future__ import annotations

from collections.abc import Callable

from icl_bench.progress.progress_state import ProgressState, describe

REMIND_SECONDS = 15.0
WIDTH = 120
"""Columns of a line at most; a log has no width of its own."""


class Log:
    """Writes a line at most every 15 seconds, and none that says what the last one said.

    Args:
        write: writes a line.
    """

    wait = REMIND_SECONDS
    redraws = False

    def __init__(self, write: Callable[[str], None]) -> None:
        self._write, self._last = write, ""

    def show(self, state: ProgressState) -> None:
        """Write a line if there is something new to say."""
        line = describe(state, WIDTH)
        if line != self._last:
            self._last = line
            self._write(line)

    def clear(self) -> None:
        """Do nothing: what is written stays."""
