"""Standard output and error that do not end a command when nobody reads them any more."""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO, Any


class Lasting:
    """A stream whose reader may leave, as `head` does: what it would not have read is dropped.

    The command goes on to its files and its exit code, which say what came out.

    Args:
        stream: standard output or error.
    """

    def __init__(self, stream: IO[str]) -> None:
        self._stream = stream
        self.trouble: str | None = None
        """Why output was lost although somebody reads it, as on a full disk."""

    def write(self, text: str) -> int:
        """Write, or drop what nobody reads; return how many characters were given."""
        try:
            return self._stream.write(text)
        except OSError as error:
            self._drop(error)
            return len(text)

    def flush(self) -> None:
        """Flush, or drop what nobody reads."""
        try:
            self._stream.flush()
        except OSError as error:
            self._drop(error)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def _drop(self, error: OSError) -> None:
        if not isinstance(error, BrokenPipeError):
            self.trouble = error.strerror or str(error)
        try:
            # What is still buffered, and whatever comes, goes where it cannot fail.
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, self._stream.fileno())
            os.close(nowhere)
        except (OSError, ValueError):
            self._stream = io.StringIO()


@contextmanager
def lasting_streams() -> Iterator[tuple[Lasting, Lasting]]:
    """Put lasting streams in the place of standard output and error; flush them at the end."""
    before = sys.stdout, sys.stderr
    # A process that was started without one of them has None there.
    streams = [Lasting(stream if stream is not None else io.StringIO()) for stream in before]
    for stream in before:
        if isinstance(stream, io.TextIOWrapper):
            # A model's name may hold characters that the terminal cannot show.
            stream.reconfigure(errors="replace")
    sys.stdout, sys.stderr = streams
    try:
        yield streams[0], streams[1]
    finally:
        for lasting in streams:
            lasting.flush()
        sys.stdout, sys.stderr = before
