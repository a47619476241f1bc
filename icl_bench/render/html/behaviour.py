"""What the model does with its context: text, examples in the prompt, small sets of heads."""

from __future__ import annotations

from typing import Any

from icl_bench.records.record import Measurement, RunRecord
from icl_bench.render import behaviour, sweeps
from icl_bench.render.html.panels import panel, series

_WINDOW = 16
"""Positions whose mean is one point of a long curve."""


def section(record: RunRecord) -> dict[str, Any] | None:
    """Return a panel and a table for each measurement of behaviour."""
    panels: list[dict[str, Any]] = []
    tables: list[dict[str, Any]] = []
    for key, one in record.measurements.items():
        if not one.metrics:
            continue
        made, rows = _show(key, one)
        panels += [drawn for drawn in made if drawn]
        tables += rows
    if not panels and not tables:
        return None
    return {"panels": panels, "tables": tables, "data": {"panels": panels}}


def _show(key: str, one: Measurement) -> tuple[list[dict[str, Any] | None], list[dict[str, Any]]]:
    if one.probe == "icl_score":
        title = f"Loss by position on natural text ({_named(key, one)})"
        rows = _pooled(one.tables.get("positions", []))
        lines = [
            series("clean", rows, "position", "loss"),
            series("heads off", rows, "position", "loss_ablated", dash=True),
        ]
        header, cells = behaviour.positions_table(one)
        return [panel(title, "position (mean of 16)", "loss (nats)", lines)], [
            _table(title, header, cells)
        ]
    if one.probe == "fewshot":
        title = f"Accuracy by examples in the prompt ({_named(key, one)})"
        rows = one.tables.get("curve", [])
        lines = [
            series("right among the choices", rows, "shots", "accuracy", "accuracy_stderr"),
            series(
                "first token ranks first",
                rows,
                "shots",
                "first_token_accuracy",
                "first_token_accuracy_stderr",
                dash=True,
            ),
        ]
        made = [behaviour.shots_table(one), behaviour.tasks_table(one)]
        titles = (title, f"Each task ({key})")
        return [panel(title, "examples", "accuracy", lines)], [
            _table(name, header, cells) for name, (header, cells) in zip(titles, made) if cells
        ]
    if one.probe == "minimal_set":
        return _minimal_set(key, one)
    if one.probe == "sweep":
        header, cells = sweeps.sweep_table(one)
        return [], [_table(f"Every head off on its own ({_named(key, one)})", header, cells)]
    return [], []


def _minimal_set(
    key: str, one: Measurement
) -> tuple[list[dict[str, Any] | None], list[dict[str, Any]]]:
    title = f"Copying kept by few heads ({_named(key, one)})"
    rows = one.tables.get("curve", [])
    orders = dict.fromkeys(str(row["order"]) for row in rows)
    lines = []
    for order in orders:
        own = sorted((r for r in rows if r["order"] == order), key=lambda row: int(row["heads"]))
        named = [
            {
                "heads": row["heads"],
                "kept": row["copying_kept"],
                "kept_ci_low": row.get("ci_low"),
                "kept_ci_high": row.get("ci_high"),
            }
            for row in own
        ]
        lines.append(series(order, named, "heads", "kept", dash=order.startswith("random")))
    header, cells = sweeps.curve_table(one)
    table = _table(title, header, cells, sweeps.describe_kept(one))
    return [panel(title, "heads kept", "share of copying kept", lines)], [table]


def _named(key: str, one: Measurement) -> str:
    """The measurement, and how heads were switched off where any were."""
    method = sweeps.describe_method(one)
    switched = one.probe in ("sweep", "minimal_set") or one.settings.get("heads")
    return f"{key}, {method} ablation" if method and switched else key


def _table(title: str, header: list[str], rows: list[list[str]], words: str = "") -> dict[str, Any]:
    return {"title": title, "header": header, "rows": rows, "words": words}


def _pooled(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Means over neighbouring positions; the first few positions stay alone."""
    pooled = []
    groups: dict[int, list[dict[str, Any]]] = {}
    for row in rows:
        position = int(row["position"])
        groups.setdefault(position if position < _WINDOW else position // _WINDOW * _WINDOW, [])
        groups[position if position < _WINDOW else position // _WINDOW * _WINDOW].append(row)
    for own in groups.values():
        mean: dict[str, Any] = {"position": sum(int(row["position"]) for row in own) / len(own)}
        for name in ("loss", "loss_ablated"):
            if all(name in row for row in own):
                mean[name] = sum(float(row[name]) for row in own) / len(own)
        pooled.append(mean)
    return pooled
