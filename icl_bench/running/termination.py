"""What ends a run from outside: SIGTERM, and tools that break an item off, as pytest-timeout."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


@contextmanager
def terminable() -> Iterator[None]:
    """Let SIGTERM end what runs within as Ctrl-C does: what was measured is kept.

    Batch systems and containers send it before they kill. A second one is ignored, for it would
    cost what the first one saves. A program that has a handler of its own keeps it.
    """
    alone = threading.current_thread() is threading.main_thread()
    if not alone or signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL:
        yield
        return
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _interrupt(number: int, frame: FrameType | None) -> None:
    __tracebackhide__ = True  # pytest tells where the signal struck
    signal.signal(signal.SIGTERM, _ignore)
    raise KeyboardInterrupt


def _ignore(number: int, frame: FrameType | None) -> None:
    # Not SIG_IGN, which processes that are started from now on would inherit.
    pass


def breaks_off(error: BaseException) -> bool:
    """Return whether an error ends a measurement and nothing else.

    What pytest's `fail` raises, which pytest-timeout calls, is no Exception, for tests not to
    catch it.

    Args:
        error: what was raised.
    """
    whole = (Exception, KeyboardInterrupt, SystemExit, GeneratorExit)
    return not isinstance(error, whole)


def reason_of(error: BaseException) -> str:
    """Return why something was broken off, in one line.

    Args:
        error: what broke it off.
    """
    return (str(error).strip() or type(error).__name__).splitlines()[0]
