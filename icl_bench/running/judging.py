"""What a model, or a series of checkpoints, has in common: its checks are judged one by one."""

from __future__ import annotations

import time
import traceback
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from pydantic import BaseModel, ValidationError

from icl_bench.errors import IclError, NotMeasurable
from icl_bench.models.sources.spec import ModelSpec
from icl_bench.probes import Probe, get_probe
from icl_bench.records.parts import DESELECTED, Check, Measurement, ModelInfo, settle
from icl_bench.records.record import RunRecord
from icl_bench.records.rows import explain
from icl_bench.running.checks import applies, evaluate
from icl_bench.running.results import INTERRUPTED, Results, assemble
from icl_bench.running.setup import Setup
from icl_bench.running.termination import breaks_off
from icl_bench.suite.plan import Planned

if TYPE_CHECKING:
    from icl_bench.models.model import Model
    from icl_bench.running.dealing import Part, PartResult
    from icl_bench.suite import Suite


class CheckedRun(ABC):
    """What a spec names, under one plan.

    Args:
        spec: which model, or series of checkpoints.
        slug: its name in ids and folders.
        setup: what to measure and check, and how to open it.
    """

    def __init__(self, spec: ModelSpec, slug: str, setup: Setup) -> None:
        self.spec, self.slug, self.setup = spec, slug, setup
        self.plan, self.progress = setup.plan, setup.progress
        self.results = Results(ModelInfo(**spec.describe(slug)))
        self._expected: Collection[tuple[str, str]] | None = None
        self._beside: Collection[str] = ()
        self._judged_elsewhere: set[tuple[str, str]] = set()

    @abstractmethod
    def measure(self, key: str) -> Measurement:
        """Return the measurement `SUITE/NAME`, taking it when that has not been done.

        Failures do not raise: they come back as a measurement with status and reason.
        """

    @abstractmethod
    def break_off(self, key: str, why: str) -> None:
        """Let a measurement that has not been taken be an error, which is not tried again.

        Args:
            key: `SUITE/NAME`.
            why: what ended it, as pytest-timeout does.
        """

    @abstractmethod
    def open_for_caller(self) -> Model:
        """Return an open model to a test, which may change it."""

    @abstractmethod
    def close(self) -> bool:
        """Let go of a model's memory; results stay, and it can be opened again.

        Returns:
            whether there was anything to let go of.
        """

    @abstractmethod
    def parts(self) -> list[Part]:
        """What is left to be measured, as parts that other processes can do.

        Raises:
            IclError: what the model consists of cannot be looked up.
        """

    @abstractmethod
    def take(self, result: PartResult) -> None:
        """Take in what was measured of a part, in this process or another.

        Args:
            result: of that part.
        """

    def deal(self) -> None:
        """Have other processes measure, where the run has some and this was not done."""
        if self.setup.dealer is not None:
            self.setup.dealer.deal(self)

    def adopt(
        self, measurements: Mapping[str, Measurement], checks: Iterable[tuple[str, str]]
    ) -> None:
        """Take in what another process did, which is not done again.

        Args:
            measurements: `SUITE/NAME` -> what it measured; as errors, those that it died of.
            checks: (suite, id) of those that it judged.
        """
        self._judged_elsewhere.update(checks)
        self._keep(measurements)

    @abstractmethod
    def _keep(self, measurements: Mapping[str, Measurement]) -> None:
        """Use measurements of another process where they are asked for."""

    def expect(self, checks: Collection[tuple[str, str]], beside: Collection[str] = ()) -> None:
        """Say what will be asked for; without, all checks of the plan.

        Args:
            checks: (suite, id) of checks.
            beside: keys of measurements that are asked for beside those of the checks.
        """
        self._expected, self._beside = checks, beside

    def wanted(self) -> set[str]:
        """Keys of the measurements that will be asked for, and of those for the report."""
        needed = {
            suite.key(spec.on)
            for suite, spec in self.plan.assertions()
            if (self._expected is None or (suite.name, spec.id) in self._expected)
            and applies(spec, self.results.model.names)
        }
        needed.update(self._beside)
        for suite in self.plan.suites:
            needed.update(self._for_report(suite, self._expected))
        return needed

    def _for_report(self, suite: Suite, asked: Collection[tuple[str, str]] | None) -> list[str]:
        """Keys of what no check reads, of a suite with a check for this model, or without any.

        Args:
            suite: the suite.
            asked: checks that are asked for; nothing is measured for the report of a part of the
                suite. None for all.
        """
        specs = suite.assertions
        if asked is not None and not all((suite.name, spec.id) in asked for spec in specs):
            return []
        mine = not specs or any(applies(spec, self.results.model.names) for spec in specs)
        return self.plan.unread(suite) if mine else []

    def to_measure(self) -> dict[str, str]:
        """What the expected checks need of one model: digest -> key, in the order of the plan.

        A measurement that several suites share stands there once.
        """
        needed: set[str] = set()

        def need(key: str) -> None:
            planned = self.plan.measurements[key]
            if not planned.series:
                needed.add(key)
            for source in (planned.upstream, *planned.sources.values()):
                if source is not None and source not in needed:
                    need(source)

        for key in self.wanted():
            need(key)
        found: dict[str, str] = {}
        for key, planned in self.plan.measurements.items():
            if key in needed:
                found.setdefault(planned.digest, key)
        return found

    def check(self, suite_name: str, check_id: str) -> Check:
        """Return the verdict of one check, measuring what it needs.

        After the last one of a suite, what no check reads is measured too, for the report. What
        something from outside broke off, as pytest-timeout does, is an error with that reason.
        """
        try:
            return self._judge(suite_name, check_id)
        except BaseException as error:
            if not breaks_off(error):
                raise
        # Nothing more is measured: nobody watches the time that it would take.
        return self._judge(suite_name, check_id, for_report=False)

    def outcome_of(self, key: str) -> Measurement:
        """Return a measurement as `measure` does; one that was broken off is an error with why.

        Args:
            key: `SUITE/NAME`.
        """
        try:
            return self.measure(key)
        except BaseException as error:
            if not breaks_off(error):
                raise
        return self.results.measurements[key]

    def end_check(self, suite_name: str, check_id: str, why: str) -> Check:
        """Judge a check of which no more will be measured, and return the verdict.

        Args:
            suite_name: name of its suite.
            check_id: its id.
            why: what ended it.
        """
        suite, spec = self.plan.find(suite_name, check_id)
        if (suite_name, check_id) not in self.results.checks:
            self.break_off(suite.key(spec.on), why)
        return self._judge(suite_name, check_id, for_report=False)

    def _judge(self, suite_name: str, check_id: str, *, for_report: bool = True) -> Check:
        name = (suite_name, check_id)
        if name not in self.results.checks:
            suite, spec = self.plan.find(suite_name, check_id)
            key = suite.key(spec.on)
            # A check that is not for this model costs nothing.
            taken = self.measure(key) if applies(spec, self.results.model.names) else None
            self.results.checks[name] = evaluate(
                spec,
                suite.name,
                key,
                taken,
                get_probe(suite.measure[spec.on].probe).metrics[spec.metric],
                *self.results.model.names,
            )
            asked = {*self.results.checks, *self._judged_elsewhere}
            for unread in self._for_report(suite, asked) if for_report else ():
                self.measure(unread)
        return self.results.checks[name]

    def run(self) -> RunRecord:
        """Judge every check of the plan, measure suites without any, and return the record."""
        for suite, spec in self.plan.assertions():
            self._judge(suite.name, spec.id)
        for key in self.plan.only_measured():
            self.measure(key)
        return self.record()

    def record(self, *, interrupted: bool = False) -> RunRecord:
        """Return the record of what has been measured so far."""
        missing = INTERRUPTED if interrupted else DESELECTED
        return assemble(self.results, self.plan, interrupted=interrupted, missing=missing)


