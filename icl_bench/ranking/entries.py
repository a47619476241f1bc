"""Records as rankings need them: found in folders, read, samples as arrays."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from icl_bench.errors import RecordError
from icl_bench.naming import RECORD
from icl_bench.probes.design.sequential import comparable_settings
from icl_bench.records.parts import Check, Environment, Metric, ModelInfo, Numbers
from icl_bench.records.reading import read_numbers

MODEL_PARTS = ("heads", "mlps", "layers", "receivers", "senders", "components")
"""Settings that name parts of a model. A probe may write down which ones they came to on this
model (the last layer is 29 here and 11 there); what was asked for is in the suite's digest."""


@dataclass(frozen=True)
class Figure:
    """One number of one model.

    Args:
        value: the estimate.
        stderr: its standard error; None when it is exact or not known.
        ci_low: lower end of the 95% interval.
        ci_high: upper end.
        n: independent samples behind it.
        exact: whether it has no sampling error.
        samples: per-sample values, shape (n,); None where they were not kept.
    """

    value: float
    stderr: float | None = None
    ci_low: float | None = None
    ci_high: float | None = None
    n: int | None = None
    exact: bool = False
    samples: np.ndarray | None = None


@dataclass(frozen=True)
class Taken:
    """What one probe gave on one model.

    Args:
        probe: the probe's name.
        reason: why it was not measured; None where it was.
        settings: every setting that could change a number.
        tokens: digest of the tokens; None where there were none.
        figures: metric -> number.
        unmeasured: metric -> why it is absent although the rest was measured.
    """

    probe: str
    reason: str | None
    settings: dict[str, Any]
    tokens: str | None
    figures: dict[str, Figure]
    unmeasured: dict[str, str]

    @property
    def comparable(self) -> dict[str, Any]:
        """The settings that two measurements of one suite must share to be compared."""
        settings = comparable_settings(self.settings)
        return {name: value for name, value in settings.items() if name not in MODEL_PARTS}

    @cached_property
    def settings_key(self) -> str:
        """The same as text, equal where they are equal."""
        return json.dumps(self.comparable, sort_keys=True, default=str)


@dataclass(frozen=True)
class Entry:
    """One record.

    Args:
        path: the file.
        created: when it was written, ISO 8601.
        status: complete, partial or interrupted.
        version: that of icl_bench that measured it.
        model: which model.
        environment: where it ran.
        suites: name -> digest.
        taken: `SUITE/MEASUREMENT` -> what was measured.
        checks: all checks.
        doubt: why a change of the file would not be noticed; None where it would.
    """

    path: Path
    created: str
    status: str
    version: str
    model: ModelInfo
    environment: Environment
    suites: dict[str, str]
    taken: dict[str, Taken]
    checks: list[Check]
    doubt: str | None = None


@dataclass
class Entries:
    """What was found.

    Args:
        read: the records.
        broken: messages about files that are none.
    """

    read: list[Entry] = field(default_factory=list)
    broken: list[str] = field(default_factory=list)


def read_entries(paths: Iterable[str | os.PathLike[str]]) -> Entries:
    """Read every record that the paths name; a broken one does not keep the others from it.

    Args:
        paths: files; folders that hold a `results.json`, or whose folders do.

    Raises:
        RecordError: a path does not exist, or nothing of it all can be read.
    """
    found = Entries()
    files = find_records(paths)
    for path in files:
        try:
            found.read.append(read_entry(path))
        except RecordError as error:
            found.broken.append(str(error))
    if not found.read:
        broken = "\n".join(found.broken)
        raise RecordError(f"no record could be read:\n{broken}" if broken else _nothing(paths))
    return found


def find_records(paths: Iterable[str | os.PathLike[str]]) -> list[Path]:
    """Return the files to be read, each once.

    Args:
        paths: files; folders that hold a `results.json`, or whose folders do.

    Raises:
        RecordError: a path does not exist.
    """
    found: dict[Path, Path] = {}
    for path in map(Path, paths):
        if path.is_dir():
            files = [path / RECORD] if (path / RECORD).is_file() else []
            files += sorted(path.glob(f"*/{RECORD}"))
        elif path.exists():
            files = [path]
        else:
            raise RecordError(f"{path}: there is no such file or folder")
        for file in files:
            found.setdefault(file.resolve(), file)
    return list(found.values())


def read_entry(path: Path) -> Entry:
    """Read one record.

    Args:
        path: the file.

    Raises:
        RecordError: it is not a record.
    """
    record = read_numbers(path)
    return Entry(
        path=path,
        created=record.created,
        status=record.status,
        version=record.icl_bench,
        model=record.model,
        environment=record.environment,
        suites={suite.name: suite.sha256 for suite in record.suites},
        taken={key: _take(numbers) for key, numbers in record.measurements.items()},
        checks=record.checks,
        doubt=record.doubt,
    )


def _take(numbers: Numbers) -> Taken:
    reason = None
    if numbers.status != "measured":
        reason = numbers.reason or numbers.status
    return Taken(
        probe=numbers.probe,
        reason=reason,
        settings=numbers.settings,
        tokens=numbers.tokens_sha256,
        figures={name: _figure(metric) for name, metric in numbers.metrics.items()},
        unmeasured=numbers.unmeasured,
    )


def _figure(metric: Metric) -> Figure:
    samples = None if metric.samples is None else np.array(metric.samples, dtype=np.float64)
    return Figure(
        metric.value,
        metric.stderr,
        metric.ci_low,
        metric.ci_high,
        metric.n,
        metric.exact,
        samples,
    )


def _nothing(paths: Iterable[str | os.PathLike[str]]) -> str:
    names: Sequence[str] = [os.fspath(path) for path in paths]
    return f"no {RECORD} in {', '.join(names)}, nor in the folders there"
