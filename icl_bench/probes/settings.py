"""Settings that several probes share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, model_validator

S = TypeVar("S", bound="StrictSettings")
L = TypeVar("L", bound="SequentialSettings")

SCORES = Literal[
    "induction",
    "induction_all",
    "induction_control",
    "induction_excess",
    "induction_varied",
    "previous_token",
    "duplicate_token",
    "first_token",
    "delta",
    "function_vector",
]
"""The per-head columns that heads can be chosen by: scores of `induction`, effects of `sweep` and
`function_vectors`."""
HEAD_SOURCES: dict[str, SCORES] = {
    "induction": "induction",
    "sweep": "delta",
    "function_vectors": "function_vector",
}
"""Probe that heads can be chosen from -> the column that `top` orders by when `by` is not given."""
Writing = Literal["zero", "mean", "resample"]
"""What heads that are off write: nothing, their mean, or what they write on other tokens."""


class StrictSettings(BaseModel):
    """Base of all settings: unknown keys are errors, numbers are not read from strings."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)

    @property
    def pinned(self) -> bool:
        """Whether the settings say all that goes into the model, so that results may be kept."""
        return True

    def located(self: S, folder: Path) -> S:
        """Return the settings with the files that they name tied to their content.

        Args:
            folder: that of the suite, which relative paths start from.

        Raises:
            SettingsError: a file is not there or cannot be read.
        """
        return self


class Threshold(StrictSettings):
    """Which scores qualify a head."""

    above: float | None = None
    below: float | None = None

    @model_validator(mode="after")
    def _one_bound(self) -> Threshold:
        if self.above is None and self.below is None:
            raise ValueError("give 'above' or 'below'")
        return self


class HeadSelection(StrictSettings):
    """Heads taken from another measurement's scores, or at random.

    Give exactly one of `where` and `top` with `from`, or `random` alone.
    """

    from_: str | None = Field(default=None, alias="from")
    """Name of the `induction`, `sweep` or `function_vectors` measurement to choose from."""
    where: dict[SCORES, Threshold] | None = None
    """Score -> bound; a head is chosen when all bounds hold."""
    top: Annotated[int, Field(ge=1)] | None = None
    """Choose this many heads with the highest `by` score."""
    by: SCORES | None = None
    """The score that `top` orders by; when not given, the main one of that probe (`induction`,
    `delta`, `function_vector`)."""
    random: Annotated[int, Field(ge=1)] | None = None
    """Choose this many heads uniformly at random."""

    @model_validator(mode="after")
    def _one_way(self) -> HeadSelection:
        ways = [name for name in ("where", "top", "random") if getattr(self, name) is not None]
        if len(ways) != 1:
            raise ValueError("give exactly one of 'where', 'top' and 'random'")
        if self.random is None and self.from_ is None:
            raise ValueError("'where' and 'top' need 'from': the measurement to choose heads from")
        if self.random is not None and self.from_ is not None:
            raise ValueError("'random' chooses without scores: leave 'from' out")
        if self.where is not None and not self.where:
            raise ValueError("'where' needs at least one score")
        return self


HeadList = Annotated[
    list[Annotated[list[Annotated[int, Field(ge=0)]], Field(min_length=2, max_length=2)]],
    Field(min_length=1),
]
"""Heads by number: [[layer, head], ...]."""


class TokenSettings(StrictSettings):
    """How probe sequences are drawn."""

    sequences: Annotated[int, Field(ge=1)] = 32
    """Number of sequences."""
    period: Annotated[int, Field(ge=3)] = 50
    """Tokens in a block."""
    seed: Annotated[int, Field(ge=0)] = 0
    """Seed of the token generator."""
    bos: Literal["auto", "always", "never"] = "auto"
    """Whether a beginning-of-sequence token is put first."""


class SequentialSettings(TokenSettings):
    """Token settings of a probe that may draw more sequences until its checks are decided."""

    until: Literal["decided"] | None = None
    """`decided`: draw more until no check on this measurement is inconclusive."""
    max_sequences: Annotated[int, Field(ge=1)] | None = None
    """With `until`: sequences at the last look; `sequences` are those of the first."""
    looks: Annotated[int, Field(ge=1)] = 1
    """Looks that the intervals have to hold for together; set by `until` where it is given."""

    @model_validator(mode="after")
    def _looks_agree(self: L) -> L:
        if self.until is None and self.max_sequences is not None:
            raise ValueError("'max_sequences' is for 'until: decided'")
        if self.until is not None:
            if self.max_sequences is None:
                raise ValueError("'until: decided' needs 'max_sequences'")
            if self.max_sequences < self.sequences:
                raise ValueError(
                    f"'max_sequences' {self.max_sequences} is below 'sequences' {self.sequences}"
                )
            if self.looks != 1:
                raise ValueError("'until: decided' counts its looks itself: leave 'looks' out")
        return self

    def each_look(self: L) -> list[L]:
        """Return the settings of every look, one measurement each; none without `until`."""
        from icl_bench.measures.sequential import look_sizes

        if self.until is None or self.max_sequences is None:
            return []
        sizes = look_sizes(self.sequences, self.max_sequences)
        alone = {"until": None, "max_sequences": None, "looks": len(sizes)}
        return [self.model_copy(update={"sequences": size, **alone}) for size in sizes]

    @property
    def confidence(self) -> float:
        """Confidence of each interval."""
        from icl_bench.measures.sequential import look_confidence

        return look_confidence(self.looks)
