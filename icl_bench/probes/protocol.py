"""What a probe is: of this package, or an object that another package gives."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal

from pydantic import BaseModel

from icl_bench.errors import SettingsError
from icl_bench.records.blocks import Block, tabulate
from icl_bench.records.parts import Measurement
from icl_bench.records.steps import Series

if TYPE_CHECKING:
    from icl_bench.probes.design.context import Context

Measure = Callable[[Any, Any, "Context"], Measurement]
"""Measures an open model (icl_bench.models.model.Model): (model, settings, context)."""
MeasureSeries = Callable[[Series, Any, "Context"], Measurement]
"""Measures a training run by what others measured at each checkpoint of it."""
Report = Callable[[Measurement], list[Block]]
"""A probe's part of every report, from a measurement of its own that may be years old."""


@dataclass(frozen=True)
class MetricInfo:
    """What one metric name means.

    Args:
        meaning: one sentence.
        direction: `up` when more is better, `down` when less is, None when neither.
        unit: nats, probability, ratio, heads ...
        exact: True when the value has no sampling error and needs no interval.
        bounds: of a mean over samples, or a share of them: the lowest and the highest value that
            one sample can have. A suite whose threshold no data could reach is then refused.
        needs: the setting without which it is not measured; a check on it is then refused.
    """

    meaning: str
    direction: Literal["up", "down"] | None = None
    unit: str = ""
    exact: bool = False
    bounds: tuple[float, float] | None = None
    needs: str | None = None


@dataclass(frozen=True)
class Probe:
    """One kind of measurement.

    Args:
        name: what suites call it.
        settings: what a suite may set.
        metrics: every metric name that it can report.
        measure: measures one model; None for a series probe.
        measure_series: measures a series of checkpoints; None for all other probes.
        sources: of a series probe, role -> probe of the measurement that it reads in it, for the
            roles that only one probe's can play.
        report: its part of reports; None where reports draw its tables and heads by themselves.
        gives: tables that it fills wherever it can, of those that reports draw in their own way.
        doc: what it measures; the first line is its summary.
        package: name and version of the package that it is from; None for this package.
        code: digest of that package's code; None for this package.
    """

    name: str
    settings: type[BaseModel]
    metrics: Mapping[str, MetricInfo]
    measure: Measure | None = None
    measure_series: MeasureSeries | None = None
    sources: Mapping[str, str] = field(default_factory=dict)
    report: Report | None = None
    gives: Collection[str] = ()
    doc: str | None = None
    package: str | None = None
    code: str | None = None

    @property
    def summary(self) -> str:
        """What it measures, in a line."""
        return (self.doc or "").strip().partition("\n")[0]

    @property
    def origin(self) -> str | None:
        """What a record says of the package that it is from."""
        return self.package and f"{self.package}, code {(self.code or '')[:12]}"

    @property
    def reads_heads(self) -> bool:
        """Whether the settings can name another measurement to take heads from."""
        return "heads" in self.settings.model_fields

    @property
    def is_series(self) -> bool:
        """Whether it measures a series of checkpoints, by what others measured at each."""
        return self.measure_series is not None


NEEDED = {
    "Settings": "a pydantic model",
    "METRICS": "a dict of names to icl_bench.probes.MetricInfo",
    "measure": "a function of (model, settings, context)",
}
"""What an object must have to be a probe -> what that is."""


def adopt(name: str, found: Any, where: str) -> Probe:
    """Return the probe that an object of another package stands for.

    Args:
        name: what suites call it.
        found: a module, class or object with the names of `NEEDED`, and perhaps `report`; of a
            series probe `measure_series` in place of `measure`, and perhaps `SOURCES`. Or a Probe.
        where: what gave the object, for messages.

    Raises:
        SettingsError: something is missing or of a wrong kind; the message names all of it.
    """
    if isinstance(found, Probe):
        return replace(found, name=name, report=found.report or tabulate)
    if isinstance(found, type):
        try:
            found = found()
        except Exception as error:
            told = f"{type(error).__name__}: {error}"
            raise SettingsError(f"{where} cannot be made: {told}") from error
    names = (*NEEDED, "measure_series", "SOURCES", "report")
    given: dict[str, Any] = {part: getattr(found, part, None) for part in names}
    settings, metrics = given["Settings"], given["METRICS"]
    fits = {
        "Settings": isinstance(settings, type) and issubclass(settings, BaseModel),
        "METRICS": isinstance(metrics, Mapping)
        and all(isinstance(info, MetricInfo) for info in metrics.values()),
        "measure": callable(given["measure"] or given["measure_series"]),
    }
    lacking = [f"{part} ({NEEDED[part]})" for part, good in fits.items() if not good]
    if given["report"] is not None and not callable(given["report"]):
        lacking.append("report (a function of a measurement)")
    if lacking:
        raise SettingsError(f"{where} is no probe: it needs {', '.join(lacking)}")
    return Probe(
        name,
        settings,
        metrics,
        None if given["measure_series"] else given["measure"],
        given["measure_series"],
        given["SOURCES"] or {},
        given["report"] or tabulate,
        doc=found.__doc__,
    )
