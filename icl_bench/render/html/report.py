"""RunRecord -> report.html."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from icl_bench.records.record import RunRecord
from icl_bench.render.html import (
    blocks,
    checks,
    circuit,
    copying,
    example,
    heads,
    overview,
    quiz,
    tables,
    training,
)
from icl_bench.render.html.page import make_page
from icl_bench.render.writing.text import one_line

SECTIONS: dict[str, tuple[str, Callable[[RunRecord], dict[str, Any] | None]]] = {
    "training": ("Training", training.section),
    "checks": ("Checks", checks.section),
    "circuit": ("Circuit", circuit.section),
    "example": ("Example", example.section),
    "heads": ("Heads", heads.section),
    "copying": ("Copying", copying.section),
    "switches": ("Break it", example.switches_section),
    "behaviour": ("Behaviour", blocks.section),
    "quiz": ("Quiz", quiz.section),
    "measurements": ("All numbers", tables.measurements_section),
    "provenance": ("Provenance", tables.provenance_section),
}
"""Section, in the page's order -> its name in the navigation, and what makes its content: text for
the template `report.html.j2` under the same name, and under `data` what its charts are drawn from.
None leaves the section out."""

SCRIPTS = ("heads.js", "example.js", "switches.js", "charts.js", "filter.js")


def report_page(record: RunRecord, plotly: str | None = None) -> str:
    """Return the HTML report of one run.

    Args:
        record: the run; nothing else is needed, no model and no suite file.
        plotly: relative address of the charting script; None packs it into the page.
    """
    made = {name: make(record) for name, (_, make) in SECTIONS.items()}
    parts = {name: part for name, part in made.items() if part is not None}
    data = {name: part.pop("data") for name, part in parts.items() if "data" in part}
    return make_page(
        "report.html.j2",
        title=f"{one_line(record.model.label)} · icl_bench",
        data=data,
        scripts=SCRIPTS,
        styles=("report.css",),
        plotly=plotly,
        nav=[(name, SECTIONS[name][0]) for name in parts],
        glance=overview.overview(record),
        **dict[str, Any]((name, parts.get(name)) for name in SECTIONS),
    )
