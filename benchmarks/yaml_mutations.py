"""Seeded mutations of YAML files: of their data, and of how it is written."""

from __future__ import annotations

import contextlib
import json
import random
from collections.abc import Callable
from typing import Any

import yaml
from mutations import mutate

from icl_bench.suite.document import parse


def mutate_yaml(text: str, draw: random.Random) -> bytes:
    """Return a YAML file with something changed, in its data or in how it is written.

    Args:
        text: a sound file.
        draw: where, and into what.
    """
    in_data = draw.random() < 0.6
    if in_data:
        data = mutate(parse(text).data, draw)  # YAML 1.2: `on` is no boolean
        if draw.random() < 0.1 and isinstance(data, dict):
            items = list(data.items())
            draw.shuffle(items)
            data = dict(items)
        text = _dump(data, draw)
    if not in_data or draw.random() < 0.15:
        for _ in range(draw.choice([1, 1, 2])):
            text = draw.choice(_WRITINGS)(text, draw)
    if draw.random() < 0.04:
        return text.encode(draw.choice(["utf-16", "utf-8-sig", "latin-1"]), "replace")
    return text.encode("utf-8", "surrogatepass")


def _dump(data: Any, draw: random.Random) -> str:
    if draw.random() < 0.3:
        with contextlib.suppress(ValueError):
            return json.dumps(data, ensure_ascii=draw.random() < 0.5)
    style = draw.choice([None, False, True])
    with contextlib.suppress(ValueError):  # a whole number of more digits than Python writes
        return yaml.safe_dump(data, default_flow_style=style, allow_unicode=True, sort_keys=False)
    return repr(data)


_SIGNS = ["\x00", "\x07", "\x1b[2J", "\x85", "\u2028", "\ufeff", "\u202e", "\ud800", "\t", "\r"]
_SCALARS = [
    *("1_000", "0x1F", "0o17", "012", "+5", "-0", "1e999", "-1e999", "1e-400", ".inf", "-.inf"),
    *(".nan", "1:30", "2026-01-01", "yes", "Null", "~", "=", "<<", "1" * 5000, "0x" + "f" * 40),
    *('"\\ud800"', "'a''b'", "|\n    a\n     b", ">-\n    x", "? a", "- a", "*nothing", "&b"),
    *("!!python/object/apply:os.mkdir [pwned]", "!!binary aGk=", "!!set {a}", "!!int x", "!x y"),
    *("!!timestamp 2026-01-01", "!!omap [a: 1]", "!!str 5", "!!float nan", "{a: 1, a: 2}"),
]


def _lines(change: Callable[[list[str], int, random.Random], None]) -> Any:
    """A change of the line at a random place, as a change of a text."""

    def changed(text: str, draw: random.Random) -> str:
        lines = text.split("\n")
        change(lines, draw.randrange(len(lines)), draw)
        return "\n".join(lines)

    return changed


def _twice(lines: list[str], at: int, draw: random.Random) -> None:
    lines.insert(at, lines[at])


def _gone(lines: list[str], at: int, draw: random.Random) -> None:
    del lines[at : at + draw.randint(1, 3)]


def _swapped(lines: list[str], at: int, draw: random.Random) -> None:
    other = draw.randrange(len(lines))
    lines[at], lines[other] = lines[other], lines[at]


def _indented(lines: list[str], at: int, draw: random.Random) -> None:
    line = lines[at]
    lines[at] = draw.choice([f" {line}", f"  {line}", line[1:], line.lstrip(), f"\t{line}"])


def _signed(lines: list[str], at: int, draw: random.Random) -> None:
    place = draw.randrange(len(lines[at]) + 1)
    lines[at] = lines[at][:place] + draw.choice(_SIGNS) + lines[at][place:]


def _scalar(lines: list[str], at: int, draw: random.Random) -> None:
    if ": " in lines[at]:
        start = lines[at].partition(": ")[0]
        lines[at] = f"{start}: {draw.choice(_SCALARS)}"


def _aliased(lines: list[str], at: int, draw: random.Random) -> None:
    """An anchor at one value, its alias at another: before it, after it, or within it."""
    places = [number for number, line in enumerate(lines) if ":" in line]
    if len(places) > 1:
        one, other = draw.sample(places, 2)
        start, _, rest = lines[one].partition(":")
        lines[one] = f"{start}: &a{rest}"
        lines[other] = lines[other].partition(":")[0] + ": *a"


def _merged(lines: list[str], at: int, draw: random.Random) -> None:
    space = " " * (len(lines[at]) - len(lines[at].lstrip()))
    source = draw.choice(["*a", "[*a, *b]", "{probe: induction}", "{<<: {id: x}}", "5", "[]"])
    lines.insert(at, f"{space}<<: {source}")
    if draw.random() < 0.7:
        lines[0] = f"{lines[0]}\nx: [&a {{probe: induction}}, &b {{id: y, above: 1}}]"


def _grown(lines: list[str], at: int, draw: random.Random) -> None:
    """Aliases of aliases, which are small in the file and huge once written out."""
    wide, deep = draw.choice([(10, 9), (2, 25), (9, 3)])
    grown = ["b0: &b0 [x]"]
    for level in range(deep):
        grown.append(f"b{level + 1}: &b{level + 1} [{', '.join([f'*b{level}'] * wide)}]")
    lines.extend(grown)


def _deep(lines: list[str], at: int, draw: random.Random) -> None:
    levels = draw.choice([10, 40, 5000])
    opened = draw.choice(["[", "{a: ", "- "])
    lines[at] = f"{lines[at].partition(':')[0]}: {opened * levels}"


def _long(lines: list[str], at: int, draw: random.Random) -> None:
    lines[at] = f"{lines[at].partition(':')[0]}: {'x' * draw.choice([3000, 200_000, 1_100_000])}"


def _parted(lines: list[str], at: int, draw: random.Random) -> None:
    lines.insert(at, draw.choice(["---", "...", "%YAML 2.0", "%TAG ! x:", "# c", "? [a]\n: b"]))


_WRITINGS = [
    *map(_lines, (_twice, _gone, _swapped, _indented, _signed, _scalar, _scalar, _aliased)),
    *map(_lines, (_merged, _grown, _deep, _long, _parted)),
]
"""Ways to change how a file is written."""
