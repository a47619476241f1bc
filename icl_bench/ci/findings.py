"""What a reviewer should look at: checks that do not hold, and what got worse."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from icl_bench.records.keys import Key
from icl_bench.records.record import RunRecord
from icl_bench.render.comparison import describe_check, describe_head, verdict_line
from icl_bench.render.writing.text import WORDS, one_line

if TYPE_CHECKING:
    from icl_bench.comparing import Comparison, MetricChange
    from icl_bench.suite import Suite

ROOTS = ("GITHUB_WORKSPACE", "CI_PROJECT_DIR")
"""Variables in which CI systems say where the repository lies."""

_WORSE = ("regressed", "vanished", "unclear", "unpaired")


@dataclass(frozen=True)
class Place:
    """A line of a file in the repository.

    Args:
        file: path from the repository's root, with forward slashes.
        line: from 1.
    """

    file: str
    line: int


Places = Mapping[tuple[str, str], Place]
"""(suite, id of a check) -> where it stands."""


@dataclass(frozen=True)
class Finding:
    """One thing that does not hold.

    Args:
        level: `error` where it fails the run, else `warning`.
        kind: `check`, or `regression` against a baseline.
        name: `SUITE::ID`, `SUITE/MEASUREMENT.METRIC`, `SUITE/MEASUREMENT: KIND head LAYER.HEAD`, or
            `SUITE` where nothing of it could be compared; no two findings about a model have the
            same kind and name.
        model: the model's slug; its spec where a comparison is all there is.
        message: what is the matter, one line.
        place: where the check stands; None where it lies in no file of the repository.
        suite: the suite it is about.
    """

    level: Literal["error", "warning"]
    kind: Literal["check", "regression"]
    name: str
    model: str
    message: str
    place: Place | None = None
    suite: str = field(kw_only=True)


def find_places(suites: Iterable[Suite], root: Path | None = None) -> dict[tuple[str, str], Place]:
    """Return where the checks of suites stand, of those whose file lies in the repository.

    Args:
        suites: loaded suites.
        root: the repository; by default what the CI system says, else the working directory.
    """
    root = (root or _root()).resolve()
    places = {}
    for suite in suites:
        path = suite.path.resolve()
        # A suite of an installed package may lie in a .venv in the repository, not in its history.
        if not path.is_relative_to(root) or "site-packages" in path.parts:
            continue
        file = path.relative_to(root).as_posix()
        for identity, line in suite.lines.items():
            places[suite.name, identity] = Place(file, line)
    return places


def _root() -> Path:
    named = next((value for name in ROOTS if (value := os.environ.get(name))), None)
    return Path(named) if named else Path.cwd()


def of_records(
    records: Sequence[RunRecord], places: Places, *, strict: bool = True
) -> list[Finding]:
    """Return a finding for every check that failed, broke or could not be decided.

    Args:
        records: one per model.
        places: where checks stand.
        strict: whether what is inconclusive fails the run.
    """
    found = []
    for record in records:
        for check in record.checks:
            if check.verdict in ("pass", "skipped"):
                continue
            level: Literal["error", "warning"] = "error"
            if check.verdict == "inconclusive" and not strict:
                level = "warning"
            told = f"{WORDS[check.verdict]}: {check.reason or 'no reason was recorded'}"
            if check.description or check.question:
                told += f" ({check.description or check.question})"
            name = one_line(f"{check.suite}::{check.id}")
            place = places.get((check.suite, check.id))
            slug = one_line(record.model.slug)
            found.append(
                Finding(
                    level, "check", name, slug, one_line(told), place, suite=one_line(check.suite)
                )
            )
    return found


def of_comparison(
    comparison: Comparison,
    places: Places,
    *,
    strict: bool = True,
    records: Sequence[RunRecord] = (),
    told: Collection[str] = (),
) -> list[Finding]:
    """Return a finding for everything that got worse, is gone, or cannot be told.

    What a check that was told of reads is one thing to look at with it, and left out.

    Args:
        comparison: a run against its baseline.
        places: where checks stand.
        strict: whether what cannot be told fails the run.
        records: the run that is compared; () where only the comparison is there.
        told: names of checks that there are findings about.
    """
    model = one_line(records[0].model.slug if records else comparison.model)
    readers = _readers(records)
    found = []
    for change in comparison.checks:
        name = one_line(f"{change.suite}::{change.id}")
        if change.state in _WORSE and name not in told:
            was = one_line(describe_check(change)).removeprefix(f"{name}: ")
            level, message = _level(change.state, strict), f"against the baseline {was}"
            place, suite = places.get((change.suite, change.id)), one_line(change.suite)
            found.append(Finding(level, "regression", name, model, message, place, suite=suite))
    for metric in comparison.metrics:
        reader = readers.get((metric.key, metric.metric))
        if metric.state not in _WORSE or (reader and one_line("::".join(reader)) in told):
            continue
        level, message = _level(metric.state, strict), one_line(_describe_metric(metric))
        name, suite = one_line(f"{metric.key}.{metric.metric}"), _suite(metric.key)
        place = places.get(reader) if reader else None
        found.append(Finding(level, "regression", name, model, message, place, suite=suite))
    if comparison.is_empty:
        message = verdict_line(comparison, strict)
        suites = {_suite(metric.key) for metric in comparison.metrics}
        for suite in sorted(suites | {one_line(change.suite) for change in comparison.checks}):
            found.append(Finding("error", "regression", suite, model, message, suite=suite))
    for head in comparison.died:
        name = one_line(f"{head.key}: {head.kind} head {head.name}")
        message = one_line(describe_head(head, with_key=False))
        found.append(Finding("error", "regression", name, model, message, suite=_suite(head.key)))
    return found


def _suite(key: str) -> str:
    return one_line(Key(key).suite)


def _level(state: str, strict: bool) -> Literal["error", "warning"]:
    return "warning" if state == "unclear" and not strict else "error"


def _describe_metric(metric: MetricChange) -> str:
    word = {
        "regressed": "is worse than",
        "vanished": "is gone from",
        "unpaired": "is not paired with",
    }.get(metric.state, "cannot be told from")
    told = f"{word} the baseline"
    if metric.baseline is not None and metric.value is not None:
        told += f": {metric.baseline:.4g} before, {metric.value:.4g} now"
    return f"{told} ({metric.reason})" if metric.reason else told


def _readers(records: Sequence[RunRecord]) -> dict[tuple[str, str], tuple[str, str]]:
    """(measurement, metric) -> (suite, id) of the first check that reads it."""
    found: dict[tuple[str, str], tuple[str, str]] = {}
    for record in records:
        for check in record.checks:
            found.setdefault((check.measurement, check.metric), (check.suite, check.id))
    return found
