"""What a source of models is: the protocol that every file of this folder implements.

A source knows one way of naming models and how to open them. The table of sources is in
`icl_bench.models.sources.table`; other packages add theirs by entry points.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from icl_bench.models.module.tokenizer import find_fault
from icl_bench.models.sources.spec import ModelSpec
from icl_bench.options import RunOptions, default_cache_dir

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from icl_bench.models.sources.series import Checkpoint, Checkpoints
    from icl_bench.models.sources.stored import Stored


class Found:
    """What `check` learned about a model, for a source that must not look it up twice.

    A source makes a subclass of its own; the other operations get the object back.
    """


@dataclass(frozen=True)
class Opening:
    """How a model is told from others and opened.

    Args:
        options: device (`split` asks for a model spread over all), cache, what is trusted.
        found: what the source's `check` returned.
        dtype: data type to load in; None for the model's own.
    """

    options: RunOptions
    found: Found | None = None
    dtype: torch.dtype | None = None

    @property
    def cache_dir(self) -> Path:
        """Folder for what may be kept between runs."""
        return self.options.cache_dir or default_cache_dir()


@dataclass
class LoadedParts:
    """A model and what came with it.

    Args:
        model: in evaluation mode, on its device, in its data type.
        tokenizer: None when there is none that works.
        revision: commit hash, when the model came from a hub.
        tokenizer_note: why there is no tokenizer, or how it is another than its class.
        adapter: which adapters are applied, and whether they are merged into the weights.
        base: the model that they are applied to, as reports name it, if it is another's.
        base_revision: commit hash of that model, when it came from a hub.
        quantization: method and bits of quantized weights, as its files say.
    """

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase | None = None
    revision: str | None = None
    tokenizer_note: str | None = None
    adapter: str | None = None
    base: str | None = None
    base_revision: str | None = None
    quantization: str | None = None

    def settle_tokenizer(self) -> None:
        """Leave a tokenizer out that is of no use with the model, and note why there is none."""
        if self.tokenizer is not None:
            reason = find_fault(self.tokenizer, self.model)
            if reason:
                self.tokenizer, self.tokenizer_note = None, reason
        elif self.tokenizer_note is None:
            self.tokenizer_note = "the model comes without a tokenizer"


class Source(Protocol):
    """One way of naming and opening models.

    Only `recognise`, `check` and `open` have to be written. A source that inherits from this class
    and leaves an operation out says that it does not have it. `recognise`, `check`, `checkpoints`
    and `identity` run before any model is opened and must not import torch or transformers.

    A source that is made of others (a base and an adapter) asks them: it parses their specs with
    `parsing.parse_spec` and finds their sources with `table.get_source`.
    """

    remote: bool = False
    """Whether looking a model up costs requests. Fewer checkpoints of a series are then checked
    in advance, and `check` is not repeated if its result is at hand."""

    @abstractmethod
    def recognise(self, text: str) -> ModelSpec | None:
        """Return what a text names, or None if it is not of this source's form.

        Args:
            text: the spec without `NAME=`; it begins with the source's own name and ':' if the
                source is another package's.

        Raises:
            SpecError: it is of this source's form, but wrong.
        """

    @abstractmethod
    def check(self, spec: ModelSpec, *, allow_pickle: bool = False) -> Found | None:
        """Check that a model exists and can be read, from headers and listings only.

        Args:
            spec: one model, not a series.
            allow_pickle: accept weights that are stored as pickles.

        Returns:
            what was learned, for the other operations; None for nothing.

        Raises:
            SpecError: something is missing, broken or not a model; the message says what.
        """

    def checkpoints(self, spec: ModelSpec) -> Checkpoints | None:
        """Return the checkpoints of a training run, None if models of this source have none.

        Args:
            spec: a spec with `series`.

        Raises:
            SpecError: they cannot be listed.
        """
        return None

    def training_loss(
        self, spec: ModelSpec, checkpoints: Iterable[Checkpoint]
    ) -> Mapping[int, float]:
        """Return step -> training loss in nats as it was recorded; empty if none was.

        Args:
            spec: a spec with `series`.
            checkpoints: its checkpoints.
        """
        return {}

    def identity(self, spec: ModelSpec, how: Opening) -> Any | None:
        """Return plain data that changes when the model changes, without reading its weights.

        Args:
            spec: which model.
            how: what is trusted, and what `check` returned.

        Returns:
            what JSON can express; None if the model can change without a trace. It is then opened
            in every run.

        Raises:
            OSError, IclError: it cannot be told; the same as None.
        """
        return None

    def content(self, spec: ModelSpec, how: Opening) -> str | None:
        """Return the digest of weights, config and tokenizer, the same wherever they lie.

        Args:
            spec: which model.
            how: what is trusted, the folder to keep digests in, and what `check` returned.

        Returns:
            None if the content is not at hand, or is not all of the model.

        Raises:
            OSError: a file cannot be read.
        """
        return None

    @abstractmethod
    def open(self, spec: ModelSpec, how: Opening) -> LoadedParts:
        """Open a model that passed `check`; moving and checking it is left to the caller.

        Args:
            spec: which model.
            how: data type, device, what is trusted, and what `check` returned.

        Raises:
            ModelError: it cannot be opened.
        """

    def pour(self, spec: ModelSpec, how: Opening) -> Stored | None:
        """Return a checkpoint's tensors, to be copied into an open module of the same config.

        Args:
            spec: the checkpoint.
            how: what `check` returned.

        Returns:
            None if that cannot be done; the checkpoint is then opened.

        Raises:
            SpecError: they cannot be had; opening the checkpoint says why.
        """
        return None


OPERATIONS = tuple(name for name in vars(Source) if not name.startswith("_"))
"""Attributes that a source must have."""
