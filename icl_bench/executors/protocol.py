"""What an executor is, and the workers that it hires: parts go out, plain results come back."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

Take = Callable[[int, Any], None]
"""Gets the place of a part in the list, and one result of it, as soon as it is there."""
Lost = Callable[[int, str], None]
"""Gets the place of a part that nobody could carry out, and why."""


@dataclass(frozen=True)
class Share:
    """Which part of the machine a worker has.

    Args:
        place: which worker it is, from 0.
        workers: how many there are on this machine.
    """

    place: int
    workers: int


class Worker(Protocol):
    """Carries out parts one after another; what it holds open stays open between them."""

    def carry_out(self, part: Any, tell: Callable[[Any], None]) -> None:
        """Carry out one part.

        Args:
            part: plain data.
            tell: gets each result, plain data too, as soon as it is there.
        """

    def close(self) -> None:
        """Let go of what is held open."""


Hire = Callable[[Share], Worker]
"""Makes a worker, in the process that it works in; it can be pickled."""


class Executor(Protocol):
    """Has parts carried out somewhere."""

    def carry_out(self, hire: Hire, parts: Sequence[Any], take: Take, lost: Lost) -> None:
        """Have all parts carried out; returns when each is done or lost.

        An interruption ends the workers; what they had told by then has been taken.

        Args:
            hire: makes a worker.
            parts: plain data, in the order in which they are begun.
            take: gets the results.
            lost: is told of parts that nobody could carry out.
        """
