"""What stands in the tables that reports draw: a value of another kind is refused where it is read.

A table of the same name with other columns is another probe's, and is none of these.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from icl_bench.records.rows import MOST_PLACES, is_number, refuse, shown

Row = Mapping[str, Any]


def _is_whole(value: Any) -> bool:
    return type(value) is int and 0 <= value < 2**63


def _is_place(value: Any) -> bool:
    return type(value) is int and 0 <= value < MOST_PLACES


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _is_known(value: Any) -> bool:
    return value is None or is_number(value)


def _are_whole(value: Any) -> bool:
    return isinstance(value, list) and all(map(_is_whole, value))


def _are_known(value: Any) -> bool:
    return isinstance(value, list) and all(map(_is_known, value))


_SAID: dict[Callable[[Any], bool], str] = {
    _is_whole: "a whole number from 0 on",
    _is_place: f"a whole number from 0 to {MOST_PLACES - 1}",
    _is_text: "text",
    is_number: "a finite number",
    _is_known: "a finite number",
    _are_whole: "a list of whole numbers",
    _are_known: "a list of numbers",
}
_PLACE: dict[str, Callable[[Any], bool]] = {"layer": _is_place, "head": _is_place}
_KINDS: dict[str, dict[str, Callable[[Any], bool]]] = {
    "steps": {"step": _is_whole, "*": _is_known},
    "broken_steps": {"step": _is_whole, "reason": _is_text},
    "curves": {"step": _is_whole, "*": is_number},
    "changes": {"curve": _is_text, "*": is_number},
    "training_loss": {"step": is_number, "loss": is_number},
    "attention_sides": {**_PLACE, "side": _is_text, "component": _is_text, "value": is_number},
    "composition": {
        **dict.fromkeys(("layer", "head", "sender_layer", "sender_head"), _is_whole),
        **dict.fromkeys(("clean", "patched", "drop"), is_number),
        "side": _is_text,
    },
    "selected_heads": _PLACE,
    "example_tokens": {"position": _is_whole, "token": _is_text},
    "example_patterns": {**_PLACE, "pattern": _is_text},
    "switches": {"switch": _is_whole, "role": _is_text, "label": _is_text},
    "switched": {"off": _are_whole, "loss_by_position": _are_known},
}
"""Table -> column -> what its values are; `*` is every other column."""
_OPTIONAL: dict[str, dict[str, Callable[[Any], bool]]] = {
    "changes": {"reason": _is_text},
    "example_tokens": {"repeats_at": _is_whole, "source": _is_whole, "loss": _is_known},
}
"""The same of columns that a row may lack."""


def needed_columns(table: str) -> frozenset[str]:
    """Return the columns that every row of a table has, where reports know it; else none.

    Args:
        table: its name.
    """
    return frozenset(_KINDS.get(table, {})) - {"*"}


def check_tables(tables: dict[str, list[dict[str, Any]]]) -> dict[str, list[dict[str, Any]]]:
    """Refuse values that no report can draw.

    Args:
        tables: name -> rows of plain data.

    Raises:
        ValidationError: a value is of another kind; its place is table, row and column.
    """
    for table, rows in tables.items():
        if table not in _KINDS or not _all_have(rows, needed_columns(table)):
            continue
        kinds = _KINDS[table]
        others, optional = kinds.get("*"), _OPTIONAL.get(table, {})
        for place, row in enumerate(rows):
            for name, value in row.items():
                fits = kinds.get(name) or optional.get(name) or others
                if fits is not None and not fits(value):
                    refuse((table, place, name), value, f"{shown(value)} is not {_SAID[fits]}")
    return tables


def _all_have(rows: Sequence[Row], columns: frozenset[str]) -> bool:
    return all(columns <= row.keys() for row in rows)
