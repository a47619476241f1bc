"""Switches of the `example` probe: groups of heads that go off together, and all their settings."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any, Literal

Head = tuple[int, int]
Role = Literal["induction", "previous_token"]

PREVIOUS_TOKEN = 0.4
"""Previous-token score from which a head is one of the circuit's possible first halves."""
MOST_PREVIOUS = 8
"""Previous-token heads that are switched at most."""
WORDS: dict[Role, str] = {"induction": "induction head", "previous_token": "previous-token head"}


@dataclass(frozen=True)
class Switch:
    """Heads that go off together.

    Args:
        role: what they were chosen as.
        heads: (layer, head) of each, sorted.
        label: for a reader.
    """

    role: Role
    heads: tuple[Head, ...]
    label: str


def find_previous(
    scores: Mapping[Head, float], induction: Collection[Head], most: int = MOST_PREVIOUS
) -> list[Head]:
    """Return the previous-token heads that may feed the induction heads, strongest first.

    Args:
        scores: head -> previous-token score.
        induction: the induction heads; where there are some, only layers before the last of
            theirs count, and none of them is its own feeder.
        most: how many to return at most.
    """
    last = max((layer for layer, _ in induction), default=None)
    found = [
        head
        for head, score in scores.items()
        if score >= PREVIOUS_TOKEN and head not in induction and (last is None or head[0] < last)
    ]
    return sorted(found, key=lambda head: (-scores[head], head))[:most]


def lay_out_switches(
    induction: Sequence[Head], previous: Sequence[Head], count: int
) -> list[Switch]:
    """Return at most `count` switches that hold all of the heads.

    The strongest induction heads are alone, the rest of them together, so that one head can be
    seen to be made up for by the others; all previous-token heads are one switch, from five
    switches on two. What one kind has no heads for goes to the other. One switch alone is for all
    induction heads.

    Args:
        induction: the induction heads, strongest first.
        previous: the previous-token heads, strongest first.
        count: how many switches at most.
    """
    reserved = 0 if count < 2 and induction else 1 if count < 5 else 2
    reserved = min(reserved, len(previous), count)
    own = min(len(induction), count - reserved)
    other = min(len(previous), count - own) if own or not induction else 0
    return [*_split("induction", induction, own), *_split("previous_token", previous, other)]


def _split(role: Role, heads: Sequence[Head], count: int) -> list[Switch]:
    """The strongest heads one by one, the last switch with all that are left."""
    if count == 0:
        return []
    groups = [[head] for head in heads[: count - 1]] + [list(heads[count - 1 :])]
    return [
        Switch(role, tuple(sorted(group)), _label(role, group, other=count > 1)) for group in groups
    ]


def _label(role: Role, group: Sequence[Head], *, other: bool) -> str:
    if len(group) == 1:
        layer, head = group[0]
        return f"{WORDS[role]} {layer}.{head}"
    return f"{len(group)} {'other ' if other else ''}{WORDS[role]}s"


def every_setting(count: int) -> list[list[int]]:
    """Return the numbers of the switches that are off, for every setting of `count` switches.

    Nothing off comes first; the first switch changes fastest.
    """
    return [
        [number for number, off in enumerate(reversed(bits)) if off]
        for bits in product((False, True), repeat=count)
    ]


def heads_off(switches: Sequence[Switch], off: Collection[int]) -> list[Head]:
    """Return all heads of some switches, sorted.

    Args:
        switches: all of them.
        off: numbers of those that are off.
    """
    return sorted({head for number in off for head in switches[number].heads})


def switch_rows(switches: Sequence[Switch]) -> list[dict[str, Any]]:
    """Return one row per switch."""
    return [
        {
            "switch": number,
            "label": switch.label,
            "role": switch.role,
            "heads": [list(head) for head in switch.heads],
        }
        for number, switch in enumerate(switches)
    ]
