"""The worked example and the switches: what one text shows, and what heads off change."""

from __future__ import annotations

import unicodedata
from collections.abc import Collection
from typing import Any

from icl_bench.records.parts import Measurement
from icl_bench.records.record import RunRecord
from icl_bench.render.content import read_rows, should_have
from icl_bench.render.html.circuit import find_circuit
from icl_bench.render.writing import numbers

MOST_PATTERNS = 450_000
"""Characters that the patterns of a page may take; its size is bounded."""

_MISSING = (
    "Not measured in this run. A suite measures it with the probe example, as core does: "
    "run pytest --icl-suite=core."
)


def find_example(record: RunRecord) -> tuple[str, Measurement] | None:
    """Return key and measurement of the example that a page shows.

    The first that was measured; sooner one with induction heads to switch off.

    Args:
        record: the run.
    """
    return next(iter(_examples(record)), None)


def _examples(record: RunRecord) -> list[tuple[str, Measurement]]:
    found = [
        (key, one) for key, one in record.measurements.items() if read_rows(one, "example_tokens")
    ]
    return sorted(
        found,
        key=lambda item: (
            not any(row["role"] == "induction" for row in read_rows(item[1], "switches"))
        ),
    )


def section(record: RunRecord) -> dict[str, Any] | None:
    """Return the text's tokens, every head's pattern on it, and the circuit's heads."""
    found = find_example(record)
    circuit = find_circuit(record)
    if found is None:
        return {"missing": _why_missing(record)} if circuit else None
    key, measurement = found
    tokens = [
        {
            "position": int(row["position"]),
            "token": str(row["token"]),
            **{name: row[name] for name in ("loss", "probability") if name in row},
            **{name: int(row[name]) for name in ("repeats_at", "source") if name in row},
        }
        for row in measurement.tables["example_tokens"]
    ]
    heads = []
    if circuit:
        heads = [{"head": _name(h), "role": "previous_token"} for h in list(circuit.previous)[:3]]
        heads += [{"head": _name(h), "role": "induction"} for h in list(circuit.scores)[:4]]
    rows = read_rows(measurement, "example_patterns")
    patterns = _patterns(rows, {one["head"] for one in heads})
    return {
        "missing": None,
        "key": key,
        "others": [other for other, _ in _examples(record)[1:]],
        "tokens": [
            {**token, "shown": show_token(token["token"]), "loss": _number(token.get("loss"))}
            for token in tokens
        ],
        "data": {"tokens": tokens, "patterns": patterns, "circuit": heads},
    }


def switches_section(record: RunRecord) -> dict[str, Any] | None:
    """Return the switches and what was measured with every combination of them off."""
    found = find_example(record)
    if found is None:
        return None
    _, measurement = found
    switches = read_rows(measurement, "switches")
    rows = read_rows(measurement, "switched")
    if not switches or not rows:
        return {"switches": [], "why": measurement.reason or "no head of the circuit was found"}
    random = [
        {name: row[name] for name in ("repeated_loss", "first_loss") if name in row}
        for row in measurement.tables.get("switched_random", [])
    ]
    return {
        "switches": [_switch(row) for row in switches],
        "why": "",
        "method": str(measurement.settings.get("method", "")),
        "sequences": measurement.settings.get("sequences"),
        "rows": [_row(row, switches) for row in rows],
        "random": len(random),
        "data": {
            "switches": [_switch(row) for row in switches],
            "rows": rows,
            "random": random,
            "period": measurement.settings.get("period"),
        },
    }


def show_token(text: str) -> str:
    """Return a token so that one sees where it begins and ends: spaces and line ends as signs.

    Characters that cannot be seen, or turn the direction of reading, stand as escapes.
    """
    shown = text.replace("\n", "⏎").replace("\t", "⇥").replace(" ", "·") or "∅"
    return "".join(
        f"\\u{ord(sign):04x}" if unicodedata.category(sign) in ("Cc", "Cf", "Cs") else sign
        for sign in shown
    )


def _patterns(rows: list[dict[str, Any]], named: Collection[str]) -> dict[str, str]:
    """Head -> packed pattern; of many heads on a long text those named, then the highest scores."""
    room = MOST_PATTERNS // max((len(row["pattern"]) for row in rows), default=1)
    found = {_name((row["layer"], row["head"])): row for row in rows}
    if len(found) > room:
        best = sorted(found, key=lambda head: (head not in named, _strength(found[head])))
        kept = set(best[:room])
        found = {head: row for head, row in found.items() if head in kept}
    return {head: row["pattern"] for head, row in found.items()}


def _strength(row: dict[str, Any]) -> float:
    """The order in which patterns are kept; a text without repeats has no induction scores."""
    return -float(max(row.get("induction", 0.0), row.get("previous_token", 0.0)))


def _why_missing(record: RunRecord) -> str:
    for measurement in record.measurements.values():
        if measurement.reason and should_have(measurement, "example_tokens"):
            return measurement.reason
    return _MISSING


def _switch(row: dict[str, Any]) -> dict[str, Any]:
    return {
        "switch": int(row["switch"]),
        "label": str(row["label"]),
        "role": str(row["role"]),
        "heads": [_name((int(head[0]), int(head[1]))) for head in row["heads"]],
    }


def _row(row: dict[str, Any], switches: list[dict[str, Any]]) -> list[str]:
    """One line of the table that holds the panel's numbers: what is off, the losses."""
    names = {int(one["switch"]): str(one["label"]) for one in switches}
    off = ", ".join(names.get(int(one), "?") for one in row["off"]) or "nothing"
    cells = [off]
    for name in ("first_loss", "repeated_loss"):
        text = _number(row.get(name))
        if row.get(f"{name}_ci_low") is not None and row.get(f"{name}_ci_high") is not None:
            text += " " + numbers.interval(row[f"{name}_ci_low"], row[f"{name}_ci_high"])
        cells.append(text)
    return cells


def _number(value: Any) -> str:
    return numbers.number(float(value)) if isinstance(value, (int, float)) else ""


def _name(head: tuple[int, int]) -> str:
    return f"{head[0]}.{head[1]}"
