"""Pydantic's findings about a piece of a suite, in plain words and with a place in the data."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any, get_args, get_origin

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from icl_bench.errors import nearest
from icl_bench.suite.document import PathKey
from icl_bench.suite.problems import show_value
from icl_bench.suite.schema import ENTRY_NAME, RULES, SUITE_NAME

KINDS = {
    "float_type": "a number",
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "bool_type": "true or false",
    "string_type": "text",
    "list_type": "a list",
    "tuple_type": "a list",
    "set_type": "a list",
    "dict_type": "a mapping",
    "model_type": "a mapping",
}
"""Pydantic's error type -> what the value should have been."""

BOUNDS = {
    "greater_than": ("gt", "must be greater than"),
    "greater_than_equal": ("ge", "must be at least"),
    "less_than": ("lt", "must be less than"),
    "less_than_equal": ("le", "must be at most"),
    "multiple_of": ("multiple_of", "must be a multiple of"),
}

PATTERNS = {
    SUITE_NAME: "may hold a-z, 0-9, '-' and '_', and begins with a letter or digit",
    ENTRY_NAME: "may hold letters, digits, '.', '_' and '-', and begins with a letter or digit",
}


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong with a piece of data, at a path within it."""

    path: PathKey
    at_key: bool
    message: str


@dataclass(frozen=True)
class _Located:
    """A pydantic error with its location split at the names of union branches."""

    error: ErrorDetails
    path: PathKey
    at_key: bool
    branches: tuple[tuple[PathKey, str], ...]


def validate(
    model: type[BaseModel], data: dict[str, Any], extra_keys: Iterable[str] = ()
) -> tuple[BaseModel | None, list[Finding]]:
    """Validate `data` and say in plain words what is wrong with it.

    Args:
        model: a strict pydantic model.
        data: keys and values as read from YAML.
        extra_keys: keys valid at the top level although the model does not have them,
            for the "did you mean" hint.

    Returns:
        The validated model, or None, and what was found.
    """
    try:
        # By way of JSON, so that lists also fit tuples and texts also fit enumerations.
        return model.model_validate_json(json.dumps(data)), []
    except ValidationError as error:
        located = [_locate(one, data) for one in error.errors(include_url=False)]
        findings = []
        for group in _settle(located):
            first = group[0]
            valid = keys_at(model, first.path[:-1])
            if len(first.path) == 1:
                valid = valid | set(extra_keys)
            findings.append(Finding(first.path, first.at_key, _say(group, data, valid)))
        return None, findings


def keys_at(annotation: Any, path: PathKey = ()) -> set[str]:
    """Return the keys that a model, or the model at a path within it, can have in YAML."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        fields = {f.alias or name: f.annotation for name, f in annotation.model_fields.items()}
        if not path:
            return set(fields)
        return keys_at(fields.get(str(path[0])), path[1:])
    arguments = get_args(annotation)
    if get_origin(annotation) in (dict, list, tuple):
        return keys_at(arguments[-1], path[1:]) if path else set()
    return set().union(*(keys_at(argument, path) for argument in arguments))


def _locate(error: ErrorDetails, data: Any) -> _Located:
    path: PathKey = ()
    branches: list[tuple[PathKey, str]] = []
    at_key = error["type"] == "extra_forbidden"
    parts = error["loc"]
    for number, part in enumerate(parts):
        inside = (isinstance(data, dict) and part in data) or (
            isinstance(data, list) and isinstance(part, int) and part < len(data)
        )
        if inside:
            data, path = data[part], (*path, part)
        elif part == "[key]":
            at_key = True
        elif error["type"] == "missing" and number == len(parts) - 1:
            path = (*path, part)
        else:
            branches.append((path, str(part)))
    return _Located(error, path, at_key, tuple(branches))


def _settle(errors: list[_Located]) -> list[list[_Located]]:
    """Keep, of a union's errors, those of the branch that was meant.

    Returns:
        Groups of errors; more than one in a group means that no branch of a union fits,
        and that one message has to name them all.
    """
    settled: list[list[_Located]] = []
    unions: dict[PathKey, dict[str, list[_Located]]] = {}
    for one in errors:
        if one.branches:
            root, branch = one.branches[0]
            rest = replace(one, branches=one.branches[1:])
            unions.setdefault(root, {}).setdefault(branch, []).append(rest)
        else:
            settled.append([one])
    for root, by_branch in unions.items():
        meant = [
            group
            for group in by_branch.values()
            if not all(one.path == root and _wrong_kind(one) for one in group)
        ]
        if meant:
            settled += _settle([one for group in meant for one in group])
        else:
            settled.append([one for group in by_branch.values() for one in group])
    return settled


