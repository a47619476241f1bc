"""Lines below pytest's own on a terminal, which are drawn anew and erased.

rich's `Live` cannot do this inside pytest: it takes over standard output, which pytest has
captured, and wants the cursor at the start of a line, while pytest's own line is half written.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any

from icl_bench.progress.log import Log
from icl_bench.progress.progress_state import ProgressState, describe
from icl_bench.render.writing.text import to_ascii

REDRAW_SECONDS = 0.2
MOST_LINES = 8


class Screen:
    """Draws below pytest's own line and leaves the cursor where it was.

    Args:
        reporter: pytest's terminal reporter.
        capturing: pytest's capture manager, whose capturing is lifted while something is drawn;
            None where nothing is captured.
    """

    def __init__(self, reporter: Any, capturing: Any = None) -> None:
        self._reporter, self._capturing = reporter, capturing
        self._shown = False

    @property
    def redraws(self) -> bool:
        """Whether what was written can be erased."""
        return bool(self._reporter.isatty) and os.environ.get("TERM") != "dumb"

    @property
    def width(self) -> int:
        """Columns that a line may take."""
        return int(self._reporter._tw.fullwidth) - 1

    def draw(self, lines: Sequence[str]) -> None:
        """Draw lines in place of those that are there.

        Args:
            lines: each within `width`; too many for the screen are left out, and counted.
        """
        room = max(min(MOST_LINES, shutil.get_terminal_size().lines - 2), 1)
        if len(lines) > room:
            lines = [*lines[: room - 1], f" icl_bench: {len(lines) - room + 1} more workers"]
        if not lines:
            self.clear()
            return
        column = self._find_column()
        below = "".join(f"\r\n\x1b[K{line}" for line in lines)
        back = f"\x1b[{len(lines)}A\r" + (f"\x1b[{column}C" if column else "")
        self._write(f"\x1b[J{below}{back}")
        self._shown = True

    def clear(self) -> None:
        """Erase what was drawn."""
        if self._shown:
            self._write("\x1b[J")
            self._shown = False

    def write_line(self, line: str) -> None:
        """Write a line that stays.

        Args:
            line: the text.
        """
        self._reporter.ensure_newline()
        # The next result starts its line with the file's name again.
        self._reporter.currentfspath = None
        self._write(line + "\n")

    def _find_column(self) -> int:
        """The column that pytest's own line has come to, wrapped lines included."""
        writer = self._reporter._tw
        column = int(writer.width_of_current_line)
        if column and column % writer.fullwidth == 0:
            # The cursor hangs over the edge, and whether it counts as moved differs.
            self._reporter.ensure_newline()
            self._reporter.currentfspath = None
            return 0
        return column % int(writer.fullwidth)

    def _write(self, text: str) -> None:
        file = self._reporter._tw._file
        encoding = getattr(file, "encoding", None) or "ascii"
        if "utf" not in encoding.lower():
            text = to_ascii(text)
        text = text.encode(encoding, "replace").decode(encoding)
        capturing = self._capturing
        with capturing.global_and_fixture_disabled() if capturing else nullcontext():
            file.write(text)
            file.flush()


class OneLine:
    """The progress of this process, in a line below pytest's own.

    Args:
        screen: where it is drawn.
    """

    wait = REDRAW_SECONDS
    redraws = True

    def __init__(self, screen: Screen) -> None:
        self._screen = screen

    def show(self, state: ProgressState) -> None:
        """Draw the line."""
        self._screen.draw([describe(state, self._screen.width)])

    def clear(self) -> None:
        """Erase it."""
        self._screen.clear()


def make_display(screen: Screen) -> OneLine | Log:
    """Return what shows the progress of this process on pytest's terminal.

    Args:
        screen: pytest's.
    """
    return OneLine(screen) if screen.redraws else Log(lambda line: screen.write_line(line))
