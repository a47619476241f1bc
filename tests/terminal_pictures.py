"""A run of pytest on a pseudo-terminal, and what a person sees of it."""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

_PARTS = re.compile(r"\x1b\[([\d;]*)([A-Za-z])|([^\x1b])", re.DOTALL)


class Picture:
    """A terminal without an end: it knows the few codes that progress is drawn with.

    Args:
        width: columns.
    """

    def __init__(self, width: int) -> None:
        self.width = width
        self.rows: list[list[str]] = [[]]
        self.row = self.column = 0

    def feed(self, text: str) -> list[str]:
        """Write text and return the lines as they then stand."""
        for number, kind, sign in _PARTS.findall(text):
            count = int(number) if number.isdigit() else 1
            if kind == "A":
                self.row = max(self.row - count, 0)
            elif kind == "C":
                self.column += count
            elif kind == "K":
                del self.rows[self.row][self.column :]
            elif kind == "J":
                del self.rows[self.row][self.column :]
                del self.rows[self.row + 1 :]
            elif sign == "\r":
                self.column = 0
            elif sign == "\n":
                self._go_down()
            elif sign:
                if self.column >= self.width:
                    self.column = 0
                    self._go_down()
                cells = self.rows[self.row]
                cells += " " * (self.column - len(cells))
                cells[self.column : self.column + 1] = sign
                self.column += 1
        return ["".join(cells).rstrip() for cells in self.rows]

    def _go_down(self) -> None:
        self.row += 1
        if self.row == len(self.rows):
            self.rows.append([])


def run_on_terminal(
    folder: Path,
    *arguments: str,
    width: int = 100,
    program: Sequence[str] = ("-m", "pytest"),
    variables: Mapping[str, str] | None = None,
) -> tuple[int, str]:
    """Run Python on a terminal and return its exit code and all that it wrote.

    Args:
        folder: working directory.
        arguments: of the program.
        width: columns.
        program: what Python runs.
        variables: added to the environment.
    """
    import pty

    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, *program, *arguments],
        cwd=folder,
        env={**os.environ, "COLUMNS": str(width), "TERM": "xterm", **(variables or {})},
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
    return process.wait(), written.decode()
