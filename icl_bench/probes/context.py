"""What a probe gets beside the model and its settings."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field

from icl_bench.record import Measurement

Advance = Callable[[int], None]
Task = Callable[[str, int], AbstractContextManager[Advance]]
"""Opens a progress line: (what is done, rows in all) -> a function to call with rows done."""


@contextmanager
def silent_task(description: str, total: int) -> Iterator[Advance]:
    """Show no progress."""
    yield lambda rows: None


@dataclass
class Context:
    """Surroundings of one measurement.

    Args:
        upstream: the measurement that heads are chosen from, when the settings name one.
        task: opens a progress line.
    """

    upstream: Measurement | None = None
    task: Task = field(default=silent_task)
