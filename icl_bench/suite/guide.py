"""What the author of a suite is told of a probe: its settings and an example."""

from __future__ import annotations

import ast
import inspect
import textwrap
from dataclasses import dataclass
from typing import Any, get_args

import yaml
from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import to_jsonable_python

from icl_bench.probes import Probe

REQUIRED = "required"
"""Stands for the default of a setting without one."""
SAMPLES: dict[str, Any] = {
    "heads": {"from": "repeats", "where": {"induction": {"above": 0.4}}},
    "items": [{"prompt": "The cat sat on the", "choices": [" mat", " sky"], "answer": " mat"}],
    "scores": "repeats",
    "losses": "copying",
}
"""Setting that a probe may need -> a value for an example."""
SOURCES = {"heads": "repeats", "scores": "repeats", "losses": "copying"}
"""Setting of an example -> the measurement that it reads, and the probe of that."""
SOURCE_PROBES = {"repeats": "induction", "copying": "losses"}


@dataclass(frozen=True)
class Setting:
    """One setting of a probe.

    Args:
        name: as suites write it.
        default: as suites write it; empty where it is simply left out, or `REQUIRED`.
        meaning: one sentence or two; empty where the probe does not say.
        values: what it may be, where that is one of a few words.
    """

    name: str
    default: str
    meaning: str
    values: tuple[str, ...]


def settings_of(probe: Probe) -> list[Setting]:
    """Return the settings of a probe, in the order in which it states them.

    Args:
        probe: of any package.
    """
    told = _docstrings(probe.settings)
    return [
        Setting(
            name=field.alias or name,
            default=_default(field),
            meaning=" ".join((field.description or told.get(name, "")).split()),
            values=tuple(dict.fromkeys(_words(field.annotation))),
        )
        for name, field in probe.settings.model_fields.items()
    ]


def _docstrings(model: type[BaseModel]) -> dict[str, str]:
    """Return field -> the text below it in the source; reading that costs every run too much."""
    told: dict[str, str] = {}
    for kind in reversed(model.__mro__):
        if not issubclass(kind, BaseModel) or kind is BaseModel:
            continue
        try:
            tree = ast.parse(textwrap.dedent(inspect.getsource(kind)))
        except (OSError, TypeError, SyntaxError):
            continue  # without its source nothing is told
        body = tree.body[0].body if isinstance(tree.body[0], ast.ClassDef) else []
        for one, below in zip(body, body[1:]):
            if not isinstance(one, ast.AnnAssign) or not isinstance(one.target, ast.Name):
                continue
            if isinstance(below, ast.Expr) and isinstance(below.value, ast.Constant):
                told[one.target.id] = str(below.value.value)
    return told


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return REQUIRED
    value = field.get_default(call_default_factory=True)
    return "" if value is None else inline(to_jsonable_python(value))


def _words(annotation: Any) -> list[str]:
    """The words that a setting may be: of a Literal, also within a union or a list."""
    return [
        word
        for argument in get_args(annotation)
        for word in ([argument] if isinstance(argument, str) else _words(argument))
    ]


def inline(value: Any) -> str:
    """Return a value on one line, as a suite would have it.

    Args:
        value: plain data.
    """
    text = yaml.safe_dump(
        value, default_flow_style=True, width=10**6, sort_keys=False, allow_unicode=True
    )
    return text.removesuffix("\n").removesuffix("\n...")


def example_of(probe: Probe) -> dict[str, Any]:
    """Return the measurements of a small suite with the probe, name -> probe and settings.

    Args:
        probe: of any package. A setting that this one does not know stands there as `...`.
    """
    fields = {field.alias or name: field for name, field in probe.settings.model_fields.items()}
    needed = [name for name, field in fields.items() if field.is_required()]
    settings = {name: SAMPLES.get(name, "...") for name in needed}
    try:
        probe.settings.model_validate(settings)
    except ValidationError:
        if "heads" in fields:
            settings["heads"] = SAMPLES["heads"]
    read = dict.fromkeys(SOURCES[name] for name in settings if name in SOURCES)
    measure: dict[str, Any] = {name: {"probe": SOURCE_PROBES[name]} for name in read}
    measure["mine"] = {"probe": probe.name, **settings}
    return measure
