"""Seeded mutations of data, and what is counted of broken inputs."""

from __future__ import annotations

import contextlib
import copy
import json
import random
import signal
import traceback
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ODD: list[Any] = [
    *(None, True, False, 0, -1, 1, 2**31, 2**70, -0.5, 0.5, 1e308, float("nan"), float("inf")),
    *("", "x", "0", "../x", "/x", "\x1b[31m", "a\n::error::b", "<script>", "ä" * 3, "\ud800"),
    *([], {}, [[]], [0], ["x"], [None], {"a": 1}, {"": []}),
]
"""Values that stand where something else is expected."""
LONG: list[Any] = ["x" * 100_000, "\u202e" * 50, 10**400, -1e308, 5e-324, 2**53 + 1, -(2**63)]
"""Further ones: long, tiny and huge."""
_NUMBERS = [
    *(0, 1, 2, 3, 7, 50, 1000, 2**31, 2**62, -1),
    *(0.0, -0.0, 0.1, 0.5, 0.999, 1e-300, 1e99, 1e200),
]
_SAME_KIND: dict[type, list[Any]] = {
    int: _NUMBERS,
    float: _NUMBERS,
    bool: [True, False],
    str: ["x", "a b", " ", "*", "!*", "[", "ä", "x" * 3000, "a\nb", "<b>", "=1+1", "|", "\x1b[1m"],
}
"""Kind of a value -> others of its kind, which are accepted more often."""


@dataclass
class Outcome:
    """What became of broken inputs.

    Args:
        tried: how many there were.
        told: refused by a message, or measured again with one.
        same: their values were what they had been.
        accepted: taken for sound, where that is no fault.
        escaped: what was neither, in words.
    """

    tried: int = 0
    told: int = 0
    same: int = 0
    accepted: int = 0
    escaped: list[str] = field(default_factory=list)

    def fault(self, number: int, what: str, error: BaseException | str) -> None:
        """Note an escape.

        Args:
            number: of the case, from the generator's seed.
            what: where it happened.
            error: what was raised, or what is wrong.
        """
        told = error if isinstance(error, str) else show_error(error)
        self.escaped.append(f"{number}: {what}: {told}")

    def refused(self, number: int, error: Exception, lines: int = 1) -> None:
        """Count a refusal, and note as an escape one that is no good message.

        Args:
            number: of the case.
            error: the refusal.
            lines: how many lines it may have.
        """
        self.told += 1
        if why := explain_message(str(error), lines):
            self.fault(number, "message", why)


class Hang(BaseException):
    """A case took longer than any case should."""


@contextlib.contextmanager
def patience(seconds: int) -> Iterator[None]:
    """Raise Hang where a block takes too long. For the main thread.

    Args:
        seconds: how long; 0 for no limit.
    """

    def give_up(*_: object) -> None:
        raise Hang(f"more than {seconds} s")

    before = signal.signal(signal.SIGALRM, give_up) if seconds else None
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        if seconds:
            signal.signal(signal.SIGALRM, before)


def explain_message(text: str, lines: int = 1) -> str | None:
    """Return what is wrong with a message for people; None if nothing is.

    Args:
        text: the message.
        lines: how many lines it may have.
    """
    if not text.strip():
        return "an empty message"
    if text.count("\n") >= lines:
        return f"{text.count(chr(10)) + 1} lines: {text[:200]!r}"
    if "Traceback" in text:
        return f"a traceback: {text[-300:]!r}"
    odd = {unicodedata.category(sign) for sign in text.replace("\n", "")}
    if odd & {"Cc", "Cf", "Cs", "Zl", "Zp"}:
        return f"control characters: {text[:200]!r}"
    if any(line.lstrip().startswith(("::", "##[")) for line in text.splitlines()):
        return f"an order to CI: {text[:200]!r}"
    if len(text) > lines * 5000:
        return f"{len(text)} characters"
    return None


def show_error(error: BaseException) -> str:
    """Return an exception in a line, with the place in icl_bench that it is from.

    Args:
        error: the exception.
    """
    frames = traceback.extract_tb(error.__traceback__)
    own = [one for one in frames if "icl_bench" in Path(one.filename).parts] or frames
    at = f"{Path(own[-1].filename).name}:{own[-1].lineno}" if own else "?"
    return f"{type(error).__name__}: {error} ({at})"[-300:]


def mutate(data: Any, draw: random.Random) -> Any:
    """Return parsed JSON with one to three places of it changed.

    Args:
        data: it stays as it is.
        draw: where, and into what.
    """
    data = copy.deepcopy(data)
    for _ in range(draw.choice([1, 1, 1, 2, 3])):
        place = data
        while isinstance(place, (dict, list)) and place:
            keys = list(place) if isinstance(place, dict) else list(range(len(place)))
            deeper = [key for key in keys if isinstance(place[key], (dict, list)) and place[key]]
            key = draw.choice(deeper if deeper and draw.random() < 0.8 else keys)
            inner = place[key]
            if key in deeper and draw.random() < 0.9:
                place = inner
                continue
            _change(place, key, draw)
            break
    return data


def _change(place: Any, key: Any, draw: random.Random) -> None:
    inner = place[key]
    if draw.random() < 0.4 and type(inner) in _SAME_KIND:
        place[key] = draw.choice(_SAME_KIND[type(inner)])
        return
    match draw.randrange(9):
        case 0:
            del place[key]
        case 1 if isinstance(place, dict):
            place[str(draw.choice(ODD))] = place.pop(key)
        case 2 if type(inner) in (int, float):
            place[key] = inner * draw.choice([-1, 0, 1e6, 1e300, 2**40])
        case 3 if isinstance(inner, str):
            at = draw.randrange(len(inner) + 1)
            place[key] = inner[:at] + draw.choice(["\x00", "\x1b", "\u202e", "'", "*", "."])
        case 4:
            place[key] = copy.deepcopy(draw.choice(LONG))
        case 5:  # what stands elsewhere in the same part
            others = list(place) if isinstance(place, dict) else range(len(place))
            place[key] = copy.deepcopy(place[draw.choice(list(others))])
        case 6 if draw.random() < 0.3:
            place[key] = nest(inner, draw.choice([3, 40, 150]), draw)
        case _:
            place[key] = copy.deepcopy(draw.choice(ODD))


def dump(data: Any) -> bytes:
    """Return data as a JSON file.

    Args:
        data: whatever JSON, or Python's JSON, can say.
    """
    return json.dumps(data).encode()


def nest(value: Any, levels: int, draw: random.Random) -> Any:
    """Return a value within so many lists or mappings.

    Args:
        value: what is inside.
        levels: how many.
        draw: lists or mappings.
    """
    for _ in range(levels):
        value = draw.choice([[value], {"a": value}])
    return value
