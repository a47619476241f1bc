"""RunRecord -> CSV files, one row per check and one row per head.

A spreadsheet runs a text cell that starts with `=`, `+`, `-` or `@` as a formula. Text comes from
models and suites, so such cells get a leading apostrophe, and signs that act on a terminal are left
out; numbers are left as they are.
"""

from __future__ import annotations

import csv
import io
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from icl_bench.records.keys import Key
from icl_bench.records.record import RunRecord
from icl_bench.records.writing import write_atomically
from icl_bench.render.content import read_rows
from icl_bench.render.steps import ENDS, metrics_of
from icl_bench.render.writing.text import visible

_CHECK_COLUMNS = (
    "suite",
    "id",
    "kind",
    "measurement",
    "metric",
    "direction",
    "value",
    "stderr",
    "ci_low",
    "ci_high",
    "rule",
    "threshold",
    "verdict",
    "reason",
    "description",
    "question",
    "options",
    "expected",
    "supports",
)
_HEAD_COLUMNS = (
    "layer",
    "head",
    "induction",
    "induction_stderr",
    "induction_ci_low",
    "induction_ci_high",
    "induction_all",
    "induction_control",
    "induction_excess",
    "induction_varied",
    "previous_token",
    "previous_token_stderr",
    "duplicate_token",
    "duplicate_token_stderr",
    "first_token",
    "first_token_stderr",
)
_FORMULA = ("=", "+", "-", "@", "\t", "\r")


def checks_csv(record: RunRecord) -> str:
    """Return one row per check as CSV.

    Args:
        record: the run.
    """
    rows = [
        {"model": record.model.label} | {name: getattr(check, name) for name in _CHECK_COLUMNS}
        for check in record.checks
    ]
    return _rows_csv(rows, ["model", *_CHECK_COLUMNS])


def heads_csv(record: RunRecord) -> str:
    """Return one row per head and measurement as CSV.

    Args:
        record: the run; scores that a measurement does not have are empty cells.
    """
    rows = []
    for key, measurement in record.measurements.items():
        place = _place(record, Key(key))
        rows += [{**row, **place} for row in measurement.heads]
    known = ["model", "suite", "measurement", *_HEAD_COLUMNS]
    found = dict.fromkeys(name for row in rows for name in row)
    present = [name for name in known if name in found or name in known[:6]]
    return _rows_csv(rows, [*present, *(name for name in found if name not in known)])


def steps_csv(record: RunRecord) -> str:
    """Return one row per measurement, step and metric as CSV.

    Args:
        record: the run on a series of checkpoints.
    """
    rows = []
    for key, measurement in record.measurements.items():
        place = _place(record, Key(key))
        for row in read_rows(measurement, "steps"):
            for metric in metrics_of(row):
                shown = {"step": row["step"], "metric": metric, "value": row[metric]}
                ends = {end: row.get(f"{metric}_{end}") for end in ENDS}
                rows.append(place | shown | ends)
    columns = ("model", "suite", "measurement", "step", "metric", "value", *ENDS)
    return _rows_csv(rows, columns)


def write_rows(
    path: str | os.PathLike[str], rows: Sequence[dict[str, Any]], columns: Sequence[str]
) -> Path:
    """Write rows to a CSV file, atomically, and return the path.

    Args:
        path: the file to write.
        rows: column -> cell; what a row lacks is an empty cell.
        columns: names in the order of the file.
    """
    return write_atomically(path, _rows_csv(rows, columns))


def _place(record: RunRecord, key: Key) -> dict[str, str]:
    return {"model": record.model.label, "suite": key.suite, "measurement": key.name}


def _rows_csv(rows: Sequence[dict[str, Any]], columns: Sequence[str]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(map(_cell, columns))
    writer.writerows([_cell(row.get(name)) for name in columns] for row in rows)
    return text.getvalue()


def _cell(value: Any) -> Any:
    if isinstance(value, (dict, list, tuple)):
        value = json.dumps(value, ensure_ascii=False, default=str)
    if isinstance(value, str):
        # Lines of a prompt stay lines, as CSV can say them.
        value = "\n".join(map(visible, value.splitlines()))
        if value.startswith(_FORMULA):
            return "'" + value
    return value
