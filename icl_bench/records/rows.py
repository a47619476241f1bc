"""What a record holds beside typed fields: rows of heads and tables, settings. Plain, finite data.

Numbers of rows decide gates and draw pictures, but their columns differ from probe to probe, so
the record's own types say nothing of them. They come from a probe or from a file.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NoReturn

from pydantic import ValidationError
from pydantic_core import InitErrorDetails, PydanticCustomError, to_jsonable_python

UNKNOWN = ("_stderr", "_low", "_high")
"""Endings of the columns of heads that may be null: what is known only of several samples."""
LARGEST = 1e100
"""Numbers beyond it cannot be measured, and what is computed from them has no value."""
MOST_PLACES = 10_000
"""Layers, and heads of a layer, that a model can have: reports draw a grid of them."""
_DEEPEST = 100
"""Levels within a value down to which a mistake is looked for."""

Place = tuple[int | str, ...]


def list_heads(rows: Iterable[Mapping[str, Any]]) -> str:
    """Return heads in words, e.g. `5.1, 6.9`.

    Args:
        rows: with `layer` and `head`.
    """
    return ", ".join(f"{row.get('layer')}.{row.get('head')}" for row in rows)


def check_heads(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Refuse rows of heads that do not say which head they are of, or hold no numbers.

    Numbers of numpy and torch become Python's. A null among bounds and errors means the same as
    an absent one, and is taken away.

    Args:
        rows: each with `layer`, `head` and its scores; changed in place.

    Returns:
        the same rows.

    Raises:
        ValidationError: a row is wrong; its place begins with the row's number.
    """
    for place, row in enumerate(rows):
        for name in ("layer", "head"):
            if name not in row:
                refuse((place,), row, f"the row has no {name!r}")
            row[name] = _plain_number(row[name])
            if type(row[name]) is not int or not 0 <= row[name] < MOST_PLACES:
                told = f"{shown(row[name])} is no whole number from 0 on"
                refuse((place, name), row[name], told)
        unknown = []
        for name, value in row.items():
            if value is None and name.endswith(UNKNOWN):
                unknown.append(name)
            elif not is_number(value):
                value = row[name] = _plain_number(value)
                if not is_number(value):
                    head = f"{row['layer']}.{row['head']}"
                    refuse_number((place, name), value, head)
        for name in unknown:
            del row[name]
    return rows


def check_plain(value: Any) -> Any:
    """Return data as JSON can say it, without NaN and infinity.

    Tuples become lists, paths text, numbers and arrays of numpy and torch Python's numbers and
    lists.

    Args:
        value: anything.

    Raises:
        ValidationError: something is not finite, or is no data.
    """
    try:
        plain = to_jsonable_python(value, fallback=_as_list)
    except ValueError:
        place, found = _find(value, _is_plain)
        refuse(place, found, f"{type(found).__name__} is no plain data")
    if not _is_finite(plain):
        place, found = _find(plain, _is_finite)
        refuse_number(place, found)
    return plain


def is_number(value: Any) -> bool:
    """Whether something is one of Python's numbers, finite and not beyond all bounds.

    Args:
        value: anything.
    """
    return type(value) in (int, float) and -LARGEST <= value <= LARGEST


def refuse(place: Place, value: Any, why: str, head: str | None = None) -> NoReturn:
    """Raise the ValidationError that pydantic carries on with the place put in front.

    Args:
        place: where in what is validated.
        value: what stands there.
        why: what is wrong with it.
        head: LAYER.HEAD of the row that it is in.

    Raises:
        ValidationError: always.
    """
    kind = PydanticCustomError("not_plain", "{why}", {"why": why, "head": head})
    details = InitErrorDetails(type=kind, loc=place, input=value)
    raise ValidationError.from_exception_data("data", [details])


def refuse_number(place: Place, value: Any, head: str | None = None) -> NoReturn:
    """Raise the ValidationError of what should be a finite number.

    Args:
        place: where in what is validated.
        value: what stands there.
        head: LAYER.HEAD of the row that it is in.

    Raises:
        ValidationError: always.
    """
    finite = type(value) in (int, float) and abs(value) < math.inf
    why = f"not a number up to {LARGEST:g}" if finite else "not a finite number"
    refuse(place, value, f"{shown(value)} is {why}", head)


def explain(error: ValidationError) -> str:
    """Return in one line what is wrong with a measurement that a probe returned or tried to make.

    Args:
        error: the first of its errors is told.
    """
    first = error.errors(include_url=False)[0]
    place, value = first["loc"], first["input"]
    what, path = place[0] if place else "", ".".join(map(str, place[1:]))
    if head := first.get("ctx", {}).get("head"):
        where = f"head {head}: {place[-1]}"
    elif what == "metrics" and len(place) > 2:
        field = ".".join(map(str, place[2:]))
        where = f"metric {place[1]!r}" + ("" if field == "value" else f": {field}")
    elif what == "tables" and len(place) > 2:
        column = ".".join(map(str, place[3:]))
        where = f"table {place[1]!r}, row {place[2]}" + (f": {column}" if column else "")
    elif what == "settings":
        where = f"setting {path!r}"
    else:
        where = ".".join([error.title, *map(str, place)])
    if type(value) is float and not math.isfinite(value):
        return f"{where} is {value}"
    told = " ".join(repr(value).split())
    return f"{where} is {_cut(told)} ({first['msg']})"


def _plain_number(value: Any) -> Any:
    """One of Python's numbers where numpy or torch has one, whatever it is otherwise."""
    if type(value) in (int, float, bool, str) or value is None:
        return value
    try:
        return to_jsonable_python(value, fallback=_as_list)
    except ValueError:
        return value


def _as_list(value: Any) -> Any:
    """A number, or lists of numbers, of what numpy and torch have; ValueError for anything else."""
    try:
        return value.tolist()
    except Exception:  # whatever a class of somebody else raises
        raise ValueError from None


def shown(value: Any) -> str:
    """Return a value as JSON writes it, not long."""
    try:
        return _cut(json.dumps(value))
    except (TypeError, ValueError):
        return type(value).__name__


def _cut(text: str) -> str:
    return text if len(text) <= 40 else text[:37] + "..."


def _is_plain(value: Any) -> bool:
    try:
        to_jsonable_python(value, fallback=_as_list)
    except ValueError:
        return False
    return True


def _is_finite(value: Any) -> bool:
    # Without the place, which is needed once in many thousand rows: reading should not wait for it.
    if type(value) in (int, float):
        return is_number(value)
    if type(value) is dict:
        return all(map(_is_finite, value.values()))
    return type(value) is not list or all(map(_is_finite, value))


def _find(value: Any, is_good: Callable[[Any], bool]) -> tuple[Place, Any]:
    """The place of the first innermost part that is not good, and the part."""
    path: list[int | str] = []
    while len(path) < _DEEPEST:
        pairs: Iterable[tuple[Any, Any]] = ()
        if isinstance(value, dict):
            pairs = value.items()
        elif isinstance(value, (list, tuple)):
            pairs = enumerate(value)
        bad = next(((key, part) for key, part in pairs if not is_good(part)), None)
        if bad is None:
            break
        path.append(bad[0] if isinstance(bad[0], int) else str(bad[0]))
        value = bad[1]
    return tuple(path), value