def _wrong_kind(one: _Located) -> bool:
    return one.error["type"] in KINDS or one.error["type"] == "literal_error"


def _choices(error: ErrorDetails) -> list[str]:
    return re.findall(r"'([^']*)'", str(error["ctx"]["expected"]))


def _label(path: PathKey) -> str:
    """Return how a value is called in a message: its key, or its place in a list."""
    if path and isinstance(path[-1], int):
        return f"entry {path[-1] + 1} of {_label(path[:-1])}"
    return str(path[-1]) if path else ""


def _say(group: list[_Located], data: Any, valid: set[str]) -> str:
    first = group[0]
    error, kind = first.error, first.error["type"]
    context = error.get("ctx", {})
    label, key = _label(first.path), str(first.path[-1]) if first.path else ""
    value = error["input"]
    if kind == "missing":
        return f"{key!r} is missing"
    if kind == "extra_forbidden":
        return f"unknown key {key!r}; {nearest(key, valid)}"
    if kind == "literal_error" and first.at_key:
        return f"unknown key {key!r}; {nearest(key, _choices(error))}"
    if kind in KINDS or kind == "literal_error":
        return _say_kind(group, first.path, value)
    if kind in BOUNDS:
        name, words = BOUNDS[kind]
        return f"{label} {show_value(value)} {words} {context[name]:g}"
    if kind == "finite_number":
        return f"{_threshold(label)} {value} is not a finite number"
    if kind in ("too_short", "too_long"):
        wanted = context["min_length" if kind == "too_short" else "max_length"]
        bound = "at least" if kind == "too_short" else "at most"
        noun = "entry" if wanted == 1 else "entries"
        return f"{label} needs {bound} {wanted} {noun}, not {context['actual_length']}"
    if kind == "string_too_short" and value == "":
        return f"{label} is empty"
    if kind == "string_pattern_mismatch" and context["pattern"] in PATTERNS:
        label = "name" if first.at_key else label
        return f"{label} {show_value(value)} is not usable: it {PATTERNS[context['pattern']]}"
    message = str(context["error"]) if kind == "value_error" else error["msg"]
    return f"{label}: {message}" if first.path else message


def _say_kind(group: list[_Located], path: PathKey, value: Any) -> str:
    """Say that a value is not of the kind, or of any of the kinds, that fit."""
    label = _label(path)
    kinds = list(dict.fromkeys(KINDS[g.error["type"]] for g in group if g.error["type"] in KINDS))
    names = [n for g in group if g.error["type"] == "literal_error" for n in _choices(g.error)]
    if names and isinstance(value, str):
        return f"{label} {show_value(value)} is unknown; {nearest(value, names)}"
    others = [
        str(g.error["ctx"]["expected"])
        for g in group
        if g.error["type"] == "literal_error" and not _choices(g.error)
    ]
    wanted = " or ".join(kinds + [repr(name) for name in names] + others)
    example = ""
    if _threshold(label) != label:
        example = f"; write e.g. {label}: 0.4"
    elif kinds == ["a list"] and isinstance(value, str):
        example = f"; write e.g. {label}: [{value!r}]"
    if value is None:
        return f"{label} has no value; it must be {wanted}{example}"
    if isinstance(path[-1], int):
        message = f"{label} is {show_value(value)}, not {wanted}"
    else:
        message = f"{_threshold(label)} {show_value(value)} is not {wanted}"
    if kinds == ["text"] and isinstance(value, (bool, int, float)):
        return f'{message}; put it in quotes: "{str(value).lower()}"'
    numeric = isinstance(value, str) and re.fullmatch(r"[-+]?[0-9.]+(?:[eE][-+]?[0-9]+)?", value)
    if numeric and kinds in (["a number"], ["a whole number"]):
        return f"{message}; leave out the quotes"
    return message + example


def _threshold(label: str) -> str:
    """Return what a message calls a rule's number; other labels are as they are."""
    return "threshold" if label in RULES and label != "between" else label
