"""Carries a plan out: opens a model when its first measurement is asked for, keeps results."""

from __future__ import annotations

import contextlib
import functools
import sys
from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING

from icl_bench.errors import IclError
from icl_bench.probes import get_probe
from icl_bench.probes.design.combined import combine
from icl_bench.probes.design.context import Context
from icl_bench.probes.design.sequential import LookSettings
from icl_bench.records.parts import Measurement
from icl_bench.running.cache import KnownModel
from icl_bench.running.checks import all_decided
from icl_bench.running.dealing import Part, PartResult
from icl_bench.running.description import describe_again, describe_environment, describe_model
from icl_bench.running.judging import CheckedRun, attempt, failed, settings_of, timed
from icl_bench.running.lazy_model import LazyModel
from icl_bench.running.model_cache import ModelCache
from icl_bench.running.setup import Setup
from icl_bench.running.termination import breaks_off, reason_of
from icl_bench.suite.plan import Planned

if TYPE_CHECKING:
    from icl_bench.models.clean_run import BaseRun
    from icl_bench.models.model import Model

NEEDS_SERIES = "needs a series of checkpoints: --icl-model=...@*"


class ModelRun(CheckedRun):
    """One model under one plan.

    Args:
        lazy: the model, opened when its first measurement is asked for.
        setup: what to measure and check, and how to open it.
        keys: the measurements that will be asked for; None for those that the checks need.
    """

    def __init__(self, lazy: LazyModel, setup: Setup, keys: Collection[str] | None = None) -> None:
        super().__init__(lazy.spec, lazy.slug, setup)
        self.lazy, self._keys = lazy, keys
        self._by_digest: dict[str, Measurement] = {}
        self._runs: dict[str, BaseRun] = {}
        cache = setup.cache
        self._model_cache = ModelCache(cache, lazy.spec, setup.options) if cache else None
        self._looked_back = self._described = self._handed_out = False
        self._announced = False

    @property
    def model(self) -> Model:
        """The open model; opened on first use.

        Raises:
            IclError: it cannot be opened; asked again, the same error comes at once.
        """
        if self.lazy.will_open and self._model_cache:
            self.lazy.found = self._model_cache.identify(self.lazy.found)
        model = self.lazy.open()
        if not self._described:
            conditions = self._model_cache.describe(model) if self._model_cache else None
            weights = conditions["weights"] if conditions else None
            self.record_identity(
                KnownModel(
                    conditions=conditions,
                    model=describe_model(model, self.spec, self.slug, weights),
                    environment=describe_environment(model),
                )
            )
        return model

    def open_for_caller(self) -> Model:
        """Return the open model to a test, which may change it."""
        self._handed_out = True
        return self.model

    def record_identity(self, known: KnownModel) -> None:
        """Take in what is true of the open model.

        Args:
            known: its description, and what numbers measured on it depend on.

        Raises:
            ModelError: it is not the model that results of this run came from.
        """
        changed = self._model_cache.record_identity(known) if self._model_cache else False
        if changed and any(taken.cached for taken in self.results.measurements.values()):
            raise self.lazy.give_up(
                f"model {self.spec.text!r} changed while it was tested: results from the cache "
                "that checks have used are not those of the model that is there now; run again"
            )
        if changed:
            self._by_digest.clear()
        self.results.model, self.results.environment = known.model, known.environment
        self._described = True

    def _reclaim(self) -> Model:
        """The open model as it was opened: anew, if a test has changed what it was given."""
        model = self.model
        if (
            self._handed_out
            and self._model_cache
            and self._model_cache.differs(model)
            and self.close()
        ):
            self._handed_out = False
            model = self.model
        return model

    def _look_back(self) -> None:
        """See whether earlier runs have measured all that will be asked for.

        Where something is missing, the model is opened at once: whether it is still the one that
        the rest was measured on is to be known before any of it is used.
        """
        if self._looked_back or self._model_cache is None:
            return
        self._looked_back = True
        if self.lazy.is_open:
            return
        self.lazy.found = self._model_cache.identify(self.lazy.found)
        known = self._model_cache.load_known()
        if known is None:
            return
        described = describe_again(known, self.spec, self.slug)
        self.results.model, self.results.environment = described
        kept = self._model_cache.find_all(self.plan, self.wanted(), is_enough)
        if kept is not None:
            self._by_digest |= kept
            for digest, taken in kept.items():
                self.progress.found(digest, taken)
        else:
            with contextlib.suppress(IclError):  # the first measurement will meet it again
                self.model  # noqa: B018

    def _keep(self, measurements: Mapping[str, Measurement]) -> None:
        for key, taken in measurements.items():
            self._by_digest.setdefault(self.plan.measurements[key].digest, taken)

    def parts(self) -> list[Part]:
        """What is left to be measured, as one part; none for a model that came open."""
        keys = [
            key
            for key in self.plan.on_each_model(self.wanted())
            if self.plan.measurements[key].digest not in self._by_digest
        ]
        if self.lazy.is_open or not keys:
            return []
        return [Part(self.slug, self.spec, None, tuple(keys))]

    def take(self, result: PartResult) -> None:
        """Take in what was measured of this model in another process.

        Args:
            result: of that part.
        """
        self._keep(result.measurements)
        self.results.model = result.model
        self.results.environment = result.environment or self.results.environment
        for key, taken in result.measurements.items():
            named = _named_as(self.plan.measurements[key], taken)
            self.results.measurements.setdefault(key, named)

    def wanted(self) -> set[str]:
        """Keys of the measurements that will be taken; of a series probe, those that it reads."""
        return set(self.plan.on_each_model(super().wanted() if self._keys is None else self._keys))

    def _announce(self) -> None:
        """Tell the progress what there is to measure, in the order of the plan."""
        if self._announced and self.progress.model == self.slug:
            return
        self._announced = True
        self.progress.enter(self.slug, self.to_measure(), done=self._by_digest)

    def close(self) -> bool:
        """Let go of the model's memory; results stay, and the model can be opened again.

        Returns:
            whether there was anything to let go of.
        """
        if not self.lazy.close():
            return False
        self._runs.clear()
        self._described = False
        return True

    def measure(self, key: str) -> Measurement:
        """Return the measurement `SUITE/NAME`, taking it when that has not been done.

        Failures do not raise: they come back as a measurement with status and reason.
        """
        known = self.results.measurements
        if key not in known:
            try:
                self.deal()
                self._measure(key)
            except BaseException as error:
                if breaks_off(error):
                    self.break_off(key, reason_of(error))
                raise
        return known[key]

    def break_off(self, key: str, why: str) -> None:
        """Let a measurement that has not been taken be an error, which is not tried again.

        The model is let go of: it may have been left in the middle of a change.

        Args:
            key: `SUITE/NAME`.
            why: what ended it.
        """
        for one, planned in self.plan.measurements.items():
            if one == key or planned.digest == self.progress.measured:
                taken = failed(planned, self.lazy.failure or why)
                self.results.measurements.setdefault(one, taken)
                self._by_digest.setdefault(planned.digest, taken)
        self.close()

    def _measure(self, key: str) -> None:
        known = self.results.measurements
        planned = self.plan.measurements[key]
        if planned.series:
            for source in planned.sources.values():
                self.measure(source)  # for a run on the whole series to find them
            known[key] = Measurement(
                probe=planned.probe,
                status="skipped",
                reason=NEEDS_SERIES,
                settings=settings_of(planned.settings),
            )
            return
        if planned.digest not in self._by_digest:
            self._announce()
            self._look_back()
        upstream, lacking = self._measure_upstream(planned)
        shared = planned.digest in self._by_digest
        if not shared:
            if lacking is not None:
                taken = lacking
            else:
                with self.progress.measuring(planned.digest) as finish:
                    taken = self._obtain(planned, upstream)
                    finish(taken)
            self._by_digest[planned.digest] = taken
        taken = known[key] = _named_as(planned, self._by_digest[planned.digest])
        # At once, for an interruption to lose nothing.
        if self._model_cache and not shared and not taken.cached and not planned.looks:
            self._model_cache.keep(planned, taken)

    def _measure_upstream(self, planned: Planned) -> tuple[Measurement | None, Measurement | None]:
        """What heads are chosen from; and, where that was not measured, what is handed down."""
        if planned.upstream is None:
            return None, None
        keys = dict.fromkeys((planned.upstream, *planned.sources.values()))
        for key in keys:
            found = self.measure(key)
            if found.status != "measured":
                return None, Measurement(
                    probe=planned.probe,
                    status=found.status,
                    # A model that does not open is one reason, whatever was to be measured.
                    reason=self.lazy.failure or f"{key}: {found.reason}",
                    settings=settings_of(planned.settings),
                )
        read = {name: self.measure(key) for name, key in planned.sources.items()}
        return combine(self.measure(planned.upstream), read), None

    def _obtain(self, planned: Planned, upstream: Measurement | None) -> Measurement:
        """The measurement, kept or taken; with several looks, the first that decides the checks."""
        if not planned.looks:
            kept = self._model_cache.find(planned) if self._model_cache else None
            return kept or self._take(planned, upstream)
        for look in planned.looks:
            taken = self._obtain(look, upstream)
            if self._model_cache and not taken.cached:
                self._model_cache.keep(look, taken)
            if taken.status != "measured" or is_enough(planned, taken):
                break
        return taken

    def _take(self, planned: Planned, upstream: Measurement | None) -> Measurement:
        probe = get_probe(planned.probe)
        take = probe.measure
        assert take is not None  # of a series probe, nothing is measured on one model

        def measure() -> Measurement:
            model = self._reclaim()
            # A model that had to be opened to know which one it is may have been measured before.
            if self._model_cache and (kept := self._model_cache.find(planned)):
                return kept
            context = Context(upstream, self.progress.task, self._runs)
            # Not before a model is open: it brings torch.
            from icl_bench.models.module.batching import run_within_memory

            work = functools.partial(take, model, planned.settings, context)
            return timed(probe, lambda: run_within_memory(model, work))

        return attempt(planned.probe, planned.settings, measure)


