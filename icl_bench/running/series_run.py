"""Carries a plan out on a series of checkpoints, with one model in memory at a time."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import TYPE_CHECKING, Any

from icl_bench.errors import IclError
from icl_bench.models.sources.series import Checkpoint, find_steps, read_training_loss
from icl_bench.models.sources.spec import ModelSpec
from icl_bench.options import RunOptions
from icl_bench.probes import get_probe
from icl_bench.probes.design.context import Context
from icl_bench.progress import RunProgress
from icl_bench.provenance import code_version, digest, library_versions
from icl_bench.records.record import Measurement
from icl_bench.records.steps import Series, align, explain_broken, explain_too_few, summarize
from icl_bench.running.cache import Cache
from icl_bench.running.judging import Judged, attempt, settings_of, timed
from icl_bench.running.model_run import ModelRun, Opener
from icl_bench.running.results import Results
from icl_bench.suite.plan import Plan, Planned

if TYPE_CHECKING:
    from icl_bench.models.model import Model
    from icl_bench.models.opening.streaming import CheckpointStream
    from icl_bench.models.sources.hub import HubModel


class SeriesRun(Judged):
    """The checkpoints of one training run under one plan.

    All that is wanted of a checkpoint is measured before the next one is opened. Every
    measurement is kept at once under the checkpoint's own identity, so that a run that was cut
    short goes on where it stopped, and a second run opens nothing.

    Args:
        spec: which series.
        slug: its name in ids and folders.
        plan: what to measure and check.
        options: how to open checkpoints.
        progress: is told what is going on.
        checkpoints: what the series consists of; None to look.
        cache: where measurements are kept and found again; None to do without.
        before_opening: called before a checkpoint is opened.
    """

    def __init__(
        self,
        spec: ModelSpec,
        slug: str,
        plan: Plan,
        options: RunOptions,
        *,
        progress: RunProgress | None = None,
        checkpoints: tuple[Checkpoint, ...] | None = None,
        cache: Cache | None = None,
        before_opening: Callable[[], None] | None = None,
    ) -> None:
        super().__init__(spec, slug, plan, options, progress)
        self._checkpoints = checkpoints
        self._cache, self._before_opening = cache, before_opening
        self._taken: dict[int, dict[str, Measurement]] = {}
        self._opened: dict[int, Results] = {}
        self._done: set[str] = set()
        self._stream: CheckpointStream | None = None
        self._lent: ModelRun | None = None

    @property
    def checkpoints(self) -> tuple[Checkpoint, ...]:
        """What the series consists of, by ascending step.

        Raises:
            SpecError: there are fewer than two.
        """
        if self._checkpoints is None:
            self._checkpoints = find_steps(self.spec)
        return self._checkpoints

    def lend(self) -> Model:
        """Return the last checkpoint that can be opened, for a test, which may change it.

        Raises:
            IclError: none of them can be opened.
        """
        if self._lent is not None:
            return self._lent.lend()
        for checkpoint in reversed(self.checkpoints):
            run = self._make_run(checkpoint, (), opener=None)
            try:
                run.lend()
            except IclError as error:
                failure = error
                continue
            self._lent = run
            return run.lend()
        raise failure

    def close(self) -> bool:
        """Let go of the checkpoint in memory; results stay.

        Returns:
            whether there was anything to let go of.
        """
        lent, self._lent = self._lent, None
        if self._stream is not None:
            self._stream.close()
            self._stream = None
            return True
        return lent is not None and lent.close()

    def _keep(self, measurements: Mapping[str, Measurement]) -> None:
        for key in self.wanted() & set(measurements):
            self.results.measurements[key] = measurements[key]
            self._done.add(key)

    def measure(self, key: str) -> Measurement:
        """Return the measurement `SUITE/NAME` of the whole series.

        It is the last good step's, with all steps in its tables; one of a series probe is made of
        what its sources gave at every step. The first call takes all that the checks need.

        Args:
            key: `SUITE/NAME`.
        """
        if key not in self._done:
            planned = self.plan.measurements[key]
            try:
                self.checkpoints  # noqa: B018
            except IclError as error:
                reason = f"model {self.spec.text!r}: {error}"
                failed = Measurement(probe=planned.probe, status="error", reason=reason)
                return self.results.measurements.setdefault(key, failed)
            self.close()
            wanted = {key, *self.wanted()} - self._done
            try:
                self._go_through(self.plan.on_each_model(wanted))
            except BaseException:
                self._gather(needed=1)  # what there is by now is to be in the record
                raise
            self._gather()
            for one in sorted(wanted):
                if self.plan.measurements[one].series:
                    self.results.measurements[one] = self._over_series(self.plan.measurements[one])
            self._done |= wanted
        return self.results.measurements[key]

    def _go_through(self, keys: list[str]) -> None:
        """Measure at every step what has not been measured there."""
        try:
            for place, checkpoint in enumerate(self.checkpoints, start=1):
                known = self._taken.setdefault(checkpoint.step, {})
                missing = [key for key in keys if key not in known]
                if not missing:
                    continue
                self.progress.enter(self.slug, {})
                self.progress.at_step(checkpoint.step, place, len(self.checkpoints))
                run = self._make_run(checkpoint, missing, self._open)
                try:
                    for key in missing:
                        run.measure(key)
                finally:
                    known |= {
                        key: _without_name(taken, checkpoint)
                        for key, taken in run.results.measurements.items()
                    }
                    if run.results.environment:
                        self._opened[checkpoint.step] = run.results
                    run.close()
        finally:
            self.progress.at_step(None)
            self.close()

    def _make_run(
        self, checkpoint: Checkpoint, keys: Collection[str], opener: Opener | None
    ) -> ModelRun:
        return ModelRun(
            checkpoint.spec,
            self.slug,
            self.plan,
            self.options,
            progress=self.progress,
            cache=self._cache,
            before_opening=self._before_opening,
            opener=opener,
            keys=keys,
        )

    def _open(
        self, spec: ModelSpec, slug: str, options: RunOptions, found: HubModel | None
    ) -> Model:
        if self._stream is None:
            # Not before something has to be opened: it brings torch.
            from icl_bench.models.opening.streaming import CheckpointStream

            self._stream = CheckpointStream()
        return self._stream.open(spec, slug, options, found)

    def _by_step(self, key: str) -> dict[int, Measurement]:
        """Step -> what was measured there, for the steps that the run has come to."""
        return {step: known[key] for step, known in self._taken.items() if key in known}

    def _gather(self, needed: int = 2) -> None:
        """Put what was measured so far, at every step, into the results."""
        keys = dict.fromkeys(key for known in self._taken.values() for key in known)
        for key in keys:
            self.results.measurements[key] = summarize(self._by_step(key), needed)
        good = [
            step
            for step, known in sorted(self._taken.items())
            if step in self._opened and any(one.status == "measured" for one in known.values())
        ]
        if good:
            last = self._opened[good[-1]]
            told: dict[str, Any] = {**self.spec.describe(self.slug), "steps": good}
            self.results.model = last.model.model_copy(update=told)
            self.results.environment = last.environment

    def _over_series(self, planned: Planned) -> Measurement:
        """What a series probe makes of its sources."""
        by_role = {role: self._by_step(key) for role, key in planned.sources.items()}
        fields = type(planned.settings).model_fields
        for role, taken in by_role.items():
            whole = summarize(taken, needed=1)
            required = role not in fields or fields[role].is_required()
            if whole.status == "error" or (whole.status == "skipped" and required):
                reason = f"{planned.sources[role]}: {whole.reason}"
                return self._not_taken(planned, whole.model_copy(update={"reason": reason}))
        # A measurement that plays two roles is one source.
        sources = {planned.sources[role]: taken for role, taken in by_role.items()}
        series = align(
            {key.partition("/")[2]: taken for key, taken in sources.items()},
            read_training_loss(self.spec, self.checkpoints),
        )
        if len(series.steps) < 2:
            reason = explain_too_few(series.broken, len(self.checkpoints))
            failed = Measurement(probe=planned.probe, status="error", reason=reason)
            return self._not_taken(planned, failed)
        return self._ask(planned, series)

    def _ask(self, planned: Planned, series: Series) -> Measurement:
        probe = get_probe(planned.probe)
        take = probe.measure_series
        assert take is not None
        context = Context(None, self.progress.task)
        key = _key_of(planned, series) if self._cache else None
        taken = self._cache.find(key) if self._cache and key else None
        if taken is None:
            taken = attempt(
                planned.probe,
                planned.settings,
                lambda: timed(probe, lambda: take(series, planned.settings, context)),
            )
            if self._cache and key and taken.status == "measured":
                self._cache.keep(key, taken)
        if series.broken:
            told = explain_broken(series.broken, len(self.checkpoints), series.steps[-1])
            rows = [{"step": step, "reason": why} for step, why in series.broken.items()]
            taken.tables["broken_steps"] = rows
            taken.reason = "; ".join(filter(None, (taken.reason, told)))
        return taken

    @staticmethod
    def _not_taken(planned: Planned, why: Measurement) -> Measurement:
        return Measurement(
            probe=planned.probe,
            status=why.status,
            reason=why.reason,
            settings=settings_of(planned.settings),
            tables={name: rows for name, rows in why.tables.items() if name == "broken_steps"},
        )


def start_run(
    spec: ModelSpec,
    slug: str,
    plan: Plan,
    options: RunOptions,
    found: HubModel | tuple[Checkpoint, ...] | None = None,
    **more: Any,
) -> ModelRun | SeriesRun:
    """Return the run of what a spec names, one model or a series.

    Args:
        spec: which model or series.
        slug: its name in ids and folders.
        plan: what to measure and check.
        options: how to open it.
        found: what `check_spec` returned.
        more: `progress`, `cache` and `before_opening` of the run.
    """
    if spec.series is not None:
        checkpoints = found if isinstance(found, tuple) else None
        return SeriesRun(spec, slug, plan, options, checkpoints=checkpoints, **more)
    place = None if isinstance(found, tuple) else found
    return ModelRun(spec, slug, plan, options, found=place, **more)


def _key_of(planned: Planned, series: Series) -> str | None:
    """Key under which a series probe's result is kept: all that it reads, and the code."""

    def plain(taken: Measurement) -> dict[str, Any]:
        return taken.model_dump(mode="json", exclude={"cached", "cached_steps", "seconds"})

    try:
        return digest(
            {
                "measurement": planned.digest,
                "settings": planned.settings.model_dump(mode="json", by_alias=True),
                "probe": get_probe(planned.probe).code,
                "steps": series.steps,
                "sources": {
                    name: [plain(one) for one in taken]
                    for name, taken in series.measurements.items()
                },
                "training_loss": sorted(series.training_loss.items()),
                "broken": sorted(series.broken.items()),
                "libraries": library_versions(),
                "code": code_version(),
            }
        )
    except ValueError:  # a number that is none: it is not kept
        return None


def _without_name(taken: Measurement, checkpoint: Checkpoint) -> Measurement:
    """A measurement whose reason does not repeat which checkpoint it is about."""
    prefix = f"model {checkpoint.spec.text!r}: "
    if taken.reason is None or prefix not in taken.reason:
        return taken
    return taken.model_copy(update={"reason": taken.reason.replace(prefix, "")})
