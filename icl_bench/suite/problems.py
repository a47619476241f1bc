"""What is wrong with a suite file and where, and how that is shown to its author."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from icl_bench.errors import SuiteError, defuse

SHOWN = 20
"""Problems shown of one file; of the others only the number is."""


@dataclass(frozen=True)
class Problem:
    """One mistake in a suite, with its 1-based line and column (in characters).

    Args:
        line: of the file.
        column: of the line.
        message: what is wrong, and what would be right.
        file: that it stands in; None for the suite's own.
    """

    line: int
    column: int
    message: str
    file: Path | None = None


def make_error(path: Path, problems: Iterable[Problem]) -> SuiteError:
    """Return one SuiteError that lists the problems of a suite, one a line, in order of place.

    Args:
        path: its file.
        problems: at least one.
    """
    lines = list_problems(path, problems)
    if len(lines) > SHOWN:
        lines[SHOWN:] = [f"{show_path(path)}: and {len(lines) - SHOWN} more problems"]
    return SuiteError("\n".join(lines))


def list_problems(path: Path, problems: Iterable[Problem]) -> list[str]:
    """Return problems as `path:line:column: message`, in order of place.

    Args:
        path: the suite's file; shown relative to the working directory when it lies inside it.
        problems: repeated ones are listed once.
    """

    def order(problem: Problem) -> tuple[bool, str, int, int, str]:
        file = problem.file or path
        return file != path, str(file), problem.line, problem.column, problem.message

    lines = []
    for problem in sorted(set(problems), key=order):
        file = problem.file or path
        place = f"{show_path(file)}:{problem.line}:{problem.column}"
        # What is right in the other suite alone may be wrong by what this one adds.
        why = f" (extended by {show_path(path)})" if file != path else ""
        lines.append(f"{place}: {defuse(problem.message)}{why}")
    return lines


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
