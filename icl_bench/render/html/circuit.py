"""The circuit drawn from this model's own numbers: who moves, who matches, what composes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from markupsafe import Markup

from icl_bench.records.parts import Measurement
from icl_bench.records.record import RunRecord
from icl_bench.render import circuits, tables
from icl_bench.render.content import read_rows, should_have
from icl_bench.render.writing import numbers

THRESHOLD = 0.4
"""From this score on a head is drawn as an induction or a previous-token head."""
MOST = 7
"""Heads drawn on either side; the strongest."""
MOST_EDGES = 300
"""Rows of the table of edges, widest first; a page's size is bounded."""
_FAINTEST = 0.05
"""Edges that carry less than this share of a head's score are left out, and said to be."""
_WIDTH, _ROW, _TOP = 660, 54, 46
_BOX = (176, 40)
_LEFT, _RIGHT = 92, 478
_NAMED = 0.2
"""From this share on an edge is labelled, and the head that it starts from drawn."""
Head = tuple[int, int]


@dataclass
class Circuit:
    """The heads of one model's induction circuit and what was measured between them."""

    scores: dict[Head, float]
    """Induction head -> score, strongest first."""
    previous: dict[Head, float]
    """Previous-token head -> score, strongest first."""
    others: dict[Head, float | None] = field(default_factory=dict)
    """Other earlier head that an edge starts from -> its previous-token score, where known."""
    edges: list[dict[str, Any]] = field(default_factory=list)
    """Rows of `composition` between them: sender, receiver, side, clean, patched, share."""
    every_edge: list[dict[str, Any]] = field(default_factory=list)
    """All edges of 5% or more into drawn heads, also from heads that are not drawn."""
    remark: str | None = None
    """Why composition has no rows, where it was measured without any."""
    composed: str | None = None
    """Measurement that the edges are from; None when composition was not measured."""
    unlisted: dict[str, int] = field(default_factory=dict)
    """Kind of head -> how many above the threshold are not among the strongest."""
    written: dict[Head, float] = field(default_factory=dict)
    """Induction head -> logits that it writes directly to the right token."""


def find_circuit(record: RunRecord) -> Circuit | None:
    """Return the circuit's heads by their scores, with the edges where they were measured.

    Args:
        record: of one model; of a series, its last step.
    """
    measured = tables.head_measurements(record)
    if not measured:
        return None
    rows = measured[0][1].heads
    able = {"Induction": _able(rows, "induction"), "Previous-token": _able(rows, "previous_token")}
    drawn = [dict(list(heads.items())[:MOST]) for heads in able.values()]
    found = Circuit(drawn[0], drawn[1])
    found.unlisted = {name: len(heads) - MOST for name, heads in able.items() if len(heads) > MOST}
    for key, one in record.measurements.items():
        if read_rows(one, "composition"):
            found.composed, found.remark = key, None
            _add_edges(found, one)
            break
        if found.composed is None and should_have(one, "composition"):
            found.composed, found.remark = key, one.reason or "no heads were compared"
    for one in record.measurements.values():
        for row in one.heads:
            head = _head(row)
            if head in found.scores and row.get("logit") is not None:
                found.written.setdefault(head, float(row["logit"]))
    return found


def section(record: RunRecord) -> dict[str, Any] | None:
    """Return the drawing, what it says in words, and the table head by head."""
    found = find_circuit(record)
    if found is None:
        return None
    words = _words(found)
    if others := _other_compositions(record, found):
        words.append(f"Drawn is {found.composed}; results.json also has {', '.join(others)}.")
    return {
        "drawing": _draw(found) if found.scores or found.previous else None,
        "words": words,
        "edges": [_edge_cells(edge) for edge in found.every_edge[:MOST_EDGES]],
        "more_edges": max(len(found.every_edge) - MOST_EDGES, 0),
        "composed": found.composed,
        "tables": [
            {"suite": suite, "header": header, "rows": rows}
            for suite, header, rows in circuits.circuit_tables(record)
        ],
    }


def _other_compositions(record: RunRecord, found: Circuit) -> list[str]:
    """Measurements whose edges are other ones than those that are drawn."""
    drawn = record.measurements[found.composed].tables if found.composed else {}
    return [
        key
        for key, one in record.measurements.items()
        if read_rows(one, "composition") not in ([], *drawn.values())
    ]


