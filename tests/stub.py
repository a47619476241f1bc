"""A model and a probe that cost nothing, for tests of everything around the measuring.

`-p stub` (or PYTEST_PLUGINS=stub) makes `--icl-model=stub:good` and `probe: stub` known to a run.
Each opening and each measurement adds a line to the file named by STUB_LOG. Nothing is kept in the
cache, which would hide what is measured, unless STUB_WEIGHTS says what tells the model from others.
"""

from __future__ import annotations

import os
import warnings
import weakref
from pathlib import Path
from typing import Any, Literal

import pytest
from waiting import wait_until

from icl_bench.errors import ModelError, NotMeasurable
from icl_bench.probes import PROBES, MetricInfo
from icl_bench.probes.design.context import Context
from icl_bench.probes.design.settings import StrictSettings
from icl_bench.records.parts import Environment, Measurement, Metric, ModelInfo
from icl_bench.running.cache import KnownModel
from icl_bench.running.model_run import ModelRun

LEVELS = {"bad": 0.0}
"""Of a model of any other name it is 1."""
OPEN: weakref.WeakSet[Model] = weakref.WeakSet()


class Model:
    """A model known by its name; it has nothing that a real probe could measure."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __getattr__(self, name: str) -> Any:
        raise NotMeasurable("a stub has no heads")


def good() -> None:
    """Pass every check; never called, there to be found."""


bad = fine = broken = deadly = good


class Settings(StrictSettings):
    """What a suite may set for the `stub` probe."""

    tag: str = ""
    """Tells measurements apart."""
    act: Literal["measure", "break", "crash", "interrupt", "wait", "report", "nan", "time out"] = (
        "measure"
    )
    """What happens when it is measured."""
    only: str | None = None
    """Name of the model on which `act` happens, when not on all; on others it measures."""


METRICS = {
    "level": MetricInfo("1 for a good model, 0 for a bad one", "up", "ratio"),
    "unsure": MetricInfo("the same with an interval that reaches from -9 to 9"),
    "exact": MetricInfo("the same without an interval", exact=True),
}


def measure(model: Model, settings: Settings, context: Context) -> Measurement:
    """Report the model's level, or do what the settings say instead."""
    log("measured", model.name, settings.tag)
    act = settings.act if settings.only in (None, model.name) else "measure"
    if act == "break":
        raise ValueError("the stub broke")
    if act == "crash":
        os._exit(9)
    if act == "interrupt":
        raise KeyboardInterrupt
    if act == "wait":
        Path("begun").write_text(str(os.getpid()))
        Path("begun").rename("waiting")
        wait_until(lambda: False)
    if act == "time out":
        pytest.fail("Timeout (>1.0s) from pytest-timeout.")
    if act == "report":
        with context.task("stubbing", 10) as advance:
            advance(5)
            warnings.warn("a warning of the model's", stacklevel=1)
            print("a print of the model's")
    level = float("nan") if act == "nan" else LEVELS.get(model.name, 1.0)
    return Measurement(
        probe="stub",
        metrics={
            "level": Metric(value=level, stderr=0.01, ci_low=level - 0.02, ci_high=level + 0.02),
            "unsure": Metric(value=level, stderr=4.5, ci_low=-9.0, ci_high=9.0),
            "exact": Metric(value=level),
        },
    )


def log(*words: object) -> None:
    """Add a line to the log, with the process that did it."""
    if path := os.environ.get("STUB_LOG"):
        with open(path, "a", encoding="utf-8") as stream:
            print(os.getpid(), *words, file=stream)


def open_stub(run: ModelRun) -> Model:
    """Stand in for `ModelRun.model`."""
    lazy = run.lazy
    if lazy._model is None:
        name = run.spec.target.removeprefix("stub:")
        log("opened", name)
        if name == "deadly":
            with run.progress.opening(run.slug, name):
                os._exit(9)
        if name == "broken":
            raise ModelError("model 'stub:broken': calling 'broken' failed: no such luck")
        lazy._model = Model(name)  # type: ignore[assignment]
        OPEN.add(lazy._model)  # type: ignore[arg-type]
        if len(OPEN) > 1:
            log("held", *sorted(model.name for model in OPEN))
        if weights := os.environ.get("STUB_WEIGHTS"):
            weights = f"{name} {weights}"
            info = ModelInfo(spec=run.spec.public, slug=run.slug, fingerprint=weights)
            environment = Environment(python="3", platform="here")
            conditions = {"weights": weights}
            run.record_identity(
                KnownModel(conditions=conditions, model=info, environment=environment)
            )
    return lazy._model  # type: ignore[return-value]


def install() -> None:
    """Make the stub known; for the rest of the process, unless what is set is put back."""
    PROBES["stub"] = "stub"
    ModelRun.model = property(open_stub)  # type: ignore[assignment,method-assign]


@pytest.hookimpl(tryfirst=True)
def pytest_configure() -> None:
    """Make the stub known before icl_bench checks suites and specs."""
    install()
