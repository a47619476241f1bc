"""Copying: loss by position, clean and with heads off, and the ablation against its null."""

from __future__ import annotations

import statistics
from collections.abc import Iterator
from typing import Any

from icl_bench.probes import report_of
from icl_bench.records.blocks import Table
from icl_bench.records.parts import Measurement
from icl_bench.records.record import RunRecord
from icl_bench.render.ablations import list_switched_off
from icl_bench.render.blocks import shown
from icl_bench.render.content import is_ablation, read_rows
from icl_bench.render.details import ABLATED, EFFECTS
from icl_bench.render.html.example import find_example
from icl_bench.render.html.panels import panel, series
from icl_bench.render.writing import numbers
from icl_bench.render.writing.markup import bounds, estimate

PROBE = "ablation"
"""Whose tables stand here, beside what it switched off."""
_NULLS = (("null", "random heads of the same layers"), ("uniform_null", "random heads anywhere"))


def section(record: RunRecord) -> dict[str, Any] | None:
    """Return the losses by position, and each ablation with its null."""
    panels = [one for one in (_by_position(record), *_clean_losses(record)) if one][:1]
    ablations: list[dict[str, Any]] = []
    for key, one in record.measurements.items():
        if is_ablation(one):
            told = {"keys": [key], **_ablation(one)}
            # Two suites that ask for the same share one measurement.
            same = next((other for other in ablations if {**other, "keys": [key]} == told), None)
            if same:
                same["keys"].append(key)
            elif told["rows"]:
                ablations.append(told)
    if not panels and not ablations:
        return None
    charts = [one.pop("chart") for one in ablations]
    return {
        "panels": panels,
        "ablations": ablations,
        "data": {"panels": panels, "nulls": charts},
    }


def _by_position(record: RunRecord) -> dict[str, Any] | None:
    """From the measured switches: nothing off against all induction heads off."""
    found = find_example(record)
    if found is None:
        return None
    induction = [
        int(row["switch"]) for row in read_rows(found[1], "switches") if row["role"] == "induction"
    ]
    lines = []
    for off, name in (([], "clean"), (sorted(induction), "induction heads off")):
        if off or name == "clean":
            for row in read_rows(found[1], "switched"):
                if sorted(row["off"]) == off:
                    losses = row["loss_by_position"]
                    points = [{"position": i, "loss": loss} for i, loss in enumerate(losses, 1)]
                    lines.append(series(name, points, "position", "loss", dash=bool(off)))
    period = found[1].settings.get("period")
    marks = [{"x": period, "label": "the tokens repeat"}] if period else []
    sequences = found[1].settings.get("sequences")
    drawn = f", mean of {sequences} sequences" if sequences else ""
    title = f"Loss by position on repeated random tokens ({found[0]}{drawn})"
    return panel(title, "position", "loss (nats)", lines, marks=marks)


def _clean_losses(record: RunRecord) -> list[dict[str, Any] | None]:
    made = []
    for key, one in record.measurements.items():
        if rows := read_rows(one, "positions", "copy"):
            line = series("clean", rows, "position", "loss", "loss_stderr")
            title = f"Loss by position on repeated random tokens ({key})"
            made.append(panel(title, "position", "loss (nats)", [line]))
    return made


def _ablation(one: Measurement) -> dict[str, Any]:
    rows = []
    for title, name in ABLATED:
        clean, off = one.metrics.get(name), one.metrics.get(f"{name}_ablated")
        if clean and off:
            rows.append((title, estimate(clean), estimate(off)))
    effects = []
    for name in EFFECTS:
        if metric := one.metrics.get(name):
            interval = bounds(metric.ci_low, metric.ci_high)
            effects.append((name, estimate(metric), interval))
    switched, method = list_switched_off(one), one.method
    if switched and method:
        switched += f" ({method})"
    chart, words = _null(one)
    return {
        "rows": rows,
        "effects": effects,
        "off": switched or "nothing: no head was chosen",
        "tables": list(_tables(one)) if one.probe == PROBE else [],
        "null": words,
        "chart": chart,
    }


def _tables(one: Measurement) -> Iterator[dict[str, Any]]:
    for block in report_of(one):
        if isinstance(block, Table):
            header, rows = shown(block)
            yield {"title": block.title, "words": block.note, "header": header, "rows": rows}


def _null(one: Measurement) -> tuple[dict[str, Any] | None, str]:
    """The draws and the observed effect on the null's own sequences."""
    own = one.metrics.get("null_observed_ratio")
    observed = own or one.metrics.get("loss_ratio")
    draws = {}
    for name, title in _NULLS:
        ratios = [row.get("loss_ratio") for row in one.tables.get(name, [])]
        drawn = [float(ratio) for ratio in ratios if isinstance(ratio, (int, float))]
        if drawn:
            draws[title] = drawn
    if not draws or observed is None:
        return None, ""
    told = "; ".join(
        f"{len(drawn)} draws of {title}: median {numbers.number(statistics.median(drawn))}, "
        f"largest {numbers.number(max(drawn))}"
        for title, drawn in draws.items()
    )
    # They may be fewer than the main effect's, and the ratio then another.
    where = f"On the null's own {own.n} sequences: l" if own and own.n else "L"
    words = f"{where}oss ratio of the chosen heads {numbers.number(observed.value)}; {told}."
    return {"observed": observed.value, "draws": draws}, words
