"""Measuring checkpoints of a series: the part of a run that another process can do as well.

What is measured comes back as plain data; a `SeriesRun` decides what is measured, and gathers it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from icl_bench.models.sources.series import Checkpoint
from icl_bench.models.sources.spec import ModelSpec
from icl_bench.options import RunOptions
from icl_bench.records.parts import Environment, Measurement, ModelInfo
from icl_bench.running.cache import open_cache
from icl_bench.running.lazy_model import LazyModel
from icl_bench.running.model_run import ModelRun
from icl_bench.running.setup import Setup
from icl_bench.suite.plan import Plan

if TYPE_CHECKING:
    from icl_bench.models.model import Model
    from icl_bench.models.opening.streaming import CheckpointStream
    from icl_bench.models.sources.source import Found


@dataclass(frozen=True)
class Part:
    """Some checkpoints of a series, and what is to be measured at each; it can be pickled.

    Args:
        slug: the series' name in ids and folders.
        plan: what the measurements are.
        options: how to open checkpoints.
        steps: the checkpoints.
        keys: `SUITE/NAME` of the measurements.
    """

    slug: str
    plan: Plan
    options: RunOptions
    steps: tuple[Checkpoint, ...]
    keys: tuple[str, ...]


@dataclass(frozen=True)
class StepResult:
    """What was measured at one checkpoint; it can be pickled.

    Args:
        step: optimizer steps done.
        measurements: `SUITE/NAME` -> measurement.
        model: description of the checkpoint.
        environment: where it ran; None where it could not be opened.
    """

    step: int
    measurements: dict[str, Measurement]
    model: ModelInfo
    environment: Environment | None


def measure_steps(part: Part) -> list[StepResult]:
    """Measure checkpoints of a series, one model in memory at a time, and return what came out.

    Failures do not raise: they come back as measurements with status and reason. What is measured
    goes to the cache that the options name, and is taken from there, as in any other run.

    Args:
        part: which checkpoints, and what.
    """
    cache = open_cache(part.options)
    steps = StepMeasurer(part.slug, Setup(part.plan, part.options, cache=cache))
    results: dict[int, StepResult] = {}
    if cache:
        cache.begin()
    try:
        steps.measure(part.steps, part.keys, lambda result: results.update({result.step: result}))
    finally:
        steps.close()
        if cache:
            cache.end()
    return list(results.values())


class StepMeasurer:
    """Measures checkpoints one after the other; the module they share stays open between calls.

    Args:
        slug: the series' name in ids and folders.
        setup: what the measurements are, and how to open checkpoints.
    """

    def __init__(self, slug: str, setup: Setup) -> None:
        self._slug, self._setup = slug, setup
        self._stream: CheckpointStream | None = None

    def measure(
        self,
        steps: Sequence[Checkpoint],
        keys: Sequence[str],
        keep: Callable[[StepResult], None],
    ) -> None:
        """Measure at every checkpoint.

        Args:
            steps: the checkpoints, in the order in which they are opened.
            keys: `SUITE/NAME` of the measurements.
            keep: gets each checkpoint's result so far, after every measurement.
        """
        for checkpoint in steps:
            run = self.make_run(checkpoint, keys)
            try:
                for key in keys:
                    run.measure(key)
                    keep(_result_of(run, checkpoint))
            finally:
                keep(_result_of(run, checkpoint))
                run.close()

    def make_run(
        self, checkpoint: Checkpoint, keys: Sequence[str], *, alone: bool = False
    ) -> ModelRun:
        """Return the run of one checkpoint; nothing is opened yet.

        Args:
            checkpoint: which.
            keys: `SUITE/NAME` of what will be measured.
            alone: whether it gets a module of its own.
        """
        opener = None if alone else self._open
        lazy = LazyModel(checkpoint.spec, self._slug, self._setup, opener=opener)
        return ModelRun(lazy, self._setup, keys)

    def close(self) -> bool:
        """Let go of the module in memory.

        Returns:
            whether there was anything to let go of.
        """
        stream, self._stream = self._stream, None
        if stream is not None:
            stream.close()
        return stream is not None

    def _open(self, spec: ModelSpec, slug: str, options: RunOptions, found: Found | None) -> Model:
        if self._stream is None:
            # Not before something has to be opened: it brings torch.
            from icl_bench.models.opening.streaming import CheckpointStream

            self._stream = CheckpointStream()
        return self._stream.open(spec, slug, options, found)


def _result_of(run: ModelRun, checkpoint: Checkpoint) -> StepResult:
    taken = run.results.measurements
    return StepResult(
        checkpoint.step,
        {key: _without_name(measurement, checkpoint) for key, measurement in taken.items()},
        run.results.model,
        run.results.environment,
    )


def _without_name(measurement: Measurement, checkpoint: Checkpoint) -> Measurement:
    """A measurement whose reason does not repeat which checkpoint it is about."""
    prefix = f"model {checkpoint.spec.text!r}: "
    if measurement.reason is None or prefix not in measurement.reason:
        return measurement
    return measurement.model_copy(update={"reason": measurement.reason.replace(prefix, "")})