def _able(rows: Sequence[dict[str, Any]], name: str) -> dict[Head, float]:
    """All heads above the threshold, strongest first."""
    scored = [(_head(row), row.get(name)) for row in rows]
    able = [(head, float(score)) for head, score in scores_of(scored) if score > THRESHOLD]
    return dict(sorted(able, key=lambda pair: -pair[1]))


def scores_of(pairs: Sequence[tuple[Head, Any]]) -> list[tuple[Head, float]]:
    """Return the pairs whose second half is a number."""
    return [
        (head, float(score))
        for head, score in pairs
        if isinstance(score, (int, float)) and not isinstance(score, bool)
    ]


def _head(row: dict[str, Any]) -> Head:
    return int(row["layer"]), int(row["head"])


def _add_edges(found: Circuit, measurement: Measurement) -> None:
    """Take over the edges into drawn heads, and the heads that the widest of them start from."""
    rows = []
    best: dict[Head, float] = {}
    known: dict[Head, float | None] = {}
    for row in measurement.tables["composition"]:
        receiver, sender = _head(row), (int(row["sender_layer"]), int(row["sender_head"]))
        clean = float(row["clean"])
        if receiver not in found.scores or clean <= 0:
            continue
        share = float(row["drop"]) / clean
        if share < _FAINTEST:
            continue
        rows.append({**row, "sender": sender, "receiver": receiver, "share": share})
        best[sender] = max(best.get(sender, 0.0), share)
        score = row.get("sender_previous_token")
        known[sender] = float(score) if isinstance(score, (int, float)) else None
    for sender in sorted(best, key=lambda head: -best[head]):
        if sender not in found.previous and best[sender] >= _NAMED:
            found.others[sender] = known[sender]
    found.others = dict(list(found.others.items())[: max(MOST - len(found.previous), 2)])
    found.every_edge = sorted(rows, key=lambda row: -row["share"])
    found.edges = [row for row in rows if row["sender"] in {**found.previous, **found.others}]


def _words(found: Circuit) -> list[str]:
    """The drawing told in sentences, for those who cannot see it."""
    if not found.scores and not found.previous:
        return [
            f"No head scores above {THRESHOLD} as an induction head or as a previous-token head: "
            "there is no circuit to draw."
        ]
    told = []
    for name, heads in (("Induction", found.scores), ("Previous-token", found.previous)):
        listed = ", ".join(f"{_name(head)} ({numbers.score(s)})" for head, s in heads.items())
        if name in found.unlisted:
            listed += f", and {found.unlisted[name]} more above {THRESHOLD}, which are not drawn"
        told.append(f"{name} heads: {listed or f'none above {THRESHOLD}'}.")
    if found.others:
        listed = ", ".join(map(_name, found.others))
        told.append(f"Other earlier heads that an induction head needs: {listed}.")
    if found.composed is None:
        told.append(
            "Composition between them was not measured, so no edges are drawn; the suite circuit "
            "measures it."
        )
    elif found.remark is not None:
        told.append(f"No edges ({found.composed}): {found.remark}.")
    elif not found.every_edge:
        told.append(
            f"Taking one earlier head out of one side of an induction head ({found.composed}) "
            f"costs less than {_FAINTEST:.0%} of its score everywhere: no edge is drawn."
        )
    else:
        matching = [edge for edge in found.every_edge if edge["side"] != "value"]
        if matching:
            best = matching[0]
            told.append(
                f"Strongest edge: without {_name(best['sender'])} in its {best['side']} side the "
                f"induction score of {_name(best['receiver'])} goes from "
                f"{numbers.score(float(best['clean']))} to "
                f"{numbers.score(float(best['patched']))}."
            )
        left = len(found.every_edge) - len(found.edges)
        if left:
            come = "more edge" if left == 1 else "more edges"
            told.append(
                f"{left} {come} of {_FAINTEST:.0%} or more from heads that are not drawn: see the "
                "table."
            )
    return told


def _edge_cells(edge: dict[str, Any]) -> list[str]:
    return [
        _name(edge["sender"]),
        f"{edge['side']} of {_name(edge['receiver'])}",
        numbers.score(float(edge["clean"])),
        numbers.score(float(edge["patched"])),
        f"{100 * edge['share']:.0f}%",
    ]


