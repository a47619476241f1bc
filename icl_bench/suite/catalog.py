"""Finding suites: the shipped ones by name, and telling a suite from other YAML."""

from __future__ import annotations

import os
import re
from pathlib import Path

from icl_bench.errors import SuiteError, nearest

HEAD_BYTES = 8192
"""How much of a file is read to tell whether it is a suite."""

_BEFORE_FIRST_KEY = re.compile(r"(?:[ \t]*(?:#[^\n]*)?\n|%[^\n]*\n|---(?=[\s])[ \t]*)*")
_FIRST_KEY = re.compile(r"(?:\{\s*)?([\"']?)icl_suite\1[ \t]*:(?:\s|$)")


def is_suite(path: str | os.PathLike[str]) -> bool:
    """Tell whether a file's first key is `icl_suite:`; an unreadable file is no suite.

    Args:
        path: any file; only its beginning is read.
    """
    try:
        if not os.path.isfile(path):  # a pipe would block
            return False
        with open(path, "rb") as stream:
            head = stream.read(HEAD_BYTES)
    except (OSError, ValueError):
        return False
    text = head.decode("utf-8", errors="replace").removeprefix("\ufeff")
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    before = _BEFORE_FIRST_KEY.match(text)
    return _FIRST_KEY.match(text, before.end() if before else 0) is not None


def shipped_folder() -> Path | None:
    """Return the folder of the shipped suites: in the package, or beside it in a checkout."""
    package = Path(__file__).resolve().parents[1]
    inside, beside = package / "suites", package.parent / "suites"
    if inside.is_dir():
        return inside
    # Without the project file, a folder of that name next to the package is someone else's.
    if beside.is_dir() and (package.parent / "pyproject.toml").is_file():
        return beside
    return None


def shipped_suites() -> dict[str, Path]:
    """Return name -> file of the suites that come with icl_bench, in order of name."""
    folder = shipped_folder()
    files = sorted(folder.glob("*.y*ml")) if folder else []
    return {file.stem: file for file in files if is_suite(file)}


def is_shipped(path: Path) -> bool:
    """Tell whether a file lies in the folder of the shipped suites."""
    folder = shipped_folder()
    return folder is not None and path.resolve().parent == folder.resolve()


def resolve_suite(name_or_path: str | os.PathLike[str]) -> Path:
    """Return the file that a shipped suite's name or a path stands for.

    A bare name means the shipped suite even where a file of that name exists;
    `./name` means the file.

    Args:
        name_or_path: as given by `--icl-suite`.

    Raises:
        SuiteError: there is neither such a suite nor such a file; names the nearest suite.
    """
    text = os.path.expanduser(os.fspath(name_or_path))
    shipped = shipped_suites()
    if text in shipped:
        return shipped[text]
    path = Path(text)
    try:
        if text and path.exists():
            return path
    except (OSError, ValueError):
        pass  # a name that no file system takes is reported as unknown
    looks_like_path = path.suffix in (".yaml", ".yml") or len(path.parts) > 1
    hint = nearest(path.stem if looks_like_path else text, shipped)
    if looks_like_path:
        known = hint.startswith("did you mean")
        raise SuiteError(f"{text}: no such suite file" + (f"; {hint}" if known else ""))
    raise SuiteError(f"no shipped suite and no file is called {text!r}; {hint}")
