"""The report's sections on single measurements: circuits, ablations, behaviour, training."""

from __future__ import annotations

import statistics
from collections.abc import Iterator

from icl_bench.records.parts import Measurement
from icl_bench.records.record import RunRecord
from icl_bench.render import ablations, circuits, phases, steps, tables
from icl_bench.render.content import is_ablation
from icl_bench.render.writing import numbers
from icl_bench.render.writing.markup import bounds, escape, estimate, table

ABLATED = (
    ("loss on the first copy (nats)", "first_loss"),
    ("loss on the repeats (nats)", "repeated_loss"),
    ("gain (nats)", "gain"),
    ("copy accuracy", "copy_accuracy"),
)
EFFECTS = ("loss_ratio", "copying_lost", "copying_lost_varied", "null_margin", "null_p_value")
"""What an ablation did, and how it compares."""
_NULLS = (("null", "layer-matched random heads"), ("uniform_null", "random heads of any layer"))


def show_steps(record: RunRecord) -> Iterator[str]:
    """How metrics went over a series of checkpoints, and which checkpoints were not measured."""
    rows = steps.curve_rows(record)
    broken = dict(steps.broken_steps(record))
    if not rows and not broken:
        return
    yield "## Over the training run"
    yield ""
    if rows:
        yield "A bar to a checkpoint, from the metric's smallest to its largest value, flat where"
        yield "they differ by no more than the width of a 95% interval. Checkpoints are evenly"
        yield "spaced here, whatever their steps. `steps.csv` has every metric."
        yield ""
        yield from table(steps.CURVE_HEADER, rows, right=steps.CURVE_RIGHT)
    for told, keys in broken.items():
        yield ""
        yield f"Not measured, {escape(told)} ({escape(', '.join(keys))})"
    for key in steps.series_measurements(record):
        header, lines = steps.steps_table(record, key)
        if len(header) > 1:
            yield ""
            yield f"### Step by step: {escape(key)}"
            yield ""
            yield from table(header, lines, right=header)
    yield ""


def show_circuits(record: RunRecord) -> Iterator[str]:
    """What is known of each head of the circuit, side by side."""
    for suite, header, rows in circuits.circuit_tables(record):
        yield f"## The circuit, head by head: {escape(suite)}"
        yield ""
        yield "Keys, queries, values need: the one earlier head that costs most when it is taken"
        yield "out of that side alone, with the induction score (for values: the logits written)"
        yield "before and after. Written by: the largest part of what makes the head attend."
        yield ""
        yield from table(header, rows)
        yield ""


def show_ablations(record: RunRecord) -> Iterator[str]:
    """What switching heads, MLPs and layers off did to copying."""
    found = {
        key: measurement
        for key, measurement in record.measurements.items()
        if is_ablation(measurement)
    }
    if found:
        yield "## Ablation"
    for key, measurement in found.items():
        yield ""
        yield f"### {escape(key)}"
        yield ""
        yield from _ablation(measurement)


def show_phases(record: RunRecord) -> Iterator[str]:
    """When in training the circuit formed, beside the curves."""
    for key, measurement in phases.phase_changes(record):
        yield f"## Phase change: {escape(key)}"
        yield ""
        yield f"{escape(phases.summarize(measurement))}."
        yield ""
        yield "```text"
        yield from phases.pictures(measurement)
        yield "```"
        yield ""
        yield "Steps are read off between checkpoints. The midpoint lies in the stretch beside it"
        yield "(95%), however the curve runs from one checkpoint to the next."
        yield ""
        for make in (phases.changes_table, phases.curves_table):
            header, rows = make(measurement)
            yield from table(header, rows, right=header[1:])
            yield ""


def _ablation(measurement: Measurement) -> Iterator[str]:
    metrics = measurement.metrics
    rows = []
    for title, name in ABLATED:
        clean, ablated = metrics.get(name), metrics.get(f"{name}_ablated")
        if clean or ablated:
            rows.append([title, estimate(clean), estimate(ablated)])
    yield from table(["", "clean", "off"], rows, right=("clean", "off"))
    yield ""
    if switched_off := ablations.list_switched_off(measurement):
        method = f" ({escape(measurement.method)})" if measurement.method else ""
        yield f"- switched off: {escape(switched_off)}{method}"
    for name in ("heads", *EFFECTS):
        metric = metrics.get(name)
        if metric is not None:
            interval = bounds(metric.ci_low, metric.ci_high)
            yield f"- {name}: {estimate(metric)}" + (
                f", 95% interval {interval}" if interval else ""
            )
    for name, title in _NULLS:
        ratios = [row.get("loss_ratio") for row in measurement.tables.get(name, [])]
        drawn = [float(ratio) for ratio in ratios if isinstance(ratio, (int, float))]
        if not drawn:
            continue
        middle, most = numbers.number(statistics.median(drawn)), numbers.number(max(drawn))
        yield ""
        yield f"Null of {len(drawn)} draws of {title}: loss_ratio median {middle}, largest {most}."
        yield ""
        yield "```text"
        yield from tables.histogram(drawn)
        # On the null's own sequences, which may be fewer than the main effect's.
        own = metrics.get("null_observed_ratio")
        observed = own or metrics.get("loss_ratio")
        if observed is not None:
            where = f", on the null's own {own.n} sequences" if own and own.n else ""
            yield f"observed{where}: {numbers.number(observed.value)}"
        yield "```"
