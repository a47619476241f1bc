"""Outcomes in the cache, for an interrupted run to go on."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from icl_bench.models.opening.conditions import describe_conditions
from icl_bench.mutating.outcome import Outcome
from icl_bench.provenance import digest, digest_files
from icl_bench.records.parts import Measurement

if TYPE_CHECKING:
    from icl_bench.models.model import Model
    from icl_bench.running.job import Job

FORMAT = 1
"""Changes when kept outcomes come to mean something else."""


class Kept:
    """What is kept of one model under its suites; nothing where there is no cache.

    Args:
        job: the suites, and the cache.
        model: the unedited model.
        period: tokens in a block.
        seed: of all that is drawn.
    """

    def __init__(self, job: Job, model: Model, period: int, seed: int) -> None:
        self._cache = job.cache
        if self._cache is None:
            return
        try:
            conditions = describe_conditions(model)
        except ValueError:  # it has hooks whose doing cannot be told
            self._cache = None
            return
        package = Path(__file__).parent
        files = [*package.glob("*.py"), *(package.parent / "comparing").glob("*.py")]
        self._described: dict[str, Any] = {
            "format": FORMAT,
            "conditions": conditions,
            "suites": [suite.sha256 for suite in job.plan.suites],
            "measurements": [one.digest for one in job.plan.measurements.values()],
            "drawn": [period, seed],
            "code": digest_files(files, package.parent),
        }

    def _key(self, edit: str, place: str) -> str:
        return digest({**self._described, "edit": [edit, place]})

    def find(self, edit: str, place: str) -> Outcome | None:
        """Return what an earlier run found of an edit at a place, or None."""
        taken = None if self._cache is None else self._cache.find(self._key(edit, place))
        return None if taken is None else replace(Outcome.read(taken.settings), cached=True)

    def keep(self, outcome: Outcome) -> None:
        """Keep what was found."""
        if self._cache is not None:
            entry = Measurement(probe="mutation", settings=outcome.as_data())
            self._cache.keep(self._key(outcome.edit, outcome.place), entry)
