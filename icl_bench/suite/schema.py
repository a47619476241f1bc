"""The suite format as it is written in YAML, as pydantic models.

What one model cannot see (names that must exist elsewhere in the file, settings that
belong to a probe, exactly one rule) is checked in `loading`.
"""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

VERSION = 1
"""The value of `icl_suite` that this version reads."""

SUITE_NAME = r"^[a-z0-9][a-z0-9_-]*$"
ENTRY_NAME = r"^[A-Za-z0-9][A-Za-z0-9._-]*$"

Text = Annotated[str, Field(min_length=1)]
Name = Annotated[str, Field(pattern=ENTRY_NAME)]
Globs = Annotated[list[Text], Field(min_length=1)]

RULES = ("above", "below", "between", "equals", "at_least", "at_most")


class Written(BaseModel):
    """Base of everything written in a suite: unknown keys and wrong types are errors."""

    model_config = ConfigDict(
        extra="forbid", strict=True, allow_inf_nan=False, use_attribute_docstrings=True
    )


def _optional() -> Any:
    # None stands for a key that was left out. The type does not allow it as a value:
    # `above:` with nothing behind it is a mistake.
    return Field(default=None)


class RuleKeys(Written):
    """Exactly one of the rules, with its number in the metric's unit."""

    above: float = _optional()
    """Holds when the metric is greater than this number."""
    below: float = _optional()
    """Holds when the metric is less than this number."""
    between: Annotated[list[float], Field(min_length=2, max_length=2)] = _optional()
    """Holds when the metric lies between [low, high]."""
    equals: float = _optional()
    """Holds when the metric is this number, give or take `tolerance`."""
    at_least: float = _optional()
    """Holds when the metric is this number or greater."""
    at_most: float = _optional()
    """Holds when the metric is this number or less."""
    tolerance: Annotated[float, Field(ge=0)] = _optional()
    """For `equals`: how far off is still equal."""


class CheckEntry(RuleKeys):
    """One assertion: a metric of a measurement and the rule that must hold."""

    id: Name
    """Name of the check, unique in the suite."""
    on: Text
    """Name of the measurement."""
    metric: Text
    """One of the metrics of the measurement's probe."""
    models: Globs = _optional()
    """Globs over model spec or name; the check applies only to these models, or, where a glob
    begins with `!`, not to them."""
    description: Text = _optional()
    """What the check asks."""


class SupportEntry(RuleKeys):
    """The rule under which the measurement supports an option."""

    option: Name
    """Key of the option."""


class PromptItem(Written):
    """A question that the model answers: the likelihood of each choice decides."""

    id: Name
    """Name of the item, unique in the suite."""
    prompt: Text
    """Text that the choices continue."""
    choices: Annotated[list[Text], Field(min_length=2)]
    """Possible continuations, leading space included."""
    answer: Text
    """The right one, written as in `choices`."""
    models: Globs = _optional()
    """Globs over model spec or name; the item applies only to these models, or, where a glob
    begins with `!`, not to them."""
    description: Text = _optional()
    """What the item is about."""


class MeasuredItem(Written):
    """A question that a measurement answers: the metric supports one of the options."""

    id: Name
    """Name of the item, unique in the suite."""
    question: Text
    """The question."""
    options: Annotated[dict[Name, Text], Field(min_length=2)]
    """Key -> text of each option."""
    on: Text
    """Name of the measurement."""
    metric: Text
    """One of the metrics of the measurement's probe."""
    supports: Annotated[list[SupportEntry], Field(min_length=1)]
    """Which value of the metric speaks for which option."""
    beside: Annotated[list[Text], Field(min_length=1)] = _optional()
    """Other metrics of the measurement, shown with the one that decides."""
    expected: Name
    """Key of the option that must be supported."""
    models: Globs = _optional()
    """Globs over model spec or name; the item applies only to these models, or, where a glob
    begins with `!`, not to them."""
    description: Text = _optional()
    """What the item is about."""


class MeasureEntry(BaseModel):
    """A measurement: a probe and its settings."""

    model_config = ConfigDict(extra="allow", strict=True, use_attribute_docstrings=True)

    probe: Text
    """Name of the probe."""


class SuiteFile(Written):
    """The top level of a suite file; the entries are checked one by one."""

    icl_suite: int
    """Version of the format; the first key of the file."""
    name: Annotated[str, Field(pattern=SUITE_NAME)]
    """Name of the suite: lower-case letters, digits, - and _."""
    version: Annotated[int, Field(ge=1)] = _optional()
    """Version of the suite, 1 where it is left out; to be raised when what it asks changes."""
    description: Text = _optional()
    """What the suite shows, in a sentence."""
    extends: Text = _optional()
    """Name of a shipped suite, or path of a file from this one's folder: this suite is that one,
    with what is given here added or put in its place."""
    remove: Annotated[list[Name], Field(min_length=1)] = _optional()
    """With `extends`: ids of checks and quiz items, and names of measurements, to leave out."""
    defaults: dict[str, Any] = _optional()
    """Settings for every measurement whose probe has them."""
    measure: dict[Name, dict[str, Any]] = _optional()
    """Name -> what to measure."""
    checks: list[dict[str, Any]] = _optional()
    """What must hold."""
    quiz: list[dict[str, Any]] = _optional()
    """Questions with options, answered by the model or by a measurement."""
