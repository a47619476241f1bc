"""Carries a plan out: opens a model when its first measurement is asked for, keeps results."""

from __future__ import annotations

import platform
import subprocess
import sys
import time
import traceback
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from icl_bench.checks import applies, evaluate
from icl_bench.errors import IclError, NotMeasurable
from icl_bench.models.placement import describe_placement
from icl_bench.models.spec import ModelSpec
from icl_bench.options import RunOptions
from icl_bench.plan import Plan
from icl_bench.probes import get_probe
from icl_bench.probes.context import Context, Task, silent_task
from icl_bench.record import Check, Environment, Measurement, ModelInfo, RunRecord, SuiteRef

if TYPE_CHECKING:
    from icl_bench.models.baserun import BaseRun
    from icl_bench.models.model import Model


@dataclass
class Results:
    """What is known of one model: sent between processes, and made into a record.

    Args:
        model: description of the model; spec and slug only, until it is opened.
        environment: where it ran; None until the model is opened.
        measurements: `SUITE/NAME` -> measurement.
        checks: (suite, id) -> check.
    """

    model: ModelInfo
    environment: Environment | None = None
    measurements: dict[str, Measurement] = field(default_factory=dict)
    checks: dict[tuple[str, str], Check] = field(default_factory=dict)


class ModelRun:
    """One model under one plan.

    Args:
        spec: which model.
        slug: its name in ids and folders.
        plan: what to measure and check.
        options: how to open it.
        task: opens progress lines.
        model: an open model to use instead of opening `spec`.
    """

    def __init__(
        self,
        spec: ModelSpec,
        slug: str,
        plan: Plan,
        options: RunOptions,
        *,
        task: Task = silent_task,
        model: Model | None = None,
    ) -> None:
        self.spec, self.slug, self.plan, self.options, self.task = spec, slug, plan, options, task
        self.results = Results(ModelInfo(spec=spec.public, slug=slug))
        self._model = model
        self._given = model is not None
        self._failure: str | None = None
        self._by_digest: dict[str, Measurement] = {}
        self._runs: dict[str, BaseRun] = {}

    @property
    def model(self) -> Model:
        """The open model; opened on first use.

        Raises:
            IclError: it cannot be opened; asked again, the same error comes at once.
        """
        from icl_bench.errors import ModelError

        if self._failure is not None:
            raise ModelError(self._failure)
        if self._model is None:
            from icl_bench.models.opening import open_model

            try:
                with self.task(f"opening {self.spec.public}", 0):
                    self._model = open_model(self.spec, self.slug, self.options)
            except IclError as error:
                self._failure = str(error)
                raise
            except Exception as error:
                self._failure = f"model {self.spec.text!r}: opening it broke: {_place(error)}"
                raise ModelError(self._failure) from error
        if self.results.environment is None:
            self.results.model = describe_model(self._model, self.spec, self.slug)
            self.results.environment = describe_environment(self._model)
        return self._model

    def close(self) -> bool:
        """Let go of the model's memory; results stay, and the model can be opened again.

        Returns:
            whether there was anything to let go of.
        """
        if self._given or self._model is None:
            return False
        self._model = None
        self._runs.clear()
        return True

    def measure(self, key: str) -> Measurement:
        """Return the measurement `SUITE/NAME`, taking it when that has not been done.

        Failures do not raise: they come back as a measurement with status and reason.
        """
        known = self.results.measurements
        if key in known:
            return known[key]
        planned = self.plan.measurements[key]
        if planned.digest in self._by_digest:
            known[key] = self._by_digest[planned.digest]
            return known[key]
        upstream = self.measure(planned.upstream) if planned.upstream else None
        if upstream is not None and upstream.status != "measured":
            taken = Measurement(
                probe=planned.probe,
                status=upstream.status,
                reason=f"{planned.upstream}: {upstream.reason}",
                settings=_settings_of(planned.settings),
            )
        else:
            taken = self._take(planned.probe, planned.settings, upstream)
        known[key] = self._by_digest[planned.digest] = taken
        return taken

    def _take(self, probe: str, settings: object, upstream: Measurement | None) -> Measurement:
        started = time.perf_counter()
        status: Literal["skipped", "error"]
        try:
            model = self.model
            module = get_probe(probe).module
            taken: Measurement = module.measure(
                model, settings, Context(upstream, self.task, self._runs)
            )
            taken.seconds = round(time.perf_counter() - started, 3)
            return taken
        except NotMeasurable as error:
            status, reason = "skipped", str(error)
        except IclError as error:
            status, reason = "error", str(error)
        except Exception as error:
            # A fault of this program or of the model's code: named with its place, not hidden.
            status, reason = "error", f"probe {probe!r} broke: {_place(error)}"
        return Measurement(
            probe=probe, status=status, reason=reason, settings=_settings_of(settings)
        )

    def check(self, suite_name: str, check_id: str) -> Check:
        """Return the verdict of one check, measuring what it needs."""
        name = (suite_name, check_id)
        if name not in self.results.checks:
            suite, spec = self.plan.find(suite_name, check_id)
            key = f"{suite.name}/{spec.on}"
            # A check that is not for this model costs nothing.
            wanted = applies(spec, self.spec.public, self.slug)
            self.results.checks[name] = evaluate(
                spec,
                suite.name,
                key,
                self.measure(key) if wanted else None,
                get_probe(suite.measure[spec.on].probe).metrics[spec.metric],
                self.spec.public,
                self.slug,
            )
        return self.results.checks[name]

    def run(self) -> RunRecord:
        """Judge every check of the plan and return the record."""
        for suite, spec in self.plan.assertions():
            self.check(suite.name, spec.id)
        return self.record()

    def record(self, *, interrupted: bool = False) -> RunRecord:
        """Return the record of what has been measured so far."""
        missing = "not run: interrupted" if interrupted else "deselected"
        return assemble(self.results, self.plan, interrupted=interrupted, missing=missing)


