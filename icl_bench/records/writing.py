"""Files that are written whole or not at all."""

from __future__ import annotations

import os
import tempfile
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
