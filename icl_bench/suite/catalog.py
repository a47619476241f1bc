"""Finding suites: the shipped ones by name, and telling a suite from other YAML."""

from __future__ import annotations

import difflib
import os
import re
from pathlib import Path

from icl_bench.errors import SuiteError, nearest

STARTER = "icl_suite.yaml"
"""The file that `icl-bench init` writes when none is named."""
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


def is_meant_as_suite(path: Path) -> bool:
    """Tell whether a file is a suite, or would be if `icl_suite:` were its first key.

    Args:
        path: a file.
    """
    if is_suite(path):
        return True
    try:
        with path.open("rb") as stream:
            head = stream.read(HEAD_BYTES)
    except (OSError, ValueError):
        return False
    return re.search(rb"^icl_suite[ \t]*:", head, re.MULTILINE) is not None


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


def resolve_suite(name_or_path: str | os.PathLike[str], folder: Path = Path()) -> Path:
    """Return the file that a shipped suite's name or a path stands for.

    A bare name means the shipped suite even where a file of that name exists;
    `./name` means the file.

    Args:
        name_or_path: as given by `--icl-suite`.
        folder: what a relative path starts from.

    Raises:
        SuiteError: there is neither such a suite nor such a file; names the nearest suite.
    """
    text = os.path.expanduser(os.fspath(name_or_path))
    shipped = shipped_suites()
    if text in shipped:
        return shipped[text]
    path = folder / text
    try:
        if text and path.exists():
            return path
    except (OSError, ValueError):
        pass  # a name that no file system takes is reported as unknown
    given = Path(text)
    looks_like_path = given.suffix in (".yaml", ".yml") or len(given.parts) > 1
    if looks_like_path:
        close = [*_close_files(path), *difflib.get_close_matches(path.stem, shipped, n=1)]
        hint = f"; did you mean {close[0]!r}?" if close else ""
        raise SuiteError(f"{text}: no such suite file{hint}")
    there = [text + ending for ending in (".yaml", ".yml") if is_suite(folder / (text + ending))]
    hint = f"did you mean {there[0]!r}?" if there else nearest(text, shipped)
    raise SuiteError(f"no shipped suite and no file is called {text!r}; {hint}")


def _close_files(path: Path) -> list[str]:
    """Return the YAML file beside a path with the name most like its own, if one is like it."""
    try:
        names = [one.name for one in path.parent.iterdir() if one.suffix in (".yaml", ".yml")]
    except (OSError, ValueError):
        return []
    return difflib.get_close_matches(path.name, sorted(names), n=1, cutoff=0.7)