def _place(error: Exception) -> str:
    """Name an unforeseen error with where it was raised."""
    place = traceback.extract_tb(error.__traceback__)[-1]
    name = Path(place.filename).name
    return f"{type(error).__name__}: {error} ({name}:{place.lineno})"


def _settings_of(settings: object) -> dict[str, object]:
    dump = getattr(settings, "model_dump", None)
    return dump(by_alias=True, exclude_none=True) if dump else {}


def describe_model(model: Model, spec: ModelSpec, slug: str) -> ModelInfo:
    """Describe an open model for the record."""

    def per_layer(place: int) -> int | list[int] | None:
        counts = [shape[place] for _, shape in sorted(model.shapes.items())]
        return (counts[0] if len(set(counts)) == 1 else counts) if counts else None

    return ModelInfo(
        spec=spec.public,
        slug=slug,
        revision=model.revision,
        fingerprint=model.fingerprint,
        architecture=type(model.model).__name__,
        layers=model.layers,
        heads=per_layer(0),
        kv_heads=per_layer(1),
        parameters=model.parameters,
        dtype=model.dtype,
        attention=model.attention,  # type: ignore[arg-type]
        attention_note=model.no_heads or model.attention_note,
        bos=model.bos,
    )


def describe_environment(model: Model | None = None) -> Environment:
    """Describe this process for the record; without a model torch is not imported."""
    environment = Environment(
        python=platform.python_version(),
        platform=f"{platform.system()} {platform.machine()}",
        git=_git_commit(),
    )
    if model is not None:
        import torch
        import transformers

        environment.torch = torch.__version__
        environment.transformers = transformers.__version__
        environment.device = describe_placement(model.model)
        environment.threads = torch.get_num_threads()
    return environment


def _git_commit() -> str | None:
    try:
        asked = subprocess.run(
            ["git", "describe", "--always", "--dirty=+dirty", "--abbrev=40", "--exclude=*"],
            capture_output=True,
            text=True,
            timeout=5,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return asked.stdout.strip() or None


Lost = dict[tuple[str, str], tuple[Literal["skipped", "error"], str]]
"""(suite, id) of a check that gave no verdict -> what became of it, and why."""


def assemble(
    results: Results,
    plan: Plan,
    *,
    interrupted: bool = False,
    missing: str = "deselected",
    lost: Lost | None = None,
) -> RunRecord:
    """Make a record of what is known; checks that were not judged are skipped with a reason.

    Args:
        results: of one model.
        plan: what was asked for.
        interrupted: whether the run was cut short.
        missing: reason for the checks that were not judged.
        lost: checks that were not judged for reasons of their own.
    """
    from icl_bench import __version__

    checks, complete = [], True
    for suite, spec in plan.assertions():
        check = results.checks.get((suite.name, spec.id))
        if check is None:
            complete = False
            key = f"{suite.name}/{spec.on}"
            state, why = (lost or {}).get((suite.name, spec.id), ("skipped", missing))
            nothing = Measurement(probe=suite.measure[spec.on].probe, status=state, reason=why)
            info = get_probe(nothing.probe).metrics[spec.metric]
            check = evaluate(
                spec, suite.name, key, nothing, info, results.model.spec, results.model.slug
            )
        checks.append(check)
    status: Literal["complete", "partial", "interrupted"] = "complete" if complete else "partial"
    return RunRecord(
        icl_bench=__version__,
        created=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        status="interrupted" if interrupted else status,
        model=results.model,
        environment=results.environment or describe_environment(),
        suites=[
            SuiteRef(name=s.name, sha256=s.sha256, description=s.description) for s in plan.suites
        ],
        measurements=dict(sorted(results.measurements.items())),
        checks=checks,
    )


def counts_as_failure(record: RunRecord, inconclusive_fails: bool = True) -> bool:
    """Whether a record holds a failed, broken or (by option) inconclusive check."""
    bad = {"fail", "error"} | ({"inconclusive"} if inconclusive_fails else set())
    return any(check.verdict in bad for check in record.checks)


def close_others(runs: Mapping[str, ModelRun], slug: str) -> None:
    """Let go of every open model but one, so that a process holds one model at a time."""
    closed = [run.close() for name, run in runs.items() if name != slug]
    if any(closed) and "torch" in sys.modules:
        import gc

        gc.collect()
