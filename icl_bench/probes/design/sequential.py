"""Settings of probes that may draw more samples until the checks on them are decided."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, ClassVar, Literal, TypeVar

from pydantic import Field, model_validator

from icl_bench.probes.design.settings import StrictSettings, TokenSettings
from icl_bench.records.parts import Measurement

L = TypeVar("L", bound="LookSettings")
T = TypeVar("T")

LATER = {"looks": 1, "order": "given", "token_pool": "uniform"}
"""Settings that probes have got since -> what records without them were measured with."""

NOT_SEQUENTIAL: dict[str, str] = {
    "minimal_set": "heads are eliminated on sequences of their own, which more of the others do "
    "not make surer",
    "weight_composition": "weights are not sampled: its numbers are exact",
    "choice": "its questions are all in the suite, and all of them are asked",
    "fewshot": "its samples are tasks, and there are too few of them to look more than once",
    "function_vectors": "its samples are tasks, and there are too few of them to look more than "
    "once",
    "example": "it shows one text, and what is measured beside it decides nothing",
    "phase_change": "a series needs the same sequences at every step",
}
"""Probe that cannot have `until: decided` -> why not."""


def comparable_settings(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings that two measurements must share to be compared.

    With `until: decided`, how many samples it took is a result; the budget is the setting.

    Args:
        settings: those of a record.
    """
    growing = settings.get("until") is not None
    return {
        name: value
        for name, value in {**LATER, **settings}.items()
        if value is not None and not (growing and f"max_{name}" in settings)
    }


def looks_of(settings: Mapping[str, Any]) -> int:
    """Return for how many looks at growing data the intervals of a record hold together.

    Args:
        settings: those of a measurement.
    """
    looks = settings.get("looks", 1)
    return looks if isinstance(looks, int) and looks > 0 else 1


class LookSettings(StrictSettings):
    """Settings of a probe that may be looked at several times, on more and more samples.

    A subclass names in `grows` the setting that is the number of samples, and has a setting
    `max_` + that for the last look.
    """

    grows: ClassVar[str] = "sequences"
    """The setting that grows from look to look."""

    until: Literal["decided"] | None = None
    """`decided`: draw more until no check on this measurement is inconclusive."""
    looks: Annotated[int, Field(ge=1)] = 1
    """Interim analyses for which the intervals hold together; set by `until` if it is given."""

    @property
    def budget(self) -> str:
        """Name of the setting for the last look."""
        return f"max_{self.grows}"

    @model_validator(mode="after")
    def _looks_agree(self: L) -> L:
        first: int | None = getattr(self, self.grows)
        most: int | None = getattr(self, self.budget)
        if self.until is None and most is not None:
            raise ValueError(f"{self.budget!r} is for 'until: decided'")
        if self.until is not None:
            if most is None:
                raise ValueError(f"'until: decided' needs {self.budget!r}")
            if first is None:
                raise ValueError(f"'until: decided' needs {self.grows!r}: those of the first look")
            if most < first:
                raise ValueError(f"{self.budget!r} {most} is below {self.grows!r} {first}")
            if self.looks != 1:
                raise ValueError("'until: decided' counts its looks itself: leave 'looks' out")
        return self

    def each_look(self: L) -> list[L]:
        """Return the settings of every look, one measurement each; none without `until`."""
        from icl_bench.measures.sequential import look_sizes

        if self.until is None:
            return []
        sizes = look_sizes(getattr(self, self.grows), getattr(self, self.budget))
        alone: dict[str, Any] = {"until": None, self.budget: None, "looks": len(sizes)}
        return [self.model_copy(update={self.grows: size, **alone}) for size in sizes]

    def is_all(self, taken: Measurement) -> bool:
        """Return whether a look took every sample that there is.

        Args:
            taken: what the look found.
        """
        return False

    @property
    def independent_samples(self) -> tuple[str, int] | None:
        """Those of the last look; None where all that there are are taken."""
        name = self.grows if self.until is None else self.budget
        count: int | None = getattr(self, name)
        return (name, count) if count is not None and count > 1 else None

    @property
    def confidence(self) -> float:
        """Confidence of each interval: with `until`, that of its looks."""
        from icl_bench.measures.sequential import look_confidence

        return look_confidence(max(self.looks, len(self.each_look())))


class SequentialSettings(LookSettings, TokenSettings):
    """Token settings of a probe that may draw more sequences until its checks are decided."""

    max_sequences: Annotated[int, Field(ge=1)] | None = None
    """With `until`: sequences at the last interim analysis; `sequences` are those at the first."""


class PoolSettings(LookSettings):
    """Settings of a probe whose samples are a pool: items, or the documents of a text."""

    order: Literal["given", "random"] = "given"
    """Which of the pool come first: as they stand in it, or in a random order of the seed."""

    @model_validator(mode="after")
    def _early_looks_are_samples(self) -> PoolSettings:
        if self.until is not None and self.order != "random":
            raise ValueError(
                f"'until: decided' needs 'order: random': the first {self.grows} of a pool are no "
                "random sample of it"
            )
        return self

    def arrange(self, pool: Sequence[T], seed: int) -> list[T]:
        """Return the pool in the order that its first samples are taken in.

        Args:
            pool: all items or documents.
            seed: of a random order.
        """
        from icl_bench.measures.draws import Draws

        if self.order == "given":
            return list(pool)
        return Draws(seed, "order").choose(list(pool), len(pool))
