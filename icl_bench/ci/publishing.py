"""Everything that CI is told about a run, in one call."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from icl_bench.ci import github, gitlab
from icl_bench.ci.findings import find_places, of_comparison, of_records
from icl_bench.ci.summary import job_summary
from icl_bench.records.record import RunRecord
from icl_bench.records.writing import write_atomically

if TYPE_CHECKING:
    from icl_bench.comparing import Comparison
    from icl_bench.suite import Suite


@dataclass
class Published:
    """What became of telling CI.

    Args:
        commands: workflow commands to print, each at the start of a line; none outside of GitHub.
        troubles: files that could not be written, and why; all else was told.
    """

    commands: list[str] = field(default_factory=list)
    troubles: list[str] = field(default_factory=list)


def publish(
    records: Sequence[RunRecord],
    comparison: Comparison | None = None,
    *,
    suites: Iterable[Suite] = (),
    strict: bool = True,
    code_quality: Path | None = None,
    openmetrics: Path | None = None,
) -> Published:
    """Write a job's summary on GitHub, and the files that were asked for.

    A file that cannot be written keeps nothing else from being told.

    Args:
        records: one per model; without any, no file is written.
        comparison: the run against its baseline; None where there is none.
        suites: those of the run, for the lines of their checks.
        strict: whether what is inconclusive fails the run.
        code_quality: file for GitLab's Code Quality report.
        openmetrics: file for checked metrics as OpenMetrics text.
    """
    places = find_places(suites)
    found = of_records(records, places, strict=strict)
    if comparison is not None:
        told = {finding.name for finding in found}
        found += of_comparison(comparison, places, strict=strict, records=records, told=told)
    found.sort(key=lambda finding: finding.level != "error")
    published = Published()

    def attempt(write: Callable[[], object]) -> None:
        try:
            write()
        except OSError as error:
            why = error.strerror or str(error)
            published.troubles.append(f"{error.filename}: cannot be written ({why})")

    # An empty list would say that all is well.
    if code_quality is not None and records:
        attempt(lambda: write_atomically(code_quality, gitlab.code_quality(found)))
    if openmetrics is not None and records:
        attempt(lambda: write_atomically(openmetrics, gitlab.openmetrics(records)))
    if github.is_here():
        if records or comparison is not None:
            attempt(lambda: github.append_summary(job_summary(records, comparison, strict=strict)))
        published.commands = github.annotate(found)
    return published
