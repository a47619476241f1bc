"""Rows and small curves about a series of checkpoints, for the terminal and Markdown."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from icl_bench.records.parts import Measurement
from icl_bench.records.record import RunRecord
from icl_bench.render.content import read_rows
from icl_bench.render.writing import numbers
from icl_bench.render.writing.sparkline import is_number, pool, sparkline
from icl_bench.render.writing.text import one_line

CURVE_HEADER = ("Measurement", "Metric", "First", "Last", "Curve")
CURVE_RIGHT = ("First", "Last")
WIDEST = 40
"""Characters of a curve; longer series have several checkpoints to a character."""
ENDS = ("stderr", "ci_low", "ci_high")
"""What a row of the table `steps` has of a metric beside its value, as `METRIC_END`."""
_UNASKED = 4
"""Metrics shown of a measurement that no check is on."""


def describe_steps(record: RunRecord) -> str | None:
    """Return which checkpoints a record is about, in words; None for a single model.

    Args:
        record: of one model or series.
    """
    steps = record.model.steps
    if not steps:
        return None
    count = "1 checkpoint, step" if len(steps) == 1 else f"{len(steps)} checkpoints, steps"
    return f"{count} {steps[0]}" + (f" to {steps[-1]}" if len(steps) > 1 else "")


def count_cached_steps(record: RunRecord) -> str | None:
    """Return how many checkpoints an earlier run measured all of, or None where it is none.

    Args:
        record: of one model or series.
    """
    taken = [set(one.cached_steps or []) for one in series_measurements(record).values()]
    known = set.intersection(*taken) if taken else set()
    steps = record.model.steps or []
    return f"{len(known & set(steps))} of {len(steps)} steps from the cache" if known else None


def series_measurements(record: RunRecord) -> dict[str, Measurement]:
    """Return the measurements of a record that were taken at every step of a series, by key."""
    return {key: one for key, one in record.measurements.items() if read_rows(one, "steps")}


def shown_metrics(record: RunRecord, key: str) -> list[str]:
    """Return the metrics of a measurement that are shown step by step.

    Those that checks are on; where there are none, the first few that differ from each other.

    Args:
        record: of a series.
        key: `SUITE/NAME`.
    """
    measurement = record.measurements[key]
    there = dict.fromkeys(n for row in measurement.tables["steps"] for n in metrics_of(row))
    asked = dict.fromkeys(check.metric for check in record.checks if check.measurement == key)
    if found := [name for name in asked if name in there]:
        return found
    # Some are the same by definition, as with two copies the sum over earlier ones is the one.
    differing: dict[tuple[Any, ...], str] = {}
    for name in there:
        values = tuple(row.get(name) for row in measurement.tables["steps"])
        differing.setdefault(values, name)
    return list(differing.values())[:_UNASKED]


def metrics_of(row: Mapping[str, Any]) -> list[str]:
    """Return the metrics in a row of the table `steps`."""
    ends = {f"{name}_{end}" for name in row for end in ENDS}
    return [name for name in row if name != "step" and name not in ends]


def curve_rows(record: RunRecord) -> list[list[str]]:
    """Return a row under `CURVE_HEADER` for each metric that is shown step by step.

    Args:
        record: of a series.
    """
    rows = []
    for key, measurement in series_measurements(record).items():
        for name in shown_metrics(record, key):
            values = [row.get(name) for row in measurement.tables["steps"]]
            known = [value for value in values if is_number(value)]
            ends = [numbers.number(value) for value in (known[0], known[-1])]
            noise = _widest_interval(measurement.tables["steps"], name)
            rows.append(
                [one_line(key), one_line(name), *ends, sparkline(pool(values, WIDEST), noise)]
            )
    return rows


def steps_table(record: RunRecord, key: str) -> tuple[list[str], list[list[str]]]:
    """Return header and rows of one measurement step by step, each value with its standard error.

    Args:
        record: of a series.
        key: `SUITE/NAME`.
    """
    names = shown_metrics(record, key)
    rows = []
    for row in record.measurements[key].tables["steps"]:
        cells = [str(row["step"])]
        for name in names:
            value = row.get(name)
            error = row.get(f"{name}_stderr")
            cells.append(numbers.estimate(value, error) if is_number(value) else "not measured")
        rows.append(cells)
    return ["Step", *names], rows


def broken_steps(record: RunRecord) -> Iterator[tuple[str, list[str]]]:
    """Yield why checkpoints were not measured, and what was not: `step 500 (NAME): reason`.

    Args:
        record: of a series.
    """
    found: dict[tuple[int, str], list[str]] = {}
    for key, measurement in record.measurements.items():
        for row in read_rows(measurement, "broken_steps"):
            found.setdefault((int(row["step"]), one_line(row["reason"])), []).append(one_line(key))
    for (step, reason), keys in sorted(found.items()):
        yield f"step {step}: {reason}", keys


def _widest_interval(rows: Sequence[Mapping[str, Any]], name: str) -> float:
    ends = [(row.get(f"{name}_ci_low"), row.get(f"{name}_ci_high")) for row in rows]
    widths = [high - low for low, high in ends if is_number(low) and is_number(high)]
    return max(widths, default=0.0)
