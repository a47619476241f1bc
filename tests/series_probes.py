"""A series probe as small as one can be, for tests of everything around it.

`-p series_probes` (or PYTEST_PLUGINS=series_probes) makes `probe: toy` known to a run.
"""

from __future__ import annotations

import pytest

from icl_bench.errors import NotMeasurable
from icl_bench.probes import PROBES, MetricInfo
from icl_bench.probes.design.context import Context
from icl_bench.probes.design.settings import StrictSettings
from icl_bench.records.parts import Measurement, Metric
from icl_bench.records.steps import Series


class Settings(StrictSettings):
    """What a suite may set for the probe."""

    scores: str
    """Name of an `induction` measurement."""
    losses: str | None = None
    """Name of any other measurement."""
    refuse: bool = False
    """Say that there is nothing to measure."""

    @property
    def sources(self) -> dict[str, str]:
        """Role -> name of a measurement."""
        named = {"scores": self.scores, "losses": self.losses}
        return {role: name for role, name in named.items() if name is not None}


SOURCES = {"scores": "induction"}
METRICS = {
    "rise": MetricInfo("last score minus the first", "up", "probability", exact=True),
    "steps": MetricInfo("number of steps", exact=True),
    "recorded": MetricInfo("number of recorded losses", exact=True),
}


def measure_series(series: Series, settings: Settings, context: Context) -> Measurement:
    """Report how the score rose."""
    with context.task("looking at it all", 0):
        if settings.refuse:
            raise NotMeasurable("there is nothing to see")
    scores = series.measurements[settings.scores]
    assert len(scores) == len(series.steps)
    values = [one.metrics["induction_max"].value for one in scores]
    found = {
        "rise": values[-1] - values[0],
        "steps": len(series.steps),
        "recorded": len(series.training_loss),
    }
    told = []
    if settings.losses is not None:
        told = [one.status for one in series.measurements[settings.losses]]
    return Measurement(
        probe="toy",
        metrics={name: Metric(value=value, exact=True) for name, value in found.items()},
        settings={"seen": list(series.steps), "told": told},
    )


@pytest.hookimpl(tryfirst=True)
def pytest_configure() -> None:
    """Make the probe known before icl_bench checks suites."""
    PROBES["toy"] = "series_probes"
