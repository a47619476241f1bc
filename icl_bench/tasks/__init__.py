"""Facts that text probes are made of: few-shot tasks, and pairs of near-synonyms.

A task is a file of `fewshot/`, its name the file's: a list of [input, output], nothing else. How a
prompt is written is up to the probe. Nothing here needs a model.
"""

from __future__ import annotations

import functools
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from icl_bench.errors import SettingsError, nearest

FOLDER = Path(__file__).parent


@dataclass(frozen=True)
class Task:
    """One relation, as a list of facts.

    Args:
        name: name of its file.
        output: what the output is of the input, in words.
        items: (input, output), no input twice.
    """

    name: str
    output: str
    items: tuple[tuple[str, str], ...]

    @property
    def outputs(self) -> list[str]:
        """The different outputs, in the order of their first items."""
        return list(dict.fromkeys(output for _, output in self.items))


@dataclass(frozen=True)
class FuzzyItem:
    """Words of which one nearly means another, and two names to bind.

    Args:
        word: the word that stands in the context (A).
        synonym: a word of nearly its meaning (A').
        unrelated: a word that has to do with neither.
        other: the other word of the context, unrelated to all three (C).
        first: a name (B).
        second: another name (D).
    """

    word: str
    synonym: str
    unrelated: str
    other: str
    first: str
    second: str


def task_names() -> list[str]:
    """Names of all few-shot tasks, in alphabetical order."""
    return sorted(path.stem for path in (FOLDER / "fewshot").glob("*.json"))


@functools.cache
def load_task(name: str) -> Task:
    """Read a few-shot task.

    Args:
        name: one of `task_names()`.

    Raises:
        SettingsError: there is no such task; the message names the nearest one.
    """
    if name not in task_names():
        raise SettingsError(f"unknown task {name!r}; {nearest(name, task_names())}")
    data = _read(FOLDER / "fewshot" / f"{name}.json")
    return Task(name, data["output"], tuple((given, wanted) for given, wanted in data["items"]))


@functools.cache
def load_fuzzy_items() -> tuple[FuzzyItem, ...]:
    """Read the pairs of near-synonyms, each with its controls."""
    data = _read(FOLDER / "fuzzy.json")
    return tuple(FuzzyItem(**dict(zip(data["columns"], row))) for row in data["items"])


def _read(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))
