"""A model that is opened when it is first needed, and can be let go of."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from icl_bench.errors import IclError, ModelError
from icl_bench.models.sources.spec import ModelSpec
from icl_bench.running.judging import name_place
from icl_bench.running.setup import Setup
from icl_bench.running.termination import breaks_off, reason_of

if TYPE_CHECKING:
    from icl_bench.models.model import Model
    from icl_bench.models.sources.source import Found

Opener = Callable[..., "Model"]
"""Opens a model, given spec, slug, options and what checking it returned."""


class LazyModel:
    """A model between being named and being let go of.

    Args:
        spec: which model.
        slug: its name in ids and folders.
        setup: how to open it, and what is told of it.
        model: an open model to use instead of opening `spec`.
        found: what checking it returned, if it was checked.
        opener: opens the model; None for the ordinary way.
    """

    def __init__(
        self,
        spec: ModelSpec,
        slug: str,
        setup: Setup,
        *,
        model: Model | None = None,
        found: Found | None = None,
        opener: Opener | None = None,
    ) -> None:
        self.spec, self.slug, self.found = spec, slug, found
        self._setup, self._opener = setup, opener
        self._model, self._given = model, model is not None
        self.failure: str | None = None
        """Why it cannot be opened, once that is known."""

    @property
    def is_open(self) -> bool:
        """Whether it is in memory."""
        return self._model is not None

    @property
    def will_open(self) -> bool:
        """Whether `open` has something to do: it is not in memory, and nothing failed so far."""
        return self._model is None and self.failure is None

    def open(self) -> Model:
        """Return the open model; it is opened on first use.

        Raises:
            IclError: it cannot be opened; asked again, the same error comes at once.
        """
        if self.failure is not None:
            raise ModelError(self.failure)
        if self._model is not None:
            return self._model
        try:
            if self._setup.before_opening:
                self._setup.before_opening()
            from icl_bench.models.opening import opening

            opener = self._opener or opening.open_model
            with self._setup.progress.opening(self.slug, self.spec.public):
                self._model = opener(self.spec, self.slug, self._setup.options, self.found)
        except IclError as error:
            self.failure = str(error)
            raise
        except Exception as error:
            reason = f"model {self.spec.text!r}: opening it broke: {name_place(error)}"
            raise self.give_up(reason) from error
        except BaseException as error:
            if breaks_off(error):
                # Not again: libraries that are imported in part may take the process down.
                told = f"opening it was broken off: {reason_of(error)}"
                self.give_up(f"model {self.spec.text!r}: {told}")
            raise
        return self._model

    def give_up(self, why: str) -> ModelError:
        """Let nothing more be measured on it, and return the error that says why.

        Args:
            why: the reason, which comes whenever it is asked for.
        """
        self.failure = why
        return ModelError(why)

    def close(self) -> bool:
        """Let go of its memory; it can be opened again.

        Returns:
            whether there was anything to let go of.
        """
        if self._given or self._model is None:
            return False
        self._model = None
        return True
