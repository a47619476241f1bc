"""A suite as the rest of the program sees it: checked, with nothing left to look up."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import BaseModel


@dataclass(frozen=True)
class MeasureSpec:
    """One measurement that a suite asks for.

    Args:
        name: its name in the suite; `quiz/ID` for a question that the model answers.
        probe: name of the probe.
        settings: the probe's own Settings, the suite's defaults merged in.
        given: the settings that the measurement or the suite's defaults set.
    """

    name: str
    probe: str
    settings: BaseModel
    given: frozenset[str]


@dataclass(frozen=True)
class CheckSpec:
    """One assertion.

    Args:
        id: unique in the suite.
        on: name of the measurement.
        metric: one of the metrics of its probe.
        rule: above, below, between, equals, at_least or at_most.
        threshold: the rule's number, or [low, high] for `between`; in the metric's unit.
        tolerance: for `equals`: how far off is still equal; None when the suite gives none.
        models: globs over model spec or slug that the check applies to, after `!` of those that it
            leaves out; None for all models.
        description: what the check asks.
    """

    id: str
    on: str
    metric: str
    rule: str
    threshold: float | list[float]
    tolerance: float | None = None
    models: tuple[str, ...] | None = None
    description: str | None = None


@dataclass(frozen=True)
class Support:
    """A quiz option and the rule under which the measurement supports it; see CheckSpec."""

    option: str
    rule: str
    threshold: float | list[float]
    tolerance: float | None = None


@dataclass(frozen=True)
class QuizSpec:
    """One question with options, decided by a metric.

    Args:
        id: unique in the suite, among the checks too.
        question: the question, or the prompt that the model continues.
        options: option key -> text, in the order of the file.
        on: name of the measurement.
        metric: one of the metrics of its probe.
        supports: which value speaks for which option.
        expected: key of the option that must be supported for a pass.
        beside: other metrics of the measurement that are shown with the one that decides.
        models: globs over model spec or slug, as in CheckSpec.
        description: what the item is about.
    """

    id: str
    question: str
    options: dict[str, str]
    on: str
    metric: str
    supports: tuple[Support, ...]
    expected: str
    beside: tuple[str, ...] = ()
    models: tuple[str, ...] | None = None
    description: str | None = None


@dataclass(frozen=True)
class Base:
    """A suite that another one extends: its name, version, digest and whether it is shipped."""

    name: str
    version: int
    sha256: str
    shipped: bool


@dataclass(frozen=True)
class Suite:
    """What to measure and what must hold.

    Args:
        path: the file, absolute.
        name: the suite's name.
        description: None when the file gives none.
        measure: name -> measurement, quiz questions put to the model included.
        checks: in the order of the file.
        quiz: in the order of the file.
        sha256: digest of the parsed data: comments, layout and key order do not change it.
        shipped: whether the suite is one of those that come with icl_bench.
        version: of the suite, as the file says; 1 where it says nothing.
        lines: id of a check or quiz item -> line of the file that it stands at.
        warnings: what is allowed and hardly meant, each as `path:line:column: message`.
        resolved: the parsed data that all this is made of, with that of the suites it extends.
        extends: the suites that it extends, the nearest first.
        own: of a suite that extends others, ids of checks and quiz items and names of measurements
            that files give or remove which do not come with icl_bench.
    """

    path: Path
    name: str
    description: str | None
    measure: dict[str, MeasureSpec]
    checks: tuple[CheckSpec, ...]
    quiz: tuple[QuizSpec, ...]
    sha256: str
    shipped: bool
    version: int = 1
    lines: Mapping[str, int] = field(default_factory=dict, compare=False)
    warnings: tuple[str, ...] = field(default=(), compare=False)
    resolved: Mapping[str, Any] = field(default_factory=dict, compare=False, repr=False)
    extends: tuple[Base, ...] = ()
    own: tuple[str, ...] = ()

    @property
    def assertions(self) -> tuple[CheckSpec | QuizSpec, ...]:
        """Every check and quiz item."""
        return (*self.checks, *self.quiz)

    def key(self, name: str) -> str:
        """Return the key of a measurement in plans and records.

        Args:
            name: the measurement's name in the suite.
        """
        return f"{self.name}/{name}"
