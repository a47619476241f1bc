"""A diff of two models -> diff.html, one page without scripts of its own."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from icl_bench.render.comparison import describe_heads
from icl_bench.render.diff import (
    METRICS,
    PLACES,
    SEEN,
    checks_of,
    describe_loss,
    metric_rows,
    place_rows,
    remarks_of,
    summary_rows,
)
from icl_bench.render.html import diff_drawings as drawings
from icl_bench.render.html.checks import verdict_cell
from icl_bench.render.html.page import make_page
from icl_bench.render.html.tables import provenance_section
from icl_bench.render.writing import numbers
from icl_bench.render.writing.text import one_line

if TYPE_CHECKING:
    from icl_bench.diffing.difference import Diff

SCORES = {"induction": "Induction", "previous_token": "Previous token"}
"""Scores whose heads are drawn beside each other."""
TILES = ("gain", "gain_varied", "text_loss", "accuracy", "copying_lost", "induction_max")
"""Metrics that the page begins with, as many as were compared."""
MOST_TILES = 4
MOST_PLACES = 120
"""Rows of the table of places."""


def diff_page(diff: Diff) -> str:
    """Return the page of a diff.

    Args:
        diff: the result.
    """
    a, b = (one_line(name) for name in diff.names)
    sections: dict[str, Any] = {
        "explained": _explained(diff),
        "heads": _heads(diff),
        "metrics": _metrics(diff),
        "notes": [one_line(line) for line in [*checks_of(diff), *remarks_of(diff)]],
    }
    named = {"explained": "What explains it", "heads": "Heads", "metrics": "Numbers"}
    nav = [(name, words) for name, words in named.items() if sections[name]]
    return make_page(
        "diff.html.j2",
        title=f"{b} against {a} · icl_bench",
        data={},
        styles=("report.css", "diff.css"),
        plotly="",
        nav=[*nav, ("provenance", "Provenance")],
        a=a,
        b=b,
        verdict=verdict_cell("pass" if diff.passes else "fail"),
        told=one_line(diff.verdict),
        tiles=_tiles(diff),
        provenance=_provenance(diff),
        **sections,
    )


def diffs_page(diffs: Sequence[Diff], pages: Sequence[str]) -> str:
    """Return the page of several models against one: a table that leads to each one's page.

    Args:
        diffs: the results, of one A.
        pages: relative address of each one's page.
    """
    header, rows = summary_rows(diffs)
    a = one_line(diffs[0].names[0])
    return make_page(
        "diffs.html.j2",
        title=f"{len(diffs)} models against {a} · icl_bench",
        data={},
        styles=("report.css", "diff.css"),
        plotly="",
        a=a,
        header=header,
        rows=list(zip(rows, pages, (one_line(diff.verdict) for diff in diffs))),
        verdict=verdict_cell("pass" if all(diff.passes for diff in diffs) else "fail"),
    )


def _tiles(diff: Diff) -> list[dict[str, str]]:
    known = {one.metric: one for one in diff.comparison.metrics if one.value is not None}
    found = []
    for name in [one for one in TILES if one in known][:MOST_TILES]:
        one = known[name]
        low, high = one.ci_low, one.ci_high
        found.append(
            {
                "value": f"{numbers.number(one.baseline)} → {numbers.number(one.value or 0.0)}",
                "words": name,
                "interval": ""
                if low is None or high is None
                else f"change {numbers.interval(low, high, (0.0,))}",
                "class": {"regressed": "fail", "improved": "pass"}.get(one.state, ""),
            }
        )
    return found


def _explained(diff: Diff) -> dict[str, Any] | None:
    if not diff.restored:
        return None
    differing = [one for one in diff.restored if one.differs]
    return {
        "words": describe_loss(diff),
        "layers": drawings.draw_layers(diff.restored),
        "inside": drawings.draw_inside(diff.restored),
        "header": list(PLACES),
        "rows": place_rows(differing[:MOST_PLACES]),
        "more": max(0, len(differing) - MOST_PLACES),
    }


def _heads(diff: Diff) -> dict[str, Any] | None:
    grids = [
        {"label": label, "grids": drawn}
        for score, label in SCORES.items()
        if (drawn := drawings.draw_grids(diff.before, diff.after, score))
    ]
    if not grids:
        return None
    changes = diff.comparison.heads
    rows = [
        [
            one.name,
            one.kind.replace("_", "-"),
            numbers.score(one.baseline),
            "none" if one.value is None else numbers.score(one.value),
            one.state,
        ]
        for one in changes
    ]
    return {
        "grids": grids,
        "circuit": drawings.draw_circuits(diff),
        "lines": [one_line(line) for line in describe_heads(changes)],
        "header": ["Head", "Kind", "A", "B", "Result"],
        "rows": rows,
    }


def _metrics(diff: Diff) -> dict[str, Any] | None:
    changes = diff.comparison.metrics
    if not changes:
        return None
    rows = [
        {"cells": cells, "state": one.state, "strip": drawings.draw_change(one)}
        for cells, one in zip(metric_rows(changes), changes)
    ]
    return {"header": [*METRICS, "Seen"], "rows": rows, "seen": SEEN}


def _provenance(diff: Diff) -> dict[str, Any]:
    sides = [dict(provenance_section(record)["rows"]) for record in (diff.before, diff.after)]
    names: Sequence[str] = list(dict.fromkeys([*sides[0], *sides[1]]))
    rows = [[name, *(side.get(name, "") for side in sides)] for name in names]
    return {"rows": rows}
