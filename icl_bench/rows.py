"""Rows of heads and tables as they come from a file: what is wrong with them, and where.

Numbers of rows decide gates and draw pictures, but their columns differ from probe to probe, so
the record's own types say nothing of them.
"""

from __future__ import annotations

import json
import math
from typing import Any

from icl_bench.errors import RecordError

UNKNOWN = ("_stderr", "_low", "_high")
"""Endings of the columns of heads that may be null: what is known only of several samples."""


def check_heads(rows: list[dict[str, Any]]) -> None:
    """Refuse rows of heads that do not say which head they are of, or hold no numbers.

    A null among bounds and errors means the same as an absent one, and is taken away.

    Args:
        rows: each with `layer`, `head` and its scores; changed in place.

    Raises:
        RecordError: a row is wrong; the message starts with its place.
    """
    for place, row in enumerate(rows):
        for name in ("layer", "head"):
            if name not in row:
                raise RecordError(f"{place}: the row has no {name!r}")
            if type(row[name]) is not int or row[name] < 0:
                shown = _show(row[name])
                raise RecordError(f"{place}.{name}: {shown} is no whole number from 0 on")
        unknown = []
        for name, value in row.items():
            if value is None and name.endswith(UNKNOWN):
                unknown.append(name)
            elif not _is_number(value):
                raise RecordError(f"{place}.{name}: {_show(value)} is not a finite number")
        for name in unknown:
            del row[name]


def check_finite(value: Any) -> None:
    """Refuse NaN and infinity, wherever they are in parsed JSON.

    Args:
        value: anything that JSON can say.

    Raises:
        RecordError: there is one; the message starts with its place.
    """
    if not _is_finite(value):
        place, found = _find(value)
        raise RecordError(f"{place}: {_show(found)} is not a finite number")


def _is_number(value: Any) -> bool:
    if type(value) not in (int, float):
        return False
    try:
        return math.isfinite(value)
    except OverflowError:  # a whole number that no float can hold
        return False


def _show(value: Any) -> str:
    """A value as JSON writes it, not long."""
    text = json.dumps(value)
    return text if len(text) <= 40 else text[:37] + "..."


def _is_finite(value: Any) -> bool:
    # Without the place, which is needed once in many thousand rows: reading should not wait for it.
    if type(value) is float:
        return math.isfinite(value)
    if type(value) is dict:
        return all(map(_is_finite, value.values()))
    return type(value) is not list or all(map(_is_finite, value))


def _find(value: Any) -> tuple[str, Any]:
    """The place of the first number that is not finite, and the number."""
    path = []
    while not isinstance(value, float):
        pairs = value.items() if isinstance(value, dict) else enumerate(value)
        key, value = next(pair for pair in pairs if not _is_finite(pair[1]))
        path.append(str(key))
    return ".".join(path), value
