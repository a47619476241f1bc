"""What a suite may set for the `icl_score` probe, and the text that this names."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, ClassVar, Literal

from pydantic import Field, PrivateAttr, field_validator, model_validator

from icl_bench.probes.design.sequential import PoolSettings
from icl_bench.probes.design.settings import HeadList, HeadSelection, explain_few_draws
from icl_bench.probes.prompts.corpus import (
    Corpus,
    DatasetText,
    read_dataset,
    read_files,
    read_reference,
)
from icl_bench.records.parts import Measurement


class Settings(PoolSettings):
    """What a suite may set for the `icl_score` probe."""

    grows: ClassVar[str] = "documents"

    text: Annotated[str, Field(min_length=1)] | None = None
    """A UTF-8 text file, or a folder of .txt files; relative to the suite."""
    dataset: DatasetText | None = None
    """A data set of the package `datasets` instead."""
    text_sha256: str | None = None
    """SHA-256 that the text must have; that of a file, or of Python's reference, when not given."""
    documents: Annotated[int, Field(ge=1)] = 32
    """Number of documents: the first that are long enough."""
    max_documents: Annotated[int, Field(ge=1)] | None = None
    """With `until`: documents at the last interim analysis; `documents` are those at the first."""
    windows_per_document: Annotated[int, Field(ge=1)] = 2
    """Maximum number of windows per document."""
    window: Annotated[int, Field(ge=64, multiple_of=16)] = 512
    """Tokens of a window, with what the tokenizer puts first."""
    previous_token: bool = False
    """Score every head's attention to the previous token on this text, as Olsson et al. do."""
    heads: HeadSelection | HeadList | None = None
    """Heads to ablate; None to measure the unchanged model."""
    method: Literal["zero", "mean", "resample", "pattern_preserving"] = "mean"
    """What replaces a head's output; means and samples are those on held-out documents."""
    null_draws: Annotated[int, Field(ge=0)] = 0
    """Layer-matched random sets to compare with; 0 for none."""
    null_documents: Annotated[int, Field(ge=2)] = 8
    """Documents that the null is measured on (at most `documents`)."""
    alpha: Annotated[float, Field(gt=0, lt=1)] = 0.05
    """Level that the null must be able to reach for its p-values to count."""
    seed: Annotated[int, Field(ge=0)] = 0
    """Seed of random sets of heads and of a random `order`; the text is the same for every seed."""

    _folder: Path = PrivateAttr(default_factory=Path)

    @field_validator("text_sha256")
    @classmethod
    def _is_a_digest(cls, value: str | None) -> str | None:
        if value is not None and (len(value) != 64 or set(value) - set("0123456789abcdef")):
            raise ValueError("a SHA-256 has 64 digits, 0-9 and a-f")
        return value

    @model_validator(mode="after")
    def _one_text(self) -> Settings:
        if self.text is not None and self.dataset is not None:
            raise ValueError("give 'text' or 'dataset', not both")
        if self.until is not None and self.null_draws:
            raise ValueError(
                "'until: decided' is for measurements without random sets: set null_draws: 0 and "
                "put the null into a measurement of its own"
            )
        return self

    def is_all(self, taken: Measurement) -> bool:
        """Return whether a look measured every document that fills a window.

        Args:
            taken: what the look found.
        """
        return bool(taken.metrics["documents"].value < taken.settings["documents"])

    @property
    def absent(self) -> dict[str, str]:
        """The previous-token score where it is not asked for; what is read with heads off."""
        from icl_bench.probes.texts.icl_ablation import ABLATED_METRICS, NULL_METRICS, P_VALUES

        absent = {}
        if not self.previous_token:
            absent["previous_token_text_max"] = "previous_token: false in the suite"
        if self.heads is None:
            return absent | dict.fromkeys(ABLATED_METRICS, "the suite names no 'heads' to ablate")
        if self.null_draws == 0:
            return absent | dict.fromkeys(NULL_METRICS, "null_draws: 0 in the suite")
        return absent | explain_few_draws(P_VALUES, self.null_draws, self.alpha)

    @property
    def pinned(self) -> bool:
        """Whether the text is known; what a data set holds may be other text tomorrow."""
        return self.text_sha256 is not None

    def located(self, folder: Path) -> Settings:
        """Return the settings with the SHA-256 of the text that is there now.

        Args:
            folder: that of the suite, which relative paths start from.

        Raises:
            SettingsError: a file is not there or cannot be read.
        """
        # A path of its own, so that two suites never share one.
        found = self.model_copy()
        found._folder = folder
        if self.dataset is None:
            corpus = found.read()
            if self.text_sha256 is None:
                found.text_sha256 = corpus.sha256
        return found

    def read(self) -> Corpus:
        """Return the text.

        Raises:
            SettingsError: a file is not there or cannot be read.
            MeasurementError: a data set cannot be had.
        """
        if self.dataset is not None:
            return read_dataset(self.dataset)
        if self.text is not None:
            return read_files(self._folder / self.text)
        return read_reference()
