"""Deals what a run is to measure, in parts, to an executor; each run takes in what comes back.

What comes back is plain data: nothing else, no shared folder, is needed for the record to be that
of a run in one process.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from icl_bench.errors import IclError
from icl_bench.executors.protocol import Executor, Hire
from icl_bench.models.sources.spec import ModelSpec
from icl_bench.progress import RunProgress
from icl_bench.records.parts import Environment, Measurement, ModelInfo
from icl_bench.running.judging import CheckedRun, failed
from icl_bench.suite.plan import Plan


@dataclass(frozen=True)
class Part:
    """One model, or one checkpoint of a series, and what is to be measured of it; plain data.

    Args:
        slug: the model's, or series', name in ids and folders.
        spec: what is opened.
        step: optimizer steps done, of a checkpoint; None for a model.
        keys: `SUITE/NAME` of the measurements.
    """

    slug: str
    spec: ModelSpec
    step: int | None
    keys: tuple[str, ...]


@dataclass(frozen=True)
class PartResult:
    """What was measured of a part by now; plain data.

    Args:
        step: as the part's.
        measurements: `SUITE/NAME` -> measurement.
        model: description of what was opened.
        environment: where it ran; None where it could not be opened.
    """

    step: int | None
    measurements: dict[str, Measurement]
    model: ModelInfo
    environment: Environment | None


class Dealer:
    """Has an executor measure what the runs of a job will be asked for, at the first call.

    Args:
        executor: who carries the parts out.
        hire: makes one of its workers.
        plan: what the measurements are.
        progress: is told what is going on.
        runs: name -> run; it may be filled later.
        together: whether all runs are dealt at once, and not each when it is asked for.
    """

    def __init__(
        self,
        executor: Executor,
        hire: Hire,
        plan: Plan,
        progress: RunProgress,
        runs: Mapping[str, CheckedRun],
        together: bool,
    ) -> None:
        self._executor, self._hire = executor, hire
        self._plan, self._progress = plan, progress
        self._runs, self._together = runs, together
        self._dealt: set[str] = set()

    def deal(self, asked: CheckedRun) -> None:
        """Have measured what a run will be asked for, unless that was done before.

        Args:
            asked: the run that something is asked of.
        """
        if asked.slug in self._dealt:
            return
        runs = list(self._runs.values()) if self._together else [asked]
        parts: list[Part] = []
        for run in runs:
            if run.slug not in self._dealt:
                self._dealt.add(run.slug)
                parts += _parts_of(run)
        if len(parts) < 2:
            return  # this process does it as well
        total = sum(len(part.keys) for part in parts)
        told = f"{len(parts)} parts in {self._executor}"
        with self._progress.task(told, total) as advance:
            done = [0] * len(parts)

            def take(place: int, result: PartResult) -> None:
                self._runs[parts[place].slug].take(result)
                advance(len(result.measurements) - done[place])
                done[place] = len(result.measurements)

            self._executor.carry_out(
                self._hire, parts, take, lambda place, why: self._lose(parts[place], why)
            )

    def _lose(self, part: Part, why: str) -> None:
        """Let what nobody could measure be an error with that reason."""
        run = self._runs[part.slug]
        broken = {key: failed(self._plan.measurements[key], why) for key in part.keys}
        run.take(PartResult(part.step, broken, run.results.model, None))


def _parts_of(run: CheckedRun) -> list[Part]:
    try:
        return run.parts()
    except IclError:
        return []  # asked in this process, it says what is wrong