def is_enough(planned: Planned, taken: Measurement) -> bool:
    """Whether no further look is needed: one decides every check, or took all that there is.

    Args:
        planned: the measurement, with the checks on it.
        taken: what a look at it found.
    """
    settings = planned.settings
    if taken.status == "measured" and isinstance(settings, LookSettings) and settings.is_all(taken):
        return True
    return all_decided(planned.checks, taken, get_probe(planned.probe).metrics)


def _named_as(planned: Planned, taken: Measurement) -> Measurement:
    """The measurement with this suite's own name for where its heads are from, and its looks."""
    settings = planned.settings
    if taken.status == "measured" and isinstance(settings, LookSettings) and planned.looks:
        asked = settings_of(settings)
        told = {name: asked[name] for name in ("until", settings.budget)}
        taken = taken.model_copy(update={"settings": {**taken.settings, **told}})
    heads, asked_for = taken.settings.get("heads"), settings_of(settings).get("heads")
    if not isinstance(heads, dict) or heads == asked_for:
        return taken
    return taken.model_copy(update={"settings": {**taken.settings, "heads": asked_for}})


def close_others(runs: Mapping[str, CheckedRun], slug: str) -> None:
    """Let go of every open model but one, so that a process holds one model at a time."""
    closed = [run.close() for name, run in runs.items() if name != slug]
    if any(closed) and "torch" in sys.modules:
        import gc

        gc.collect()