def attempt(probe: str, settings: BaseModel, measure: Callable[[], Measurement]) -> Measurement:
    """Return what is measured, or why nothing could be.

    What is returned can be written and is read again as it was: a number that is NaN makes the
    measurement an error.

    Args:
        probe: name of the probe.
        settings: its settings.
        measure: takes the measurement.
    """
    status: Literal["skipped", "error"]
    try:
        return settle(measure())
    except NotMeasurable as error:
        status, reason = "skipped", str(error)
    except IclError as error:
        status, reason = "error", str(error)
    except ValidationError as error:
        status, reason = "error", f"probe {probe!r}: {explain(error)}"
        if error.title not in ("Measurement", "data"):  # the part does not know what it is of
            reason += f" ({find_place(error)})"
    except Exception as error:
        # A fault of this program or of the model's code: named with its place, not hidden.
        status, reason = "error", f"probe {probe!r} broke: {name_place(error)}"
    return Measurement(probe=probe, status=status, reason=reason, settings=settings_of(settings))


def failed(planned: Planned, why: str) -> Measurement:
    """Return a measurement that could not be taken.

    Args:
        planned: the measurement.
        why: the reason.
    """
    settings = settings_of(planned.settings)
    return Measurement(probe=planned.probe, status="error", reason=why, settings=settings)


def timed(probe: Probe, measure: Callable[[], Measurement]) -> Measurement:
    """Return what is measured, with the time that it took and the probe that took it.

    Args:
        probe: the probe.
        measure: takes the measurement.
    """
    started = time.perf_counter()
    taken = measure()
    if not isinstance(taken, Measurement):
        raise TypeError(f"it returned {type(taken).__name__}, not a Measurement")
    taken.seconds = round(time.perf_counter() - started, 3)
    taken.probe, taken.package = probe.name, probe.origin
    return taken


def name_place(error: Exception) -> str:
    """Return an unforeseen error with where it was raised.

    Args:
        error: what was raised.
    """
    return f"{type(error).__name__}: {error} ({find_place(error)})"


def find_place(error: Exception) -> str:
    """Return FILE:LINE of where an error was raised; of pydantic's, where it was called.

    Args:
        error: what was raised.
    """
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if "pydantic" not in Path(frame.filename).parts]
    place = (own or frames)[-1]
    return f"{Path(place.filename).name}:{place.lineno}"


def settings_of(settings: BaseModel) -> dict[str, object]:
    """Return a probe's settings as a record states them.

    Args:
        settings: the probe's.
    """
    return settings.model_dump(by_alias=True, exclude_none=True)
