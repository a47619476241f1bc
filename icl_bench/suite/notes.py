"""What is wrong with a suite, noted while it is read."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from icl_bench.suite.document import Document, PathKey
from icl_bench.suite.problems import Problem, show_path


class Notes:
    """A document's data and the problems found in it so far."""

    def __init__(self, document: Document) -> None:
        self.document = document
        self.problems = list(document.problems)
        self.warnings: list[Problem] = []

    def add(self, path: PathKey, message: str, at_key: bool = False) -> None:
        """Note a problem with the value (or the key) at `path`."""
        place = self.document.locate(path, at_key)
        self.problems.append(Problem(*place, message, self.document.file_of(path)))

    def warn(self, path: PathKey, message: str) -> None:
        """Note what is allowed and hardly meant at the value at `path`."""
        place = self.document.locate(path)
        self.warnings.append(Problem(*place, message, self.document.file_of(path)))

    def blame_removal(self, name: str, path: PathKey) -> bool:
        """Note, once, that a measurement is removed which the value at `path` reads.

        Returns:
            False where none of that name is removed.
        """
        removed = self.document.removed.get(name)
        if removed is None:
            return False
        line, _ = self.document.locate(path)
        file = self.document.file_of(path)
        reader = f"{show_path(file)}:{line}" if file else f"line {line}"
        if not any(removed.message in one.message for one in self.problems):
            message = f"{removed.message}, and {reader} reads it: remove that too, or keep it"
            self.problems.append(replace(removed, message=message))
        return True

    def section(self, name: str, kind: type) -> Any:
        """Return a top-level section, or an empty one where it is absent or of the wrong kind."""
        value = self.document.data.get(name)
        return value if isinstance(value, kind) else kind()
