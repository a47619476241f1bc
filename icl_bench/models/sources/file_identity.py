"""What tells a checkpoint's files from others: their places and times, or their content.

By places: path, size, times and inode, so that a checkpoint of gigabytes is not read to find out
that nothing changed. The time of a file's last change of state (ctime) cannot be set back as the
time of its last modification can.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from icl_bench.models.module.config_file import read_json
from icl_bench.options import RunOptions
from icl_bench.provenance import digest

DIGESTS = "digests.json"
"""File in which digests of content are kept, by path, size and times."""

_DIGITS = 32
_IRRELEVANT = (".md", ".log")
_TRAINING = ("optimizer", "scheduler", "rng_state", "trainer_state.json", "training_args.bin")
"""How names begin of what training keeps beside a model and no model is loaded from."""


def model_files(folder: Path, options: RunOptions) -> list[Path]:
    """Return the files of a folder that a model can be loaded from, in order.

    Hidden files and folders (`.DS_Store`, `.cache/`), logs and texts are none.

    Args:
        folder: the checkpoint's folder.
        options: whether code that it brings is run.

    Raises:
        OSError: the folder cannot be listed.
    """
    files = {
        path
        for path in folder.iterdir()
        if path.is_file() and path.name[0] != "." and path.suffix.lower() not in _IRRELEVANT
    }
    if options.trust_remote_code:
        files |= {
            path
            for path in folder.rglob("*.py")
            if not any(part[0] == "." for part in path.relative_to(folder).parts)
        }
    return sorted(files)


def borrows_code(folder: Path) -> bool:
    """Return whether a checkpoint runs code of another repository, which may change there.

    Args:
        folder: the folder with its config.

    Raises:
        SpecError: its config cannot be read.
    """
    for name in ("config.json", "tokenizer_config.json"):
        if (folder / name).is_file():
            content = read_json(folder / name)
            if isinstance(content, dict) and "--" in str(content.get("auto_map")):
                return True
    return False


def places_of(paths: Iterable[Path]) -> list[list[Any]]:
    """Return what the file system says of files, those behind links.

    Args:
        paths: the files, in any order.

    Raises:
        OSError: one of them is not there.
    """
    places: list[list[Any]] = []
    for path in sorted(paths):
        stat = path.stat()
        times = [stat.st_mtime_ns, stat.st_ctime_ns]
        places.append([os.path.realpath(path), stat.st_dev, stat.st_ino, stat.st_size, *times])
    return places


def digest_folder(folder: Path, options: RunOptions, memory: Path) -> str:
    """Return the digest of the content of a checkpoint, the same wherever it lies.

    The state of an optimizer beside it does not count.

    Args:
        folder: the checkpoint's folder.
        options: whether code that it brings is run.
        memory: folder for the digests of single files.

    Raises:
        OSError: a file cannot be read.
    """
    files = [path for path in model_files(folder, options) if not path.name.startswith(_TRAINING)]
    return digest(
        {path.relative_to(folder).as_posix(): digest_content(path, memory) for path in files}
    )


def digest_content(path: Path, memory: Path) -> str:
    """Return 32 hex digits of a file's SHA-256; kept by path, size and times, as files are large.

    Args:
        path: the file.
        memory: folder where digests are kept. Where it cannot be written, none is.

    Raises:
        OSError: the file cannot be read.
    """
    real = path.resolve()
    stat = real.stat()
    memo = memory / DIGESTS
    # The time of modification can be set back, that of the last change of state cannot.
    entry = f"{real}|{stat.st_size}|{stat.st_mtime_ns}|{stat.st_ctime_ns}|{stat.st_ino}"
    try:
        known = json.loads(memo.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        known = {}
    if not isinstance(known, dict):
        known = {}
    if not isinstance(known.get(entry), str):
        hashed = hashlib.sha256()
        with real.open("rb") as stream:
            while chunk := stream.read(2**20):
                hashed.update(chunk)
        known[entry] = hashed.hexdigest()[:_DIGITS]
        with contextlib.suppress(OSError):
            memory.mkdir(parents=True, exist_ok=True)
            with tempfile.NamedTemporaryFile(
                "w", dir=memory, delete=False, encoding="utf-8"
            ) as written:
                json.dump(known, written, indent=1)
            os.replace(written.name, memo)
    return str(known[entry])
