"""Carries a plan out: opens a model when its first measurement is asked for, keeps results."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Collection, Mapping
from typing import TYPE_CHECKING

from icl_bench.errors import IclError, ModelError
from icl_bench.models.sources.spec import ModelSpec
from icl_bench.options import RunOptions
from icl_bench.probes import get_probe
from icl_bench.probes.design.context import Context
from icl_bench.probes.design.sequential import LookSettings
from icl_bench.probes.design.settings import source_of_heads
from icl_bench.progress import RunProgress
from icl_bench.records.record import Measurement
from icl_bench.running.cache import Cache, KnownModel
from icl_bench.running.checks import all_decided
from icl_bench.running.description import describe_again, describe_environment, describe_model
from icl_bench.running.judging import Judged, attempt, name_place, settings_of, timed
from icl_bench.running.model_cache import Memory
from icl_bench.suite.plan import Plan, Planned

if TYPE_CHECKING:
    from icl_bench.models.clean_run import BaseRun
    from icl_bench.models.model import Model
    from icl_bench.models.sources.hub import HubModel

Opener = Callable[..., "Model"]
"""Opens a model, given spec, slug, options and where a hub id was found."""
NEEDS_SERIES = "needs a series of checkpoints: --icl-model=...@*"


class ModelRun(Judged):
    """One model under one plan.

    Args:
        spec: which model.
        slug: its name in ids and folders.
        plan: what to measure and check.
        options: how to open it.
        progress: is told what is going on.
        model: an open model to use instead of opening `spec`.
        found: where a hub id was found, when it has been asked for.
        cache: where measurements are kept and found again; None to do without.
        before_opening: called before the model is opened.
        opener: opens the model; None for the ordinary way.
        keys: the measurements that will be asked for; None for those that the checks need.
    """

    def __init__(
        self,
        spec: ModelSpec,
        slug: str,
        plan: Plan,
        options: RunOptions,
        *,
        progress: RunProgress | None = None,
        model: Model | None = None,
        found: HubModel | None = None,
        cache: Cache | None = None,
        before_opening: Callable[[], None] | None = None,
        opener: Opener | None = None,
        keys: Collection[str] | None = None,
    ) -> None:
        super().__init__(spec, slug, plan, options, progress)
        self._model = model
        self._given = model is not None
        self._failure: str | None = None
        self._by_digest: dict[str, Measurement] = {}
        self._runs: dict[str, BaseRun] = {}
        self._found, self._before_opening = found, before_opening
        self._memory = Memory(cache, spec, options) if cache else None
        self._opener, self._keys = opener, keys
        self._looked_back = self._learned = self._lent = False
        self._announced = False

    @property
    def model(self) -> Model:
        """The open model; opened on first use.

        Raises:
            IclError: it cannot be opened; asked again, the same error comes at once.
        """
        if self._failure is not None:
            raise ModelError(self._failure)
        if self._model is None:
            if self._before_opening:
                self._before_opening()
            if self._memory:
                self._found = self._memory.identify(self._found)
            from icl_bench.models.opening import opening

            opener = self._opener or opening.open_model
            try:
                with self.progress.opening(self.slug, self.spec.public):
                    self._model = opener(self.spec, self.slug, self.options, self._found)
            except IclError as error:
                self._failure = str(error)
                raise
            except Exception as error:
                self._failure = f"model {self.spec.text!r}: opening it broke: {name_place(error)}"
                raise ModelError(self._failure) from error
        if not self._learned:
            conditions = self._memory.describe(self._model) if self._memory else None
            weights = conditions["weights"] if conditions else None
            self.learn(
                KnownModel(
                    conditions=conditions,
                    model=describe_model(self._model, self.spec, self.slug, weights),
                    environment=describe_environment(self._model),
                )
            )
        return self._model

    def lend(self) -> Model:
        """Return the open model to a test, which may change it."""
        self._lent = True
        return self.model

    def learn(self, known: KnownModel) -> None:
        """Take in what is true of the open model.

        Args:
            known: its description, and what numbers measured on it depend on.

        Raises:
            ModelError: it is not the model that results of this run came from.
        """
        changed = self._memory.learn(known) if self._memory else False
        if changed and any(taken.cached for taken in self.results.measurements.values()):
            self._failure = (
                f"model {self.spec.text!r} changed while it was tested: results from the cache "
                "that checks have used are not those of the model that is there now; run again"
            )
            raise ModelError(self._failure)
        if changed:
            self._by_digest.clear()
        self.results.model, self.results.environment = known.model, known.environment
        self._learned = True

    def _reclaim(self) -> Model:
        """The open model as it was opened: anew, if a test has changed what it was lent."""
        model = self.model
        if self._lent and self._memory and self._memory.differs(model) and self.close():
            self._lent = False
            model = self.model
        return model

    def _look_back(self) -> None:
        """See whether earlier runs have measured all that will be asked for.

        Where something is missing, the model is opened at once: whether it is still the one that
        the rest was measured on is to be known before any of it is used.
        """
        if self._looked_back or self._memory is None:
            return
        self._looked_back = True
        if self._model is not None:
            return
        self._found = self._memory.identify(self._found)
        known = self._memory.recall()
        if known is None:
            return
        described = describe_again(known, self.spec, self.slug)
        self.results.model, self.results.environment = described
        kept = self._memory.find_all(self.plan, self.wanted(), is_enough)
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
        if self._given or self._model is None:
            return False
        self._model = None
        self._runs.clear()
        self._learned = False
        return True

    def measure(self, key: str) -> Measurement:
        """Return the measurement `SUITE/NAME`, taking it when that has not been done.

        Failures do not raise: they come back as a measurement with status and reason.
        """
        known = self.results.measurements
        if key in known:
            return known[key]
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
            return known[key]
        if planned.digest not in self._by_digest:
            self._announce()
            self._look_back()
        upstream = self.measure(planned.upstream) if planned.upstream else None
        shared = planned.digest in self._by_digest
        if not shared:
            if upstream is not None and upstream.status != "measured":
                taken = Measurement(
                    probe=planned.probe,
                    status=upstream.status,
                    reason=f"{planned.upstream}: {upstream.reason}",
                    settings=settings_of(planned.settings),
                )
            else:
                with self.progress.measuring(planned.digest) as finish:
                    taken = self._obtain(planned, upstream)
                    finish(taken)
            self._by_digest[planned.digest] = taken
        taken = known[key] = _named_as(planned, self._by_digest[planned.digest])
        # At once, for an interruption to lose nothing.
        if self._memory and not shared and not taken.cached and not planned.looks:
            self._memory.keep(planned, taken)
        return taken

    def _obtain(self, planned: Planned, upstream: Measurement | None) -> Measurement:
        """The measurement, kept or taken; with several looks, the first that decides the checks."""
        if not planned.looks:
            kept = self._memory.find(planned) if self._memory else None
            return kept or self._take(planned, upstream)
        for look in planned.looks:
            taken = self._obtain(look, upstream)
            if self._memory and not taken.cached:
                self._memory.keep(look, taken)
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
            if self._memory and (kept := self._memory.find(planned)):
                return kept
            context = Context(upstream, self.progress.task, self._runs)
            return timed(probe, lambda: take(model, planned.settings, context))

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
    heads = taken.settings.get("heads")
    source = source_of_heads(planned.settings)
    if not isinstance(heads, dict) or heads.get("from") == source:
        return taken
    renamed = {**taken.settings, "heads": {**heads, "from": source}}
    return taken.model_copy(update={"settings": renamed})


def close_others(runs: Mapping[str, Judged], slug: str) -> None:
    """Let go of every open model but one, so that a process holds one model at a time."""
    closed = [run.close() for name, run in runs.items() if name != slug]
    if any(closed) and "torch" in sys.modules:
        import gc

        gc.collect()
