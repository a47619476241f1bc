"""Progress under xdist: what workers are measuring, shown by the process that runs none of it.

Each worker gets a channel of its own (execnet's, which xdist's messages go through as well), so
nothing lies on disk, and a worker that dies takes its channel with it.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from icl_bench.progress.log import REMIND_SECONDS, WIDTH
from icl_bench.progress.progress_state import ProgressState, describe
from icl_bench.progress.screen import REDRAW_SECONDS, Screen

CHANNEL = "icl_bench_progress"
"""Name of a worker's channel in what xdist hands to it."""
PATIENCE = 1.0
"""Seconds that a drawing waits for pytest's own; then it is left out."""


class ToController:
    """In a worker: sends what it is measuring.

    Args:
        channel: to the process that shows it.
    """

    wait = 0.5
    redraws = True

    def __init__(self, channel: Any) -> None:
        self._channel = channel

    def show(self, state: ProgressState) -> None:
        """Send what is going on."""
        self._send(json.dumps(state.as_data()))

    def clear(self) -> None:
        """Send that nothing is."""
        self._send("")

    def _send(self, text: str) -> None:
        try:
            self._channel.send(text)
        except Exception:
            # Whoever listened is gone; measuring does not depend on that.
            self._channel = _Nobody()


class _Nobody:
    def send(self, text: str) -> None:
        pass


class WorkersProgress:
    """In the controller: a line for every worker that is measuring.

    What workers send arrives in another thread than pytest's, so drawing waits while pytest
    writes (`paused`).

    Args:
        screen: where it is drawn.
        clock: seconds that only grow.
    """

    def __init__(self, screen: Screen, clock: Callable[[], float] = time.monotonic) -> None:
        self._screen, self._clock = screen, clock
        self._lock = threading.RLock()
        self._states: dict[str, ProgressState] = {}
        self._drawn: float | None = None
        self._last: list[str] = []
        self._ended = False

    def listen_to(self, node: Any) -> None:
        """Give a worker a channel, before it starts.

        Args:
            node: xdist's side of the worker.
        """
        name = str(node.gateway.id)
        channel = node.gateway.newchannel()
        node.workerinput[CHANNEL] = channel
        channel.setcallback(lambda text: self.receive(name, text))

    def receive(self, worker: str, text: str) -> None:
        """Take in what a worker sent.

        Args:
            worker: its name.
            text: a progress state as JSON; empty when nothing is going on.
        """
        if not self._lock.acquire(timeout=PATIENCE):
            return
        try:
            before = self._states.pop(worker, None)
            after = ProgressState.from_data(json.loads(text)) if text else None
            if after is not None:
                self._states[worker] = after
            # What has begun or ended is shown at once, how far it is now and then.
            self._draw(force=self._screen.redraws and _kind_of(before) != _kind_of(after))
        except Exception:
            # An error here would end the worker's connection for a mere picture.
            self._ended = True
        finally:
            self._lock.release()

    def forget(self, worker: str) -> None:
        """Take a worker's line away: it is gone.

        Args:
            worker: its name.
        """
        with self._lock:
            self._states.pop(worker, None)

    @contextmanager
    def paused(self) -> Iterator[None]:
        """While pytest writes: nothing is drawn, and what was is erased and drawn again after."""
        with self._lock:
            self._screen.clear()
            yield
            if self._screen.redraws:
                self._draw(force=True)

    def end(self) -> None:
        """Erase everything; nothing is drawn any more."""
        with self._lock:
            self._ended = True
            self._screen.clear()

    def _draw(self, force: bool = False) -> None:
        now = self._clock()
        if self._drawn is None and not self._screen.redraws:
            self._drawn = now
        wait = REDRAW_SECONDS if self._screen.redraws else REMIND_SECONDS
        late = self._drawn is None or now - self._drawn >= wait
        if self._ended or not (force or late):
            return
        width = self._screen.width if self._screen.redraws else WIDTH
        lines = [describe(one, width, who) for who, one in sorted(self._states.items())]
        if self._screen.redraws:
            self._screen.draw(lines)
        elif lines and lines != self._last:
            for line in lines:
                self._screen.write_line(line)
        else:
            return
        self._drawn, self._last = now, lines


def _kind_of(state: ProgressState | None) -> tuple[object, ...]:
    """What is done, without how far it is."""
    if state is None:
        return ()
    return state.model, state.step, state.measurement, state.task
