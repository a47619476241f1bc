"""How long measurements will take, from how long they have taken; never from nothing."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

Times = dict[str, float]
"""Digest of a measurement -> seconds."""
ENOUGH_SECONDS = 0.05
"""What two models must share for their paces to be compared; less is the clock's noise."""


class Expected(NamedTuple):
    """How long a measurement will take.

    Args:
        seconds: in all.
        rough: whether only another model's times tell, which may have had more or less to do.
    """

    seconds: float
    rough: bool = False


class Pace:
    """Times of one run, by model.

    A measurement's time is taken from, in this order: earlier checkpoints of the same series; an
    earlier run on the model, times how much slower this run is so far; another model of this run,
    times how much slower this model is, once one measurement has shown that.

    Args:
        earlier: model -> what its measurements took in an earlier run; asked for once.
    """

    def __init__(self, earlier: Callable[[str], Mapping[str, float]] | None = None) -> None:
        self._look = earlier or (lambda model: {})
        self._earlier: dict[str, Mapping[str, float]] = {}
        self._taken: dict[str, dict[str, list[float]]] = {}
        self._here: dict[str, Times] = {}

    def note(self, model: str, key: str, seconds: float, *, cached: bool = False) -> None:
        """Take in what a measurement took.

        Args:
            model: whose.
            key: digest of the measurement.
            seconds: how long it took, now or, when `cached`, in an earlier run.
            cached: whether it was not taken in this run, which then says nothing of its pace.
        """
        self._taken.setdefault(model, {}).setdefault(key, []).append(seconds)
        if not cached:
            self._here.setdefault(model, {})[key] = seconds

    def expect(
        self, model: str, key: str, running: tuple[str, float] | None = None
    ) -> Expected | None:
        """Return how long a measurement will take in all, or None when nothing tells.

        Args:
            model: whose.
            key: digest of the measurement.
            running: the measurement that is being taken, and its seconds so far.
        """
        own = self._taken.get(model, {}).get(key)
        if own:
            return Expected(sum(own) / len(own))
        earlier = self._of_earlier(model)
        if key in earlier:
            return Expected(earlier[key] * (self._ratio(model, earlier, running) or 1.0))
        for other in reversed(self._taken):
            if other == model:
                continue
            times = {name: sum(all_) / len(all_) for name, all_ in self._taken[other].items()}
            if key in times and (ratio := self._ratio(model, times, None)) is not None:
                return Expected(times[key] * ratio, rough=True)
        return None

    def _of_earlier(self, model: str) -> Mapping[str, float]:
        if model not in self._earlier:
            self._earlier[model] = self._look(model)
        return self._earlier[model]

    def _ratio(
        self, model: str, reference: Mapping[str, float], running: tuple[str, float] | None
    ) -> float | None:
        """How many times longer than the reference this run takes; None when nothing shows it."""
        here = dict(self._here.get(model, {}))
        if running is not None and running[1] > reference.get(running[0], float("inf")):
            here[running[0]] = running[1]  # it takes at least that
        shared = [key for key in here if key in reference]
        before = sum(reference[key] for key in shared)
        if before < ENOUGH_SECONDS:
            return None
        return sum(here[key] for key in shared) / before
