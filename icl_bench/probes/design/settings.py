"""Settings that several probes share."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

S = TypeVar("S", bound="StrictSettings")

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
    "logit",
    "ov_eigenvalue",
    "ov_behaviour",
]
"""The per-head columns that heads can be chosen by."""
HEAD_SOURCES: dict[str, tuple[SCORES, ...]] = {
    "induction": (
        "induction",
        "induction_all",
        "induction_control",
        "induction_excess",
        "induction_varied",
        "previous_token",
        "duplicate_token",
        "first_token",
    ),
    "sweep": ("delta",),
    "function_vectors": ("function_vector",),
    "logit_attribution": ("logit",),
    "copying": ("ov_behaviour", "ov_eigenvalue"),
}
"""Probe that heads can be chosen from -> its columns; `top` orders by the first when `by` is not
given."""
PATTERN = 0.1
"""An `induction_excess` below this is what heads without the pattern show; `or_top` takes none."""
TokenPool = Literal["uniform", "frequent"]
"""`frequent`: tokenizers list pieces in the order in which they were learned, common ones first."""
Writing = Literal["zero", "mean", "resample"]
"""What heads that are off write: nothing, their mean, or what they write on other tokens."""


class StrictSettings(BaseModel):
    """Base of all settings: unknown keys are errors, numbers are not read from strings."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)

    @property
    def pinned(self) -> bool:
        """Whether the settings say all that goes into the model, so that results may be kept."""
        return True

    @property
    def independent_samples(self) -> tuple[str, int] | None:
        """The setting that says how many independent samples are taken, and that number.

        None where settings do not tell, or tell of one sample, which has no interval.
        """
        return None

    @property
    def absent(self) -> dict[str, str]:
        """Metrics that are never measured with these settings -> why."""
        return {}

    def located(self: S, folder: Path) -> S:
        """Return the settings with the files that they name tied to their content.

        Args:
            folder: that of the suite, which relative paths start from.

        Raises:
            SettingsError: a file is not there or cannot be read.
        """
        return self


def sources_of_heads(settings: BaseModel) -> list[str]:
    """Return the names of all measurements that a measurement's heads are chosen from, each once.

    Args:
        settings: any probe's.
    """
    heads = dict(settings).get("heads")
    rules = heads.rules() if isinstance(heads, HeadSelection) else []
    return list(dict.fromkeys(rule.from_ for rule in rules if rule.from_ is not None))


def source_of_heads(settings: BaseModel) -> str | None:
    """Return the name of the measurement that a measurement's heads are chosen from.

    Args:
        settings: any probe's.
    """
    heads = dict(settings).get("heads")
    return heads.from_ if isinstance(heads, HeadSelection) else None


def explain_few_draws(names: Sequence[str], draws: int, alpha: float) -> dict[str, str]:
    """Return p-values that are never measured because they could not reach a level -> why.

    Args:
        names: of the p-values.
        draws: random sets that the observed value is ranked among.
        alpha: the level.
    """
    if draws == 0:
        return dict.fromkeys(names, "null_draws: 0 in the suite")
    if 1 / (draws + 1) <= alpha:
        return {}
    lowest = 1 / (draws + 1)
    why = f"with null_draws: {draws} no p-value is below {lowest:.3g}, and alpha is {alpha:g}"
    return dict.fromkeys(names, why)


class Threshold(StrictSettings):
    """Which scores qualify a head."""

    above: float | None = None
    below: float | None = None

    @model_validator(mode="after")
    def _one_bound(self) -> Threshold:
        if self.above is None and self.below is None:
            raise ValueError("give 'above' or 'below'")
        return self


def _check_percent(text: str) -> str:
    if re.fullmatch(PERCENT, text) is None or not 0 < float(text[:-1]) <= 100:
        raise ValueError(f"{text!r} is neither a number of heads nor a share of them, as '2%'")
    return text


PERCENT = r"^[0-9]{1,3}(\.[0-9]{1,6})?%$"
Percent = Annotated[
    str, Field(json_schema_extra={"pattern": PERCENT}), AfterValidator(_check_percent)
]
"""A share of heads, as `2%`."""


class HeadSelection(StrictSettings):
    """Heads taken from another measurement's scores, or at random.

    Give `where`, `top` or both with `from`, or `random` alone.
    """

    from_: str | None = Field(default=None, alias="from")
    """Name of the measurement to choose from, of a probe that scores heads (`HEAD_SOURCES`)."""
    where: dict[SCORES, Threshold] | None = None
    """Score -> bound; a head is chosen when all bounds hold."""
    top: Annotated[int, Field(ge=1)] | Percent | None = None
    """Choose this many heads with the highest `by` score, of those that hold `where`; as `P%`, this
    share of all heads that have the score, rounded up."""
    by: SCORES | None = None
    """The score that `top` orders by; when not given, the first one of that probe."""
    or_top: Annotated[int, Field(ge=1)] | None = None
    """With `where`: where no head holds all bounds, choose this many with the highest excess, of
    those that show the pattern at all (`PATTERN`)."""
    random: Annotated[int, Field(ge=1)] | None = None
    """Choose this many heads uniformly at random."""
    and_: HeadSelection | None = Field(default=None, alias="and")
    """Keep only those heads that this rule chooses too."""
    without: HeadSelection | None = None
    """Leave out the heads that this rule chooses."""

    def rules(self) -> list[HeadSelection]:
        """Return the rule and all rules within it, itself first."""
        within = [rule for rule in (self.and_, self.without) if rule is not None]
        return [self, *(one for rule in within for one in rule.rules())]

    @model_validator(mode="after")
    def _one_way(self) -> HeadSelection:
        scored = self.where is not None or self.top is not None
        if scored == (self.random is not None):
            raise ValueError("give 'where', 'top' or both, or 'random' alone")
        if self.random is None and self.from_ is None:
            raise ValueError("'where' and 'top' need 'from': the measurement to choose heads from")
        if self.random is not None and self.from_ is not None:
            raise ValueError("'random' chooses without scores: leave 'from' out")
        if self.where is not None and not self.where:
            raise ValueError("'where' needs at least one score")
        if any(rule.random is not None for rule in self.rules()) and len(self.rules()) > 1:
            raise ValueError("'and' and 'without' choose by scores: 'random' does not go with them")
        if self.by is not None and self.top is None:
            raise ValueError("'by' is what 'top' orders by: give 'top' too")
        if self.or_top is not None and self.where is None:
            raise ValueError("'or_top' is for where no head holds the bounds of 'where'")
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
    token_pool: TokenPool = "uniform"
    """Which ids are drawn: all usable ones, or the first quarter of the vocabulary."""

    @property
    def independent_samples(self) -> tuple[str, int] | None:
        """Sequences are drawn independently."""
        return ("sequences", self.sequences) if self.sequences > 1 else None
