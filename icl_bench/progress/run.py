"""The progress of a whole run: which model, which measurement, which task, how much is left."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Protocol

from icl_bench.probes.design.context import Advance
from icl_bench.progress.pace import Expected, Pace
from icl_bench.progress.progress_state import ProgressState, duration
from icl_bench.records.keys import Key
from icl_bench.records.parts import Measurement
from icl_bench.render.writing.text import one_line

OPENING = "opening"
"""What a run does when it opens a model; measuring is told by the measurement's digest."""


class Display(Protocol):
    """Shows how far a run is.

    Args:
        wait: seconds between two showings.
        redraws: whether what is shown replaces what was shown before, and can be shown at once.
    """

    wait: float
    redraws: bool

    def show(self, state: ProgressState) -> None:
        """Show what is going on."""

    def clear(self) -> None:
        """Take away what is shown, when nothing is going on."""


class RunProgress:
    """What a run says of itself while it measures; without a display nothing comes of it.

    Args:
        models: names of the run's models, in their order.
        display: who shows it.
        earlier: model -> digest of a measurement -> its seconds in an earlier run.
        write: writes the line with which a model begins; None for no such line.
        clock: seconds that only grow.
        note: is told, at once, the model and what begins: `OPENING`, the digest of a measurement,
            or nothing when it ended.
    """

    def __init__(
        self,
        models: Sequence[str] = (),
        display: Display | None = None,
        earlier: Callable[[str], Mapping[str, float]] | None = None,
        write: Callable[[str], None] | None = None,
        clock: Callable[[], float] = time.monotonic,
        note: Callable[[str, str], None] | None = None,
    ) -> None:
        self._models, self._display, self._clock = list(models), display, clock
        self._note = note or (lambda model, doing: None)
        self._pace, self._write = Pace(earlier), write
        self._now = ProgressState("")
        self._labels: dict[str, str] = {}
        self._done: set[str] = set()
        self._key: str | None = None
        self._started = self._task_started = 0.0
        self._drawn: float | None = None
        self._openings: list[float] = []
        self._is_closed = True

    @property
    def model(self) -> str:
        """Name of the model that was entered last; empty before the first."""
        return self._now.model

    @property
    def measured(self) -> str | None:
        """Digest of the measurement that is being taken; None for none."""
        return self._key

    def announce(self, model: str, measurements: Collection[str], steps: int = 0) -> None:
        """Write the line with which a model begins, where there is one.

        Args:
            model: its name in ids.
            measurements: digests of what will be measured.
            steps: checkpoints of a series; 0 for a single model.
        """
        if self._write is not None:
            self._write(self.foretell(model, measurements, steps))

    def foretell(self, model: str, measurements: Collection[str], steps: int = 0) -> str:
        """Return the line with which a model begins: how much there is to do.

        Args:
            model: its name in ids.
            measurements: digests of what will be measured.
            steps: checkpoints of a series; 0 for a single model.
        """
        place = self._models.index(model) + 1 if model in self._models else 1
        count = len(measurements)
        line = f"icl_bench: model {place} of {max(len(self._models), 1)}, {one_line(model)}: "
        line += f"{count} measurement{'' if count == 1 else 's'}"
        line += f" at each of {steps} checkpoints" if steps else ""
        times = [self._pace.expect(model, key) for key in measurements]
        known = [one.seconds for one in times if one is not None and not one.rough]
        if known and len(known) == count:
            line += f", {duration(max(steps, 1) * sum(known))} in an earlier run"
        return line

    def enter(
        self, model: str, measurements: Mapping[str, str], done: Collection[str] = ()
    ) -> None:
        """Say what will be measured now: of a model, or of one checkpoint of a series.

        Args:
            model: its name in ids.
            measurements: digest of each measurement -> its key, `SUITE/NAME`.
            done: digests of those that have been measured.
        """
        if model != self._now.model:
            self._start_model(model)
        self._done |= set(done)
        suites = {Key(key).suite for key in measurements.values()}
        self._labels = {
            digest: key if len(suites) > 1 else Key(key).name
            for digest, key in measurements.items()
        }

    def at_step(self, step: int | None, place: int = 0, steps: int = 0) -> None:
        """Say which checkpoint of the series is measured now.

        Args:
            step: its optimizer step; None when all have been measured.
            place: which one it is, from 1.
            steps: how many there are.
        """
        self._done = set()
        self._now = replace(self._now, step=step, step_place=place, steps=steps)

    def found(self, key: str, taken: Measurement) -> None:
        """Say that a measurement need not be taken.

        Args:
            key: its digest.
            taken: what an earlier run measured.
        """
        self._done.add(key)
        if taken.seconds is not None:
            self._pace.note(self._now.model, key, taken.seconds, cached=True)

    @contextmanager
    def measuring(self, key: str) -> Iterator[Callable[[Measurement], None]]:
        """Say that a measurement is being taken; what is yielded is told what came of it.

        Args:
            key: its digest.
        """
        self._key, self._started = key, self._clock()
        self._labels.setdefault(key, key)

        def finish(taken: Measurement) -> None:
            if taken.cached:
                self.found(key, taken)
            elif taken.status == "measured":
                self._is_closed = False
                self._pace.note(self._now.model, key, self._clock() - self._started)

        self._note(self._now.model, key)
        try:
            self._show(self._task(None, 0), force=True)
            yield finish
        finally:
            self._note(self._now.model, "")
            self._done.add(key)
            self._key = None
            self._clear()

    @contextmanager
    def opening(self, model: str, name: str) -> Iterator[None]:
        """Say that a model is being opened.

        Args:
            model: its name in ids.
            name: what is opened, in words.
        """
        if model != self._now.model:
            self._start_model(model)
        started = self._clock()
        self._note(model, OPENING)
        try:
            with self.task(f"opening {name}", 0):
                yield
        finally:
            self._note(model, self._key or "")
        self._is_closed = False
        self._started = self._clock()  # a measurement's own time begins now
        self._openings.append(self._started - started)

    @contextmanager
    def task(self, description: str, total: int) -> Iterator[Advance]:
        """Say that a task is going on; what is yielded is told how many rows were done.

        Args:
            description: what is being done.
            total: rows to do; 0 when that is not known.
        """
        state = self._task(description, total)
        self._task_started = self._clock()

        def advance(rows: int) -> None:
            nonlocal state
            state = replace(state, done=state.done + rows)
            self._show(state)

        try:
            self._show(state, force=True)
            yield advance
        finally:
            if self._key is None:
                self._clear()

    def _start_model(self, model: str) -> None:
        place = self._models.index(model) + 1 if model in self._models else 0
        self._now = ProgressState(model, place=place, models=len(self._models))
        self._labels, self._done, self._key, self._openings = {}, set(), None, []
        self._is_closed = True

    def _task(self, description: str | None, total: int) -> ProgressState:
        state = replace(self._now, task=description, total=total)
        if self._key is not None:
            number = len(self._done & set(self._labels)) + 1
            state = replace(
                state,
                measurement=self._labels[self._key],
                number=number,
                measurements=max(len(self._labels), number),
            )
        return state

    def _show(self, state: ProgressState, force: bool = False) -> None:
        if self._display is None:
            return
        now = self._clock()
        if self._drawn is None:
            self._drawn = now
        if not (force and self._display.redraws) and now - self._drawn < self._display.wait:
            return
        self._drawn = now
        task_left = None
        if 0 < state.done < state.total:
            pace = (now - self._task_started) / state.done
            task_left = pace * (state.total - state.done)
        left = self._left(now, task_left)
        told = replace(state, task_left=task_left)
        if left is not None:
            told = replace(told, left=left.seconds, rough=left.rough)
        self._display.show(told)

    def _clear(self) -> None:
        if self._display is not None:
            self._display.clear()

    def _left(self, now: float, task_left: float | None) -> Expected | None:
        """How long until all is measured; None unless every part of them is known."""
        if self._key is None or self._is_closed:
            return None  # how long opening takes is written nowhere
        running = (self._key, now - self._started)
        model, left = self._now.model, 0.0
        each: dict[str, Expected] = {}
        for key in self._labels:
            expected = self._pace.expect(model, key, running)
            if expected is None:
                return None
            each[key] = expected
            if key == self._key:
                left += max(expected.seconds - running[1], task_left or 0.0, 0.0)
            elif key not in self._done:
                left += expected.seconds
        later = self._now.steps - self._now.step_place
        if later > 0:
            if not self._openings:
                return None
            opening = sum(self._openings) / len(self._openings)
            left += later * (sum(one.seconds for one in each.values()) + opening)
        open_ones = [one for key, one in each.items() if key not in self._done or later > 0]
        return Expected(left, any(one.rough for one in open_ones))
