"""What earlier runs knew of one model, and what this run adds to it."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

from icl_bench.errors import IclError, SpecError
from icl_bench.models.sources.checking import check_one
from icl_bench.models.sources.identity import identify
from icl_bench.models.sources.spec import ModelSpec
from icl_bench.models.sources.table import get_source, source_version
from icl_bench.options import RunOptions
from icl_bench.probes import get_probe
from icl_bench.probes.design.settings import StrictSettings
from icl_bench.provenance import digest
from icl_bench.records.parts import Measurement
from icl_bench.running.cache import Cache, KnownModel
from icl_bench.suite.plan import Plan, Planned

if TYPE_CHECKING:
    from icl_bench.models.model import Model
    from icl_bench.models.sources.source import Found

Enough = Callable[[Planned, Measurement], bool]
"""Whether one look at growing data suffices."""

FORMAT = 1
"""Changes when entries of the cache come to mean something else."""


class ModelCache:
    """The cache as one model under one set of options sees it.

    Nothing is found or kept before it is known which model this is: by its identity, from a run
    that opened it, or from opening it.

    Args:
        cache: where entries are.
        spec: which model.
        options: how it is opened.
    """

    def __init__(self, cache: Cache, spec: ModelSpec, options: RunOptions) -> None:
        self._cache, self._spec, self._options = cache, spec, options
        self._identity: str | None = None
        self._known: KnownModel | None = None
        self._trouble: str | None = None

    def identify(self, found: Found | None) -> Found | None:
        """Note which model the spec names now, before it is opened.

        What changes between now and then is never mistaken for what is there now.

        Args:
            found: what checking it returned, None to check it.

        Returns:
            what checking it returned.
        """
        if found is None and get_source(self._spec.kind).remote:
            with contextlib.suppress(IclError):  # loading will meet it again, and say it
                found = check_one(self._spec, allow_pickle=self._options.allow_pickle)
        try:
            self._identity = identify(self._spec, self._options, found)
        except SpecError as error:  # of another package; the model can be measured all the same
            self._trouble = str(error)
        return found

    def load_known(self) -> KnownModel | None:
        """Return what a run that opened this model knew of it, or None."""
        if self._identity is not None:
            self._known = self._cache.load_known(self._identity)
        return self._known

    def describe(self, model: Model) -> dict[str, Any] | None:
        """Return everything about an open model that can change a number, None if it is not known.

        Args:
            model: the open model.
        """
        from icl_bench.models.opening.conditions import describe_conditions

        try:
            return describe_conditions(model)
        except Exception as error:
            # Too odd a model or tokenizer to be described can still be measured.
            self._trouble = " ".join(f"{type(error).__name__}: {error}".split())[:200]
            return None

    def differs(self, model: Model) -> bool:
        """Whether an open model is no longer what it was when it was opened.

        Args:
            model: the open model.
        """
        known = self._known.conditions if self._known else None
        return known is not None and self.describe(model) != known

    def record_identity(self, known: KnownModel) -> bool:
        """Take in what is true of the model that has just been opened.

        Args:
            known: it replaces what was known.

        Returns:
            whether it is another model than was thought.
        """
        before, self._known = self._known, known
        if known.conditions is not None and self._identity is not None and before != known:
            self._cache.save_known(self._identity, known)
        return before is not None and before.conditions != known.conditions

    def find(self, planned: Planned, enough: Enough | None = None) -> Measurement | None:
        """Return the measurement if it was taken before on this very model, or None.

        Args:
            planned: the measurement.
            enough: whether a look decides what is asked; needed where there are several.
        """
        if planned.looks:
            for look in planned.looks:
                kept = self.find(look)
                if kept is None or enough is None:
                    return None
                if look is planned.looks[-1] or enough(planned, kept):
                    return kept
        key = self._key(planned)
        return None if key is None else self._cache.find(key)

    def find_all(
        self, plan: Plan, keys: Iterable[str], enough: Enough
    ) -> dict[str, Measurement] | None:
        """Return all the measurements, by digest, if none of them has to be taken, else None.

        Args:
            plan: the plan that they are in.
            keys: `SUITE/NAME` of each; what they depend on is looked for as well.
            enough: whether a look decides what is asked of a measurement.
        """
        found: dict[str, Measurement] = {}

        def look(planned: Planned) -> bool:
            for source in dict.fromkeys((planned.upstream, *planned.sources.values())):
                if source is None:
                    continue
                upstream = plan.measurements[source]
                if not look(upstream):
                    return False
                above = found.get(upstream.digest)
                if above is None or above.status != "measured":
                    return True  # a skip is handed down
            if planned.digest not in found and (kept := self.find(planned, enough)):
                found[planned.digest] = kept
            return planned.digest in found

        return found if all(look(plan.measurements[key]) for key in keys) else None

    def keep(self, planned: Planned, taken: Measurement) -> None:
        """Keep a measurement, if it will hold for this model as long as nothing changes."""
        if self._trouble:
            self._cache.warn(f"{self._spec.text!r} cannot be told from others ({self._trouble})")
        key = self._key(planned)
        if key is not None and self._lasts(taken):
            self._cache.keep(key, taken)

    def _lasts(self, taken: Measurement) -> bool:
        """An error may be gone tomorrow, and a tokenizer installed; heads do not grow."""
        assert self._known is not None
        model = self._known.model
        headless = model.attention == "none" and taken.reason == model.attention_note
        return taken.status == "measured" or (taken.status == "skipped" and headless)

    def _key(self, planned: Planned) -> str | None:
        if self._known is None or self._known.conditions is None or self._trouble:
            return None
        if isinstance(planned.settings, StrictSettings) and not planned.settings.pinned:
            return None  # what it reads may be something else tomorrow
        source = source_version(self._spec.kind)
        return digest(
            {
                "format": FORMAT,
                "measurement": planned.digest,
                "probe": get_probe(planned.probe).code,
                "conditions": self._known.conditions,
                **({} if source is None else {"source": source}),
            }
        )
