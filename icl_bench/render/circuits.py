"""Rows of the table that tells the circuit head by head, for the Markdown report."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from icl_bench.records.keys import Key
from icl_bench.records.parts import Measurement
from icl_bench.records.record import RunRecord
from icl_bench.render.content import read_rows, scores_heads
from icl_bench.render.writing import numbers

Head = tuple[int, int]
Columns = dict[str, dict[Head, str]]

_SIDES = {"key": "Keys need", "query": "Queries need", "value": "Values need"}
_MATCHED = {"key": "Its keys were written by", "query": "Its queries were written by"}


def circuit_tables(record: RunRecord) -> list[tuple[str, list[str], list[list[str]]]]:
    """Return for each suite that looks at circuits its name, header and rows, one a head.

    What several measurements say of the same head stands side by side: whom its keys, queries and
    values need (`composition`), what made it attend (`attention_attribution`), what it writes
    (`logit_attribution`), and whether its weights copy (`copying`).

    Args:
        record: the run.
    """
    suites: dict[str, list[Measurement]] = {}
    for key, measurement in record.measurements.items():
        suites.setdefault(Key(key).suite, []).append(measurement)
    found = []
    for suite, measurements in suites.items():
        columns, heads = _columns(measurements)
        if columns and heads:
            rows = [
                [f"{head[0]}.{head[1]}", *(cells.get(head, "") for cells in columns.values())]
                for head in sorted(heads)
            ]
            found.append((suite, ["Head", *columns], rows))
    return found


def _columns(measurements: Iterable[Measurement]) -> tuple[Columns, set[Head]]:
    """Return title -> head -> cell, and the heads that the rows are about."""
    columns: Columns = {}
    heads: set[Head] = set()
    scores: dict[Head, str] = {}
    for one in measurements:
        edges, sides = read_rows(one, "composition"), read_rows(one, "attention_sides")
        scores |= _read(one.heads, "induction")
        columns |= _needs(edges) | _written(sides)
        heads |= {_head(row) for row in (*edges, *sides)}
        if scores_heads(one, "logit"):
            columns["Writes (logits)"] = _read(one.heads, "logit")
            heads |= {_head(row) for row in read_rows(one, "selected_heads")}
        if scores_heads(one, "ov_eigenvalue", "ov_behaviour"):
            columns["OV eigenvalue"] = _read(one.heads, "ov_eigenvalue")
            columns["OV behaviour"] = _read(one.heads, "ov_behaviour")
    if columns and scores:
        columns = {"Induction": scores, **columns}
    return columns, heads


def _head(row: dict[str, Any]) -> Head:
    return int(row["layer"]), int(row["head"])


def _read(rows: Iterable[dict[str, Any]], name: str) -> dict[Head, str]:
    """Write one score of each head that has it."""
    return {_head(row): numbers.score(row[name]) for row in rows if row.get(name) is not None}


def _needs(rows: Iterable[dict[str, Any]]) -> Columns:
    """The sender whose loss costs a head most, with what is left: `16.0: 0.878 → 0.002`."""
    worst: dict[str, dict[Head, dict[str, Any]]] = {}
    for row in rows:
        own = worst.setdefault(str(row["side"]), {})
        if _head(row) not in own or row["drop"] > own[_head(row)]["drop"]:
            own[_head(row)] = row
    return {
        title: {
            head: f"{row['sender_layer']}.{row['sender_head']}: {numbers.score(row['clean'])} → "
            f"{numbers.score(row['patched'])}"
            for head, row in worst[side].items()
        }
        for side, title in _SIDES.items()
        if side in worst
    }


def _written(rows: Iterable[dict[str, Any]]) -> Columns:
    """The component that wrote most of a side, and its share: `16.0: 95%`."""
    parts: dict[tuple[str, Head], dict[str, float]] = {}
    for row in rows:
        own = parts.setdefault((str(row["side"]), _head(row)), {})
        own[str(row["component"])] = float(row["value"])
    columns: Columns = {}
    for (side, head), values in parts.items():
        whole = sum(values.values())
        if side in _MATCHED and whole > 0:
            best = max(values, key=lambda name: values[name])
            cell = f"{best}: {100 * values[best] / whole:.0f}%"
            columns.setdefault(_MATCHED[side], {})[head] = cell
    return columns
