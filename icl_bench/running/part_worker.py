"""Measures parts of a run, in this process or another: models, and checkpoints of a series."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from icl_bench.executors.protocol import Share
from icl_bench.models.sources.series import Checkpoint
from icl_bench.models.sources.spec import ModelSpec
from icl_bench.options import RunOptions
from icl_bench.records.parts import Measurement
from icl_bench.running.cache import open_cache
from icl_bench.running.dealing import Part, PartResult
from icl_bench.running.lazy_model import LazyModel
from icl_bench.running.model_run import ModelRun
from icl_bench.running.setup import Setup
from icl_bench.suite.plan import Plan

if TYPE_CHECKING:
    from icl_bench.models.model import Model
    from icl_bench.models.opening.streaming import CheckpointStream
    from icl_bench.models.sources.source import Found


class PartWorker:
    """Measures parts one after another; the module that checkpoints share stays open between them.

    Failures do not raise: they come back as measurements with status and reason. What is measured
    goes to the cache that the options name, and is taken from there, as in any other run.

    Args:
        plan: what the measurements are.
        options: how to open models.
        share: which part of the machine is this worker's.
    """

    def __init__(self, plan: Plan, options: RunOptions, share: Share) -> None:
        self._share, self._cache = share, open_cache(options)
        self._setup = Setup(plan, options, cache=self._cache, before_opening=self._choose_device)
        self._series: tuple[str, StepMeasurer] | None = None
        if self._cache:
            self._cache.begin()

    def carry_out(self, part: Part, tell: Callable[[PartResult], None]) -> None:
        """Measure one part.

        Args:
            part: which.
            tell: gets what was measured by now, after every measurement.
        """
        if part.step is not None:
            checkpoint = Checkpoint(part.step, part.spec)
            self._measurer(part.slug).measure([checkpoint], part.keys, tell)
            return
        self._end_series()
        run = ModelRun(LazyModel(part.spec, part.slug, self._setup), self._setup, part.keys)
        try:
            for key in part.keys:
                run.measure(key)
                tell(_result_of(run))
        finally:
            run.close()

    def close(self) -> None:
        """Let go of the model in memory, and of the cache."""
        self._end_series()
        if self._cache:
            self._cache.end()

    def _measurer(self, slug: str) -> StepMeasurer:
        if self._series is None or self._series[0] != slug:
            self._end_series()
            self._series = slug, StepMeasurer(slug, self._setup)
        return self._series[1]

    def _end_series(self) -> None:
        series, self._series = self._series, None
        if series is not None:
            series[1].close()

    def _choose_device(self) -> None:
        """With several GPUs, take this worker's as the one that `cuda` means."""
        import torch

        if (count := torch.cuda.device_count()) > 1:
            torch.cuda.set_device(self._share.place % count)


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
        keep: Callable[[PartResult], None],
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


def _result_of(run: ModelRun, checkpoint: Checkpoint | None = None) -> PartResult:
    measured = dict(run.results.measurements)
    if checkpoint is not None:
        measured = {key: _without_name(taken, checkpoint) for key, taken in measured.items()}
    step = checkpoint.step if checkpoint else None
    return PartResult(step, measured, run.results.model, run.results.environment)


def _without_name(measurement: Measurement, checkpoint: Checkpoint) -> Measurement:
    """A measurement whose reason does not repeat which checkpoint it is about."""
    prefix = f"model {checkpoint.spec.text!r}: "
    if measurement.reason is None or prefix not in measurement.reason:
        return measurement
    return measurement.model_copy(update={"reason": measurement.reason.replace(prefix, "")})
