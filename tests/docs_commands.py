"""The commands that README and docs show."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
BLOCK = re.compile(r"^```(?:sh|console)?\n(.*?)^```$", re.MULTILINE | re.DOTALL)
PROGRAMS = ("pytest", "icl-bench", "pip", "make", "git", "eval", "python")
FOLDERS = [
    *("mine", "other", "new", "my-checkpoint", "step-4000", "step-5000"),
    *("checkpoints/step-4000", "checkpoints/step-5000", "runs/a/checkpoint-500"),
]
"""Checkpoints that the pages speak of."""
LONG = ("train-reference",)
"""Commands that take minutes; they have tests of their own."""


def commands(page: Path) -> list[str]:
    """The commands in a page's blocks, without what follows a `#`."""
    lines = [line for block in BLOCK.findall(page.read_text()) for line in block.splitlines()]
    bare = [re.sub(r"\s+#.*", "", line).strip().removeprefix("$ ") for line in lines]
    return [line for line in bare if line.split(" ")[0] in PROGRAMS]


def words_of(line: str) -> list[str]:
    """The words of a command, without places for options that it need not have."""
    return shlex.split(line.replace("[DIR]", "").replace("[NAME=]", ""))


def at_hand(words: list[str], stands_for: dict[str, str]) -> list[str]:
    """The words of a command with what is at hand in place of what is not."""
    found = []
    for word in words:
        option, equals, value = word.partition("=")
        told = stands_for.get(value if equals else option, value if equals else option)
        found.append(f"{option}={told}" if equals else told)
    return found
