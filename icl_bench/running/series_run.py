"""Carries a plan out on a series of checkpoints, with one model in memory at a time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from icl_bench.errors import IclError
from icl_bench.models.sources.series import Checkpoint, find_steps, read_training_loss
from icl_bench.models.sources.spec import ModelSpec
from icl_bench.probes import get_probe
from icl_bench.probes.design.context import Context
from icl_bench.provenance import code_version, digest, library_versions
from icl_bench.records.keys import Key
from icl_bench.records.parts import Measurement
from icl_bench.records.steps import Series, align, explain_broken, explain_too_few, summarize
from icl_bench.running.dealing import Part, PartResult
from icl_bench.running.judging import CheckedRun, attempt, failed, settings_of, timed
from icl_bench.running.lazy_model import LazyModel
from icl_bench.running.model_run import ModelRun
from icl_bench.running.part_worker import StepMeasurer
from icl_bench.running.setup import Setup
from icl_bench.running.termination import breaks_off, reason_of
from icl_bench.suite.plan import Planned

if TYPE_CHECKING:
    from icl_bench.models.model import Model
    from icl_bench.models.sources.checking import Checked


class SeriesRun(CheckedRun):
    """The checkpoints of one training run under one plan.

    All that is wanted of a checkpoint is measured before the next one is opened. Every
    measurement is kept at once under the checkpoint's own identity, so that a run that was cut
    short goes on where it stopped, and a second run opens nothing.

    Args:
        spec: which series.
        slug: its name in ids and folders.
        setup: what to measure and check, and how to open checkpoints.
        checkpoints: what the series consists of; None to look.
    """

    def __init__(
        self,
        spec: ModelSpec,
        slug: str,
        setup: Setup,
        checkpoints: tuple[Checkpoint, ...] | None = None,
    ) -> None:
        super().__init__(spec, slug, setup)
        self._checkpoints, self._cache = checkpoints, setup.cache
        self._measurer = StepMeasurer(slug, setup)
        self._taken: dict[int, dict[str, Measurement]] = {}
        self._opened: dict[int, PartResult] = {}
        self._done: set[str] = set()
        self._for_caller: ModelRun | None = None

    @property
    def checkpoints(self) -> tuple[Checkpoint, ...]:
        """What the series consists of, by ascending step.

        Raises:
            SpecError: there are fewer than two.
        """
        if self._checkpoints is None:
            self._checkpoints = find_steps(self.spec)
        return self._checkpoints

    def open_for_caller(self) -> Model:
        """Return the last checkpoint that can be opened, for a test, which may change it.

        Raises:
            IclError: none of them can be opened.
        """
        if self._for_caller is not None:
            return self._for_caller.open_for_caller()
        for checkpoint in reversed(self.checkpoints):
            run = self._measurer.make_run(checkpoint, (), alone=True)
            try:
                run.open_for_caller()
            except IclError as error:
                failure = error
                continue
            self._for_caller = run
            return run.open_for_caller()
        raise failure

    def close(self) -> bool:
        """Let go of the checkpoint in memory; results stay.

        Returns:
            whether there was anything to let go of.
        """
        held, self._for_caller = self._for_caller, None
        return self._measurer.close() or (held is not None and held.close())

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
            try:
                self.deal()
                self._measure(key)
            except BaseException as error:
                self._gather(needed=1)  # what there is by now is to be in the record
                if breaks_off(error):
                    self.break_off(key, reason_of(error))
                raise
        return self.results.measurements[key]

    def _measure(self, key: str) -> None:
        planned = self.plan.measurements[key]
        try:
            self.checkpoints  # noqa: B018
        except IclError as error:
            reason = f"model {self.spec.text!r}: {error}"
            broken = Measurement(probe=planned.probe, status="error", reason=reason)
            self.results.measurements.setdefault(key, broken)
            return
        self.close()
        wanted = {key, *self.wanted()} - self._done
        self._go_through(self.plan.on_each_model(wanted))
        self._gather()
        for one in sorted(wanted):
            if self.plan.measurements[one].series:
                self.results.measurements[one] = self._over_series(self.plan.measurements[one])
        self._done |= wanted

    def break_off(self, key: str, why: str) -> None:
        """Let what was not measured at every checkpoint be an error, which is not tried again.

        Steps that were measured stay in the tables of each measurement.

        Args:
            key: `SUITE/NAME`.
            why: what ended it.
        """
        wanted = {key, *self.wanted()} - self._done
        steps = len(self._checkpoints or ())
        self._gather()
        for one in {*wanted, *self.plan.on_each_model(wanted)}:
            planned, taken = self.plan.measurements[one], self._by_step(one)
            if planned.series:
                self.results.measurements.setdefault(one, failed(planned, why))
            elif len(taken) < steps or any(why in (step.reason or "") for step in taken.values()):
                good = sum(step.status == "measured" for step in taken.values())
                so_far = summarize(taken, needed=1).tables if taken else {}
                broken = failed(planned, f"{why} ({good} of {steps} checkpoints were measured)")
                broken.tables = {n: so_far[n] for n in ("steps", "broken_steps") if n in so_far}
                self.results.measurements[one] = broken
        self._done |= wanted

    def missing(self, keys: Sequence[str]) -> list[tuple[Checkpoint, tuple[str, ...]]]:
        """Return what is left to be measured: checkpoints, with what is missing of `keys` at each.

        Args:
            keys: `SUITE/NAME` of the measurements that are wanted at every checkpoint.
        """
        left = [
            (checkpoint, tuple(key for key in keys if key not in self._step(checkpoint.step)))
            for checkpoint in self.checkpoints
        ]
        return [(checkpoint, needed) for checkpoint, needed in left if needed]

    def _step(self, step: int) -> dict[str, Measurement]:
        return self._taken.get(step, {})

    def parts(self) -> list[Part]:
        """What is left to be measured, in an order in which the curve is soon known."""
        keys = self.plan.on_each_model(self.wanted() - self._done)
        left = self.missing(keys)
        return [
            Part(self.slug, left[place][0].spec, left[place][0].step, left[place][1])
            for place in ends_first(len(left))
        ]

    def take(self, result: PartResult) -> None:
        """Take in what was measured at one checkpoint, in this process or another.

        Args:
            result: of that checkpoint.
        """
        assert result.step is not None
        self._taken.setdefault(result.step, {}).update(result.measurements)
        if result.environment is not None:
            self._opened[result.step] = result

    def _go_through(self, keys: list[str]) -> None:
        """Measure at every step what has not been measured there."""
        places = {one.step: place for place, one in enumerate(self.checkpoints, start=1)}
        try:
            for checkpoint, needed in self.missing(keys):
                self.progress.enter(self.slug, {})
                self.progress.at_step(
                    checkpoint.step, places[checkpoint.step], len(self.checkpoints)
                )
                self._measurer.measure([checkpoint], needed, self.take)
        finally:
            self.progress.at_step(None)
            self.close()

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
            {Key(key).name: taken for key, taken in sources.items()},
            read_training_loss(self.spec, self.checkpoints),
        )
        if len(series.steps) < 2:
            reason = explain_too_few(series.broken, len(self.checkpoints))
            return self._not_taken(planned, failed(planned, reason))
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


def ends_first(count: int) -> list[int]:
    """Return places 0 to count - 1: the ends, then the middle of each gap, widest first.

    Args:
        count: how many.
    """
    order = [0, count - 1][:count]
    gaps = [(0, count - 1)]
    while gaps:
        gaps.sort(key=lambda gap: gap[0] - gap[1])
        low, high = gaps.pop(0)
        if high - low > 1:
            middle = (low + high) // 2
            order.append(middle)
            gaps += [(low, middle), (middle, high)]
    return order


def start_run(spec: ModelSpec, slug: str, setup: Setup, found: Checked = None) -> CheckedRun:
    """Return the run of what a spec names, one model or a series.

    Args:
        spec: which model or series.
        slug: its name in ids and folders.
        setup: what to measure and check, and how to open it.
        found: what `check_spec` returned.
    """
    if spec.series is not None:
        return SeriesRun(spec, slug, setup, found if isinstance(found, tuple) else None)
    place = None if isinstance(found, tuple) else found
    return ModelRun(LazyModel(spec, slug, setup, found=place), setup)


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
