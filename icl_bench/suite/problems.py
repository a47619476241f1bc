"""What is wrong with a suite file and where, and how that is shown to its author."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from icl_bench.errors import SuiteError, defuse

SHOWN = 20
"""Problems shown of one file; of the others only the number is."""


@dataclass(frozen=True, order=True)
class Problem:
    """One mistake in a suite file, with its 1-based line and column (in characters)."""

    line: int
    column: int
    message: str


def make_error(path: Path, problems: Iterable[Problem]) -> SuiteError:
    """Return one SuiteError that lists all problems of a file, one a line, in order of place.

    Args:
        path: the file; shown relative to the working directory when it lies inside it.
        problems: at least one; repeated ones are listed once.
    """
    place = show_path(path)
    ordered = sorted(set(problems))
    lines = [f"{place}:{p.line}:{p.column}: {defuse(p.message)}" for p in ordered[:SHOWN]]
    if len(ordered) > SHOWN:
        lines.append(f"{place}: and {len(ordered) - SHOWN} more problems")
    return SuiteError("\n".join(lines))


def show_path(path: Path) -> str:
    """Return `path` as its user would write it: relative when inside the working directory."""
    try:
        return str(Path(os.path.abspath(path)).relative_to(Path.cwd()))
    except (ValueError, OSError):
        return str(path)


def show_value(value: object) -> str:
    """Return a short form of a YAML value for use in a message."""
    if value is None:
        return "(no value)"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, dict):
        return "(a mapping)"
    if isinstance(value, list):
        return "(a list)"
    text = repr(value)
    return text if len(text) <= 60 else text[:56] + "..." + text[0]
