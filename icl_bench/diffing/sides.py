"""What was given for A and B: a model that can be measured, or a record of one."""

from __future__ import annotations

import os
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from icl_bench.errors import SettingsError
from icl_bench.models.sources.parsing import parse_spec
from icl_bench.naming import RECORD, name_models
from icl_bench.records.reading import read_record
from icl_bench.records.record import RunRecord
from icl_bench.running.job import Job
from icl_bench.running.request import Request
from icl_bench.suite import find_suite

if TYPE_CHECKING:
    from icl_bench.models.sources.spec import ModelSpec
    from icl_bench.options import RunOptions
    from icl_bench.suite import Suite

SUITES = ("gate",)
"""What is measured where nobody says which suites."""
TEXT = "text-loss"
"""The suite that is measured beside them, where both models can be measured."""


@dataclass
class Side:
    """One of the models.

    Args:
        text: what was given, for messages.
        name: its name in reports.
        record: what is known of it; None until it has been measured.
        job: measures it; None where a record was given.
    """

    text: str
    name: str
    record: RunRecord | None = None
    job: Job | None = None


def find_file(given: object) -> Path | None:
    """Return the file of a record that was given: a .json file, or a folder that holds one.

    Args:
        given: a path, or a spec; a folder with a config.json is a model.
    """
    if not isinstance(given, (str, os.PathLike)):
        return None
    path = Path(given)
    if path.suffix == ".json":
        return path
    try:
        holds = (path / RECORD).is_file() and not (path / "config.json").exists()
    except OSError:
        return None
    return path / RECORD if holds else None


def read_sides(
    given: Sequence[object],
    suites: Sequence[str | os.PathLike[str]] | None,
    options: RunOptions,
    *,
    report_dir: str | None = None,
    prefix: str = "--",
) -> list[Side]:
    """Read and check everything that was given, before anything is measured.

    Args:
        given: for each side a spec, a record or its path, or an open model.
        suites: names or paths; None for the default.
        options: how models are opened and run.
        report_dir: folder with the reports of earlier runs, for names.
        prefix: what stands before the options' names, for messages.

    Raises:
        InputError: a spec, a record, a suite or an option is wrong, or nothing can be compared.
    """
    records = {place: _read(one) for place, one in enumerate(given)}
    wanted = [find_suite(name) for name in dict.fromkeys(suites or SUITES)]
    for suite in wanted:
        if not suite.assertions:
            raise SettingsError(
                f"suite {suite.name!r} has no checks: nothing says which of its numbers matter, so "
                "two models cannot be compared by it"
            )
    names = {suite.name for suite in wanted}
    held = [record for record in records.values() if record is not None]
    if len(held) == len(given) and suites is None:
        names = set.intersection(*({suite.name for suite in one.suites} for one in held))
        if not names:
            told = "; ".join(f"{one.model.label} holds {_names(one)}" for one in held)
            raise SettingsError(f"nothing to compare: the records share no suite ({told})")
    for place, record in records.items():
        if record is not None:
            _require(record, names, str(given[place]), prefix)
    if not held and TEXT not in names:
        wanted.append(find_suite(TEXT))
    elif all(TEXT in {suite.name for suite in one.suites} for one in held):
        wanted += [] if TEXT in names else [find_suite(TEXT)]
    return _make(given, records, wanted, options, report_dir, prefix)


def _read(given: object) -> RunRecord | None:
    if isinstance(given, RunRecord):
        return given
    path = find_file(given)
    return None if path is None else read_record(path)


def _names(record: RunRecord) -> str:
    return ", ".join(sorted(suite.name for suite in record.suites)) or "no suite"


def _require(record: RunRecord, names: Collection[str], text: str, prefix: str) -> None:
    """Refuse a record that lacks a suite: what it does not hold cannot be measured any more."""
    lacking = sorted(set(names) - {suite.name for suite in record.suites})
    if lacking:
        option = f"{prefix}suite" if prefix else "suites"
        raise SettingsError(
            f"{text}: the record does not hold suite {', '.join(lacking)} but {_names(record)}; "
            f"name one that it holds ({option}), or give the model itself"
        )


def _make(
    given: Sequence[object],
    records: dict[int, RunRecord | None],
    suites: Sequence[Suite],
    options: RunOptions,
    report_dir: str | None,
    prefix: str,
) -> list[Side]:
    specs: dict[int, ModelSpec] = {}
    for place, one in enumerate(given):
        if records[place] is None and isinstance(one, (str, os.PathLike)):
            specs[place] = parse_spec(os.fspath(one))
            specs[place].require_one()
    called = dict(zip(specs, name_models(list(specs.values()), report_dir)))
    sides = []
    for place, one in enumerate(given):
        record = records[place]
        if record is not None:
            sides.append(Side(str(one), record.model.label, record))
            continue
        subject = os.fspath(one) if isinstance(one, (str, os.PathLike)) else one
        request = Request([subject], suites, options, prefix=prefix, tells_ci=False)  # type: ignore[list-item]
        job = Job(request, [called[place]] if place in called else None)
        job.check()
        sides.append(Side(str(one), job.names[0], None, job))
    return sides
