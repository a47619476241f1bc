"""How far a run is at one moment, and that in words."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from icl_bench.render.writing.text import columns, cut, one_line

UNKNOWN = "time left unknown yet"
_ROOM = ((28, 16), (12, 8))
"""Columns that a model's and a task's name keep when room is short, and when it is very short."""


@dataclass(frozen=True)
class ProgressState:
    """What is going on, as plain data: it travels from xdist's workers as it is.

    Args:
        model: the model's name in ids, or what is being opened.
        place: which model of the run it is, from 1; 0 when that is not known.
        models: models of the run.
        step: optimizer step of the checkpoint, in a series.
        step_place: which checkpoint it is, from 1.
        steps: checkpoints of the series.
        measurement: name of what is being measured; None before the first.
        number: which measurement of the model, or checkpoint, it is, from 1.
        measurements: how many there are.
        task: what is being done, in words.
        done: rows of the task that are done.
        total: rows of the task; 0 when that is not known.
        task_left: seconds that the task will take by its own pace; None when not known.
        left: seconds until the model, or all checkpoints, are measured; None when not known.
        rough: whether `left` comes from another model's times.
    """

    model: str
    place: int = 0
    models: int = 0
    step: int | None = None
    step_place: int = 0
    steps: int = 0
    measurement: str | None = None
    number: int = 0
    measurements: int = 0
    task: str | None = None
    done: int = 0
    total: int = 0
    task_left: float | None = None
    left: float | None = None
    rough: bool = False

    def as_data(self) -> dict[str, Any]:
        """Return this as plain data."""
        return asdict(self)

    @classmethod
    def from_data(cls, data: Mapping[str, Any]) -> ProgressState:
        """Return what `as_data` gave.

        Args:
            data: fields by name.
        """
        return cls(**data)

    @property
    def share(self) -> str:
        """How much of the task is done, as in ` 45%`; empty when that is not known."""
        return f" {min(100 * self.done // self.total, 100)}%" if self.total else ""

    @property
    def time_left(self) -> str:
        """How long the rest will take, or that this is not known; nothing at the end of a task."""
        if self.left is not None:
            about = "about " if self.rough else ""
            return f"{about}{duration(self.left)} left" + (" for all steps" if self.steps else "")
        if 0 < self.total <= self.done:
            return ""
        if self.task_left is not None and self.measurement is None:
            return f"{duration(self.task_left)} left"
        if self.task_left is not None:
            return f"task {duration(self.task_left)}, rest unknown yet"
        return UNKNOWN

    @property
    def place_in_run(self) -> str:
        """Which model and checkpoint this is, as in `model 1 of 2 gpt2, step 500 (3 of 9)`."""
        words = [f"model {self.place} of {self.models} {self.model}"] if self.models > 1 else []
        if self.step is not None:
            words.append(f"step {self.step} ({self.step_place} of {self.steps})")
        return one_line(", ".join(words))


def describe(state: ProgressState, width: int, who: str = "icl_bench") -> str:
    """Return how far a run is in one line; names are cut before anything that is a number.

    Args:
        state: what is going on.
        width: columns of the line.
        who: stands first: the program, or a worker.
    """
    model = one_line(state.model) if state.models > 1 else ""
    task = one_line(state.task or "")
    place = f"{state.place}/{state.models} " if model else ""
    step = ""
    if state.step is not None:
        step = f"step {state.step} ({state.step_place} of {state.steps})"
    measurement = ""
    if state.measurement is not None:
        name = one_line(state.measurement)
        measurement = f"{state.number}/{state.measurements} {name}"

    tail = "; ".join(filter(None, (state.share, state.time_left)))
    if not state.share:
        tail = f"; {tail}"

    def join(model: str, task: str) -> str:
        parts = [place + model if model else "", step, measurement, task]
        return f" {who} {': '.join(filter(None, parts))}"

    room = width - columns(tail)
    for least in _ROOM:
        # A long model's name first, then the task.
        excess = max(columns(join(model, task)) - room, 0)
        model = cut(model, max(columns(model) - excess, min(columns(model), least[0])))
        excess = max(columns(join(model, task)) - room, 0)
        task = cut(task, max(columns(task) - excess, min(columns(task), least[1])))
    return cut(cut(join(model, task), max(room, 0)) + tail, width)


def duration(seconds: float) -> str:
    """Return a time in words: `12 s`, `3 min`, `2.5 h`.

    Args:
        seconds: how long.
    """
    if seconds < 1:
        return "under 1 s"
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
