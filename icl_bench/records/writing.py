"""Files that are written whole or not at all."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

from icl_bench.options import refuse_url


def write_atomically(path: str | os.PathLike[str], text: str) -> Path:
    """Write `text` to `path` so that a reader sees the old file or the new one, never a part.

    Args:
        path: the file to write; missing parent folders are made.
        text: the new content.

    Raises:
        OSError: it cannot be written; `filename` is `path`, whatever failed on the way.
        SettingsError: `path` is a URL.
    """
    refuse_url(path, "file ")
    path = Path(path)
    try:
        _replace(path, text)
    except OSError as error:
        raise OSError(error.errno, error.strerror or str(error), str(path)) from None
    return path


class Writer:
    """Writes files one by one and notes what became of each: a full disk may take some of them."""

    def __init__(self) -> None:
        self.written: list[Path] = []
        self.failed: list[Path] = []
        self._why: dict[str, None] = {}

    def attempt(self, path: Path, write: Callable[[Path], object]) -> bool:
        """Write a file and return whether that went well; an OSError is noted.

        Args:
            path: the file.
            write: writes it whole, or raises and leaves nothing of it.
        """
        try:
            write(path)
        except OSError as error:
            self.give_up(path, error.strerror or str(error))
            return False
        self.written.append(path)
        return True

    def give_up(self, path: Path, why: str | None = None) -> None:
        """Note a file that is not written.

        Args:
            path: the file.
            why: the reason, if it is one of its own.
        """
        self.failed.append(path)
        if why is not None:
            self._why[why] = None

    def explain(self) -> str | None:
        """Return which files are written and which are not, and why; None if all are."""
        if not self.failed:
            return None
        names = [_names(paths) for paths in (self.failed, self.written)]
        told = f"not written: {names[0]} ({'; '.join(self._why)})"
        return told + (f"; written: {names[1]}" if self.written else "; nothing was written")


def _names(paths: Sequence[Path]) -> str:
    """Paths in few words: the files of one folder together."""
    folders: dict[Path, list[str]] = {}
    for path in paths:
        folders.setdefault(path.parent, []).append(path.name)
    return ", ".join(f"{folder}/: {', '.join(names)}" for folder, names in folders.items())


def _replace(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        # Half of a surrogate pair, as a byte-level tokenizer may leave, has no UTF-8.
        with os.fdopen(
            handle, "w", encoding="utf-8", errors="backslashreplace", newline="\n"
        ) as stream:
            stream.write(text)
        os.chmod(temporary, 0o666 & ~_umask())
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def _umask() -> int:
    current = os.umask(0)
    os.umask(current)
    return current