def _name(head: Head) -> str:
    return f"{head[0]}.{head[1]}"


def _draw(found: Circuit) -> Markup:
    """Boxes by layer, bottom to top; an edge as wide as the share of the score it carries."""
    senders = {**found.previous, **found.others}
    rows = max(len(found.scores), len(senders), 1)
    height = _TOP + rows * _ROW + 12
    places: dict[tuple[str, Head], tuple[float, float]] = {}
    for side, heads, across in (("p", senders, _LEFT), ("i", found.scores, _RIGHT)):
        ordered = sorted(heads, reverse=True)
        lead = (rows - len(ordered)) * _ROW / 2
        for index, head in enumerate(ordered):
            places[side, head] = (across, _TOP + lead + index * _ROW + _ROW / 2)
    parts = []
    labels: dict[tuple[Head, str], str] = {}
    for edge in sorted(found.edges, key=lambda row: row["share"]):
        line, text = _draw_edge(edge, places["p", edge["sender"]], places["i", edge["receiver"]])
        parts.append(line)
        # The widest edge into a side comes last, and its label alone has room there.
        labels[edge["receiver"], edge["side"]] = text
    parts += labels.values()
    for (side, head), (x, y) in places.items():
        if side == "i":
            written = found.written.get(head)
            note = f"induction {found.scores[head]:.2f}"
            note += "" if written is None else f" · {written:+.1f} logits"
        elif head in found.previous:
            note = f"reads the token before · {found.previous[head]:.2f}"
        else:
            side, score = "o", found.others[head]
            note = "another head" if score is None else f"token before only {score:.2f}"
        parts.append(
            f'<g class="node {side}" tabindex="0" role="button" data-layer="{head[0]}" '
            f'data-head="{head[1]}" aria-label="Pin head {_name(head)}">'
            f'<rect x="{x - _BOX[0] / 2}" y="{y - _BOX[1] / 2}" width="{_BOX[0]}" '
            f'height="{_BOX[1]}" rx="8"/>'
            f'<text class="name" x="{x}" y="{y - 3}" text-anchor="middle">{_name(head)}</text>'
            f'<text class="what" x="{x}" y="{y + 13}" text-anchor="middle">{note}</text></g>'
        )
    label = Markup("{}").format(" ".join(_words(found)))
    titles = (
        f'<text class="title" x="{_LEFT}" y="22" text-anchor="middle">Senders</text>'
        f'<text class="title" x="{_RIGHT}" y="22" text-anchor="middle">Induction heads</text>'
        f'<text class="out" x="{_RIGHT + _BOX[0] / 2 + 12}" y="{_TOP + rows * _ROW / 2 + 5}">'
        "→ next</text>"
    )
    # All numbers are ours; the one text, with a measurement's name in it, is escaped above.
    return Markup(
        f'<svg class="circuit" viewBox="0 0 {_WIDTH} {height}" role="group" aria-label="{label}">'
        f"{titles}{''.join(parts)}</svg>"
    )


def _draw_edge(
    edge: dict[str, Any], start: tuple[float, float], end: tuple[float, float]
) -> tuple[str, str]:
    """One edge and its label, which is drawn over all edges; the label of a thin one is empty."""
    x1, x2 = start[0] + _BOX[0] / 2, end[0] - _BOX[0] / 2
    y1, y2 = start[1], end[1]
    share = min(edge["share"], 1.0)
    side = edge["side"] if edge["side"] in ("key", "query", "value") else "key"
    title = Markup("{} feeds the {}: {} to {} without it ({})").format(*_edge_cells(edge))
    line = (
        f'<path class="edge {side}" d="M{x1},{y1} C{x1 + 90},{y1} {x2 - 90},{y2} {x2},{y2}" '
        f'stroke-width="{1 + 7 * share:.1f}" opacity="{0.35 + 0.6 * share:.2f}">'
        f"<title>{title}</title></path>"
    )
    if share < _NAMED:
        return line, ""
    label = (
        f'<text class="share" x="{x2 - 6}" y="{y2 - 8 if side == "key" else y2 + 17}" '
        f'text-anchor="end">{side[0].upper()} −{100 * share:.0f}%</text>'
    )
    return line, label
