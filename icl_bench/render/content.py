"""What a measurement contains, by which reports know how to draw it: no probe's name matters."""

from __future__ import annotations

from typing import Any

from icl_bench.probes import known_probe
from icl_bench.records.parts import Measurement
from icl_bench.records.tables import needed_columns

Row = dict[str, Any]


def read_rows(measurement: Measurement, table: str, *columns: str) -> list[Row]:
    """Return a table's rows, none where the table of that name is another one.

    Args:
        measurement: any probe's.
        table: its name.
        columns: what every row must have, beside what is known of tables of that name.
    """
    rows = measurement.tables.get(table, [])
    needed = {*columns, *needed_columns(table)}
    return rows if all(needed <= row.keys() for row in rows) else []


def should_have(measurement: Measurement, table: str) -> bool:
    """Return whether a measurement has a table, or would if its probe had measured anything.

    Args:
        measurement: any probe's.
        table: name of one of the tables that reports draw.
    """
    probe = known_probe(measurement.probe)
    return bool(read_rows(measurement, table)) or (probe is not None and table in probe.gives)


def scores_heads(measurement: Measurement, *names: str) -> bool:
    """Return whether any head has one of these scores.

    Args:
        measurement: any probe's.
        names: keys of the rows in `heads`.
    """
    return any(name in row for row in measurement.heads for name in names)


def is_ablation(measurement: Measurement) -> bool:
    """Return whether losses were measured clean and with parts of the model switched off.

    Args:
        measurement: any probe's.
    """
    metrics, tables = measurement.metrics.keys(), measurement.tables.keys()
    nothing_chosen = bool(metrics) and {"ablated_heads", "chosen_heads"} <= tables
    return nothing_chosen or not metrics.isdisjoint(("repeated_loss_ablated", "loss_ratio"))
