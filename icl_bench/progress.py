"""Progress of long measurements on pytest's terminal."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import pytest

from icl_bench.probes.context import Advance

REDRAW_SECONDS = 0.2
REMIND_SECONDS = 15.0
"""How often a log file, where nothing can be redrawn, gets a line."""


ROOM = 30
"""Columns that a progress line needs at least."""


class TerminalProgress:
    """On a terminal, text after pytest's own line that is erased; in a log, now and then a line.

    Args:
        config: pytest's; what is written goes past its capturing.
    """

    def __init__(self, config: pytest.Config) -> None:
        self._config = config

    @contextmanager
    def task(self, description: str, total: int) -> Iterator[Advance]:
        """Show that `description` is going on.

        Args:
            description: what is being done.
            total: rows to do; 0 when that is not known.
        """
        plugins = self._config.pluginmanager
        reporter = plugins.get_plugin("terminalreporter")
        if reporter is None or hasattr(self._config, "workerinput"):
            yield lambda rows: None
            return
        line = _Line(reporter, plugins.get_plugin("capturemanager"), description, total)
        try:
            line.draw(force=line.redraws)
            yield line.advance
        finally:
            line.clear()


class _Line:
    def __init__(self, reporter: Any, capturing: Any, description: str, total: int) -> None:
        self._reporter, self._capturing = reporter, capturing
        self._description, self._total = description, total
        self._done = 0
        self._started = self._drawn = time.monotonic()
        self._shown = False
        self.redraws: bool = reporter.isatty

    def advance(self, rows: int) -> None:
        self._done += rows
        self.draw()

    def draw(self, force: bool = False) -> None:
        now = time.monotonic()
        wait = REDRAW_SECONDS if self.redraws else REMIND_SECONDS
        if not force and now - self._drawn < wait:
            return
        self._drawn = now
        writer = self._reporter._tw
        column = writer.width_of_current_line
        if not self.redraws or writer.fullwidth - column < ROOM:
            self._reporter.ensure_newline()
            # The next result starts its line with the file's name again.
            self._reporter.currentfspath = None
            column = 0
        text = self._describe(now)
        if self.redraws:
            text = f"\x1b[K{text[: writer.fullwidth - column - 1]}\r"
            # Back to where pytest's own line ends.
            self._write(text + (f"\x1b[{column}C" if column else ""))
        else:
            self._write(text + "\n")
        self._shown = True

    def clear(self) -> None:
        if self._shown and self.redraws:
            self._write("\x1b[K")

    def _describe(self, now: float) -> str:
        state = f" {100 * self._done // self._total}%" if self._total else ""
        if 0 < self._done < self._total:
            left = (now - self._started) / self._done * (self._total - self._done)
            state += f", {left:.0f} s left" if left < 90 else f", {left / 60:.0f} min left"
        return f" icl_bench{state}: {self._description}"

    def _write(self, text: str) -> None:
        file = self._reporter._tw._file
        encoding = getattr(file, "encoding", None) or "ascii"
        text = text.encode(encoding, "replace").decode(encoding)
        open_air = (
            self._capturing.global_and_fixture_disabled() if self._capturing else nullcontext()
        )
        with open_air:
            file.write(text)
            file.flush()
