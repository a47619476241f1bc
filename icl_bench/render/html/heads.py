"""Every score of every head: what the heat maps and the panel of a pinned head are drawn from."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from icl_bench.probes import report_of
from icl_bench.records.blocks import HeadGrid
from icl_bench.records.record import RunRecord
from icl_bench.render import tables
from icl_bench.render.content import scores_heads
from icl_bench.render.html.packing import pack_grid

LABELS = {
    "induction": "Induction: attention to the token after the earlier occurrence",
    "induction_all": "Induction, summed over all earlier occurrences",
    "induction_control": "Control: the same place when the copy is shuffled",
    "induction_excess": "Induction above its control",
    "induction_varied": "Induction with varied gaps and periods",
    "previous_token": "Previous token: attention to the position before",
    "duplicate_token": "Duplicate token: attention to the earlier occurrence itself",
    "first_token": "Attention to the first position",
    "delta": "Ablation: rise of the loss on repeats (nats)",
    "logit": "Writes directly to the right logit",
    "ov_eigenvalue": "OV copying: share of positive eigenvalues, -1 to 1",
    "ov_behaviour": "OV copying: behavioural",
    "function_vector": "Function vector: causal indirect effect",
    "sink_logit": "Sink logit",
}
"""Score -> what it is in words; others are shown by their names."""

_ENDS = ("_stderr", "_ci_low", "_ci_high")
_NOT_SCORES = {"layer", "head", "sequences", "repeated_loss"}
MOST_GRIDS = 700_000
"""Characters that the scores of a page may take; its size is bounded."""
Head = tuple[int, int]


def section(record: RunRecord) -> dict[str, Any] | None:
    """Return the heat maps' data, and the table of the heads that matter most."""
    scores = list(_scores(record))
    if not scores:
        return None
    cells = [head for score in scores for head in score["values"]]
    layers = record.model.layers or 1 + max(layer for layer, _ in cells)
    width = 1 + max(head for _, head in cells)
    layers = max(layers, 1 + max(layer for layer, _ in cells))
    told: list[dict[str, Any]] = []
    left_out: list[str] = []
    room = MOST_GRIDS
    for score in scores:
        grids = {
            name: pack_grid(_grid(score[name], layers, width))
            for name in ("values", "stderr", "low", "high")
            if score[name]
        }
        taken = sum(map(len, grids.values()))
        if told and taken > room:
            left_out.append(score["label"])
            continue
        room -= taken
        told.append({**{name: score[name] for name in ("name", "label", "from")}, **grids})
    measured = tables.head_measurements(record)
    top: list[dict[str, Any]] = []
    for keys, measurement in measured:
        header, rows = tables.head_table(measurement.heads)
        top.append({"named": ", ".join(keys), "header": header, "rows": rows})
    data = {"layers": layers, "heads": width, "scores": told}
    return {"top": top, "count": len({*cells}), "left_out": left_out, "data": data}


def _scores(record: RunRecord) -> Iterator[dict[str, Any]]:
    """Each score once per set of values: the first measurement that has it gives it its name.

    Induction scores come first: the page opens on them.
    """
    seen: dict[str, list[dict[Head, float]]] = {}
    for key, measurement in sorted(
        record.measurements.items(), key=lambda item: not scores_heads(item[1], "induction")
    ):
        blocks = report_of(measurement)
        grids = {block.score: block for block in blocks if isinstance(block, HeadGrid)}
        found = (name for row in measurement.heads for name in row if not name.endswith(_ENDS))
        for name in dict.fromkeys((*found, *grids)):
            if name in _NOT_SCORES:
                continue
            grid = grids.get(name)
            rows = grid.rows if grid else measurement.heads
            values = _column(rows, name)
            if not values or values in seen.get(name, []):
                continue
            again = bool(seen.setdefault(name, []))
            seen[name].append(values)
            label = _label(grid) if grid else LABELS.get(name, name)
            yield {
                "name": f"{name} · {key}" if again else name,
                "label": f"{label} ({key})" if again else label,
                "from": key,
                "values": values,
                "stderr": _column(rows, f"{name}_stderr"),
                "low": _column(rows, f"{name}_ci_low"),
                "high": _column(rows, f"{name}_ci_high"),
            }


def _label(grid: HeadGrid) -> str:
    title = grid.title or grid.score
    return f"{title} ({grid.unit})" if grid.unit else title


def _column(rows: Sequence[Mapping[str, Any]], name: str) -> dict[Head, float]:
    found: dict[Head, float] = {}
    for row in rows:
        value, layer, head = row.get(name), row.get("layer"), row.get("head")
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            continue
        if math.isfinite(value) and isinstance(layer, int) and isinstance(head, int):
            found[layer, head] = float(value)
    return found


def _grid(values: dict[Head, float], layers: int, width: int) -> list[list[float | None]]:
    """A row a layer; None where a head is not there or was not measured."""
    return [[values.get((layer, head)) for head in range(width)] for layer in range(layers)]
