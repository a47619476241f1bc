"""What came of one run: records, files, comparison, exit code, and what to try next."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from icl_bench.naming import RECORD
from icl_bench.records.record import RunRecord
from icl_bench.render.advice import advise
from icl_bench.reports.brief import describe_ranking
from icl_bench.running.baseline import Baseline
from icl_bench.running.results import counts_as_failure


@dataclass
class Outcome:
    """What came of one run.

    Args:
        records: one per model that was measured, finished or not.
        paths: the files written for people to look at, each model's record first.
        baseline: the comparison with a baseline; None where none was asked for.
        strict: whether what is inconclusive fails the run.
        interrupted: whether it was cut short.
        undecided: why no check was decided, or what of a suite without checks was not measured.
        removed: what went from the cache at the end, in words.
        troubles: what could not be written, and why.
        ci_lines: lines that CI obeys, each to be printed at the start of a line.
        no_worse: whether the comparison found nothing worse, and could be made.
    """

    records: list[RunRecord] = field(default_factory=list)
    paths: list[Path] = field(default_factory=list)
    baseline: Baseline | None = None
    strict: bool = True
    interrupted: bool = False
    undecided: str | None = None
    removed: str | None = None
    troubles: list[str] = field(default_factory=list)
    ci_lines: list[str] = field(default_factory=list)
    no_worse: bool = True

    @property
    def is_sound(self) -> bool:
        """Whether all was written, something was decided, and nothing got worse."""
        return not self.troubles and self.undecided is None and self.no_worse

    def hints(self, prefix: str) -> list[str]:
        """Return how the models rank, and what to try next, a line each.

        Args:
            prefix: of the run's options, as a user types them.
        """
        records = [path for path in self.paths if path.name == RECORD]
        compared = self.baseline is not None
        return [*describe_ranking(records), *advise(self.records, prefix, compared=compared)]

    @property
    def exit_code(self) -> int:
        """0 if all is well, 1 if a check failed or something went wrong, 2 if interrupted."""
        if self.interrupted:
            return 2
        failed = any(counts_as_failure(record, self.strict) for record in self.records)
        return int(failed or not self.is_sound)
