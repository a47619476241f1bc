"""Drawings of a diff as SVG: grids of heads side by side, the circuit, shares, changes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from markupsafe import Markup

from icl_bench.records.record import RunRecord
from icl_bench.render.html.circuit import Circuit, Head, find_circuit
from icl_bench.render.tables import head_measurements
from icl_bench.render.writing import numbers

if TYPE_CHECKING:
    from icl_bench.comparing import MetricChange
    from icl_bench.diffing.difference import Diff
    from icl_bench.diffing.places import Restored

STEPS = 10
"""Shades of a grid."""
NAMED = 0.2
"""Cells from this score on, or that changed by as much, have their number as a tooltip."""
_CELL = 16
_CHANGES = {"regressed": "fail", "improved": "pass"}
_WIDTH, _HEIGHT = 190, 22


def draw_grids(a: RunRecord, b: RunRecord, score: str) -> list[dict[str, Any]]:
    """Return grids of one score: A's, B's and the change, layers from bottom to top.

    Args:
        a: A's record.
        b: B's record.
        score: name of the score.

    Returns:
        title and drawing of each; nothing where neither has the score.
    """
    values = [_scores(record, score) for record in (a, b)]
    if not any(values):
        return []
    cells = [head for some in values for head in some]
    size = 1 + max(layer for layer, _ in cells), 1 + max(head for _, head in cells)
    found = [
        {"title": title, "drawing": _draw_grid(some, size, f"{title}: {score}")}
        for title, some in zip("AB", values)
    ]
    both = values[0].keys() & values[1].keys()
    change = {head: values[1][head] - values[0][head] for head in both}
    if change:
        found.append({"title": "B − A", "drawing": _draw_grid(change, size, f"change of {score}")})
    return found


def _scores(record: RunRecord, score: str) -> dict[Head, float]:
    for _, measurement in head_measurements(record):
        rows = [row for row in measurement.heads if isinstance(row.get(score), float)]
        return {(row["layer"], row["head"]): row[score] for row in rows}
    return {}


def _draw_grid(values: Mapping[Head, float], size: tuple[int, int], label: str) -> Markup:
    """One path a shade, for a page of many heads to stay small; falls are of another colour."""
    layers, heads = size
    shades: dict[tuple[str, int], list[str]] = {}
    titles = []
    for (layer, head), value in values.items():
        x, y = head * _CELL, (layers - 1 - layer) * _CELL
        shade = min(STEPS, round(abs(value) * STEPS))
        box = f"M{x + 1},{y + 1}h{_CELL - 2}v{_CELL - 2}h{2 - _CELL}z"
        shades.setdefault(("fall" if value < 0 and shade else "rise", shade), []).append(box)
        if abs(value) >= NAMED:
            titles.append(
                f'<rect x="{x}" y="{y}" width="{_CELL}" height="{_CELL}" fill="transparent">'
                f"<title>{layer}.{head}: {value:.3f}</title></rect>"
            )
    paths = [
        f'<path class="{way}" d="{"".join(boxes)}" fill-opacity="{max(shade / STEPS, 0.05):.2f}"/>'
        for (way, shade), boxes in shades.items()
    ]
    step = max(1, -(-layers // 12))
    ticks = [
        f'<text x="-5" y="{(layers - 1 - layer) * _CELL + 12}" text-anchor="end">{layer}</text>'
        for layer in range(0, layers, step)
    ]
    width, height = heads * _CELL, layers * _CELL
    # All numbers are ours; the label is a score's name, escaped here.
    told = Markup("{}").format(label)
    return Markup(
        f'<svg class="cells" viewBox="-24 0 {width + 26} {height + 2}" width="{width + 26}" '
        f'role="img" aria-label="{told}">{"".join((*paths, *ticks, *titles))}</svg>'
    )


def draw_layers(restored: Sequence[Restored]) -> Markup:
    """Return a bar for each layer, the embedding and the unembedding: what it brings back.

    Args:
        restored: the places that were tried.
    """
    wide = [one for one in restored if one.place.kind in ("embedding", "layer", "unembedding")]
    order = {"embedding": -1, "unembedding": 1_000_000}
    wide.sort(key=lambda one: order.get(one.place.kind, one.place.layer or 0))
    return _draw_bars(wide)


def draw_inside(restored: Sequence[Restored]) -> Markup | None:
    """Return a bar for each head, MLP and attention that brings something back.

    Args:
        restored: the places that were tried, best first.
    """
    inside = [one for one in restored if one.place.kind in ("head", "mlp", "attention")]
    return _draw_bars([one for one in inside if one.differs][:16]) if inside else None


def _draw_bars(places: Sequence[Restored]) -> Markup:
    """Bars from 0 to 100%, with intervals."""
    left, width, row = 210, 330, 20

    def at(share: float) -> float:
        return round(left + (min(max(share, -0.2), 1.2) + 0.2) / 1.4 * width, 1)

    parts = [
        f'<line class="axis" x1="{at(tick)}" x2="{at(tick)}" y1="4" y2="{len(places) * row + 6}"/>'
        for tick in (0.0, 1.0)
    ]
    for index, one in enumerate(places):
        y = index * row + 8
        start, end = sorted((at(0.0), at(one.share)))
        words = Markup("{}").format(one.place.name)
        parts.append(
            f'<text x="{left - 8}" y="{y + 11}" text-anchor="end">{words}</text>'
            f'<rect class="{"bar" if one.differs else "same"}" x="{start}" y="{y}" '
            f'width="{max(end - start, 1):.1f}" height="13" rx="2"/>'
        )
        if one.ci_low is not None and one.ci_high is not None and one.differs:
            parts.append(
                f'<line class="interval" x1="{at(one.ci_low)}" x2="{at(one.ci_high)}" '
                f'y1="{y + 6.5}" y2="{y + 6.5}"/>'
            )
        told = f"{one.share:.0%}" if one.differs else "the same in both"
        parts.append(f'<text class="soft" x="{left + width + 6}" y="{y + 11}">{told}</text>')
    height = len(places) * row + 12
    return Markup(
        f'<svg class="shares" viewBox="0 0 {left + width + 110} {height}" role="img" '
        f'aria-label="Share of the loss that each place brings back">{"".join(parts)}</svg>'
    )


def draw_change(change: MetricChange) -> Markup | None:
    """Return a metric's change with its interval and the limits, as a small picture.

    Args:
        change: what became of the metric.
    """
    low, high, value = change.ci_low, change.ci_high, change.difference
    if value is None or low is None or high is None:
        return None
    reach = 1.15 * max(abs(low), abs(high), change.allowed, 1e-9)

    def at(number: float) -> float:
        return round(6 + (number / reach + 1) / 2 * (_WIDTH - 12), 1)

    kind = _CHANGES.get(change.state, "")
    told = f"change {numbers.number(value)}, interval {numbers.interval(low, high, (0.0,))}"
    left, right = at(-change.allowed), at(change.allowed)
    return Markup(
        f'<svg class="strip change {kind}" viewBox="0 0 {_WIDTH} {_HEIGHT}" width="{_WIDTH}" '
        f'height="{_HEIGHT}" role="img" aria-label="{told}"><title>{told}</title>'
        f'<rect class="zone" x="{left}" width="{max(right - left, 1.5):.1f}" y="3" height="16"/>'
        f'<line class="axis" x1="{at(0)}" x2="{at(0)}" y1="2" y2="20"/>'
        f'<line class="interval" x1="{at(low)}" x2="{at(high)}" y1="11" y2="11"/>'
        f'<circle class="value" cx="{at(value)}" cy="11" r="4"/></svg>'
    )


_BOX, _ROW, _TOP, _ACROSS = (186, 42), 56, 40, 700


def draw_circuits(diff: Diff) -> dict[str, Any] | None:
    """Return the circuit of both models in one drawing, heads with what became of them.

    Args:
        diff: the result.

    Returns:
        drawing and words; None where neither model has such heads.
    """
    a, b = find_circuit(diff.before), find_circuit(diff.after)
    if a is None or b is None or not (a.scores or a.previous or b.scores or b.previous):
        return None
    senders = sorted({*a.previous, *b.previous, *a.others, *b.others})
    receivers = sorted({*a.scores, *b.scores})
    if not senders and not receivers:
        return None
    cause = diff.cause.restored.place if diff.cause else None
    if cause and cause.kind == "head" and cause.layer is not None and cause.head is not None:
        named: Head | None = (cause.layer, cause.head)
        if named not in senders and named not in receivers:
            senders = sorted([*senders, (cause.layer, cause.head)])
    else:
        named = None
    rows = max(len(senders), len(receivers))
    places = _place(senders, receivers, rows)
    parts = [*_edges(a, b, places)]
    for (side, head), (x, y) in places.items():
        kind = "induction" if side == "i" else "previous_token"
        scores = [_scores(record, kind).get(head) for record in (diff.before, diff.after)]
        parts.append(_node(diff, kind, head, scores, (x, y), head == named))
    words = (
        "An arrow is as wide as the share of the receiver's score that is lost without the sender "
        "in its key, query or value side; grey and broken: in A, not in B any more."
        if a.edges or b.edges
        else "No arrows: what heads read from each other was not measured (--suite circuit does)."
    )
    height = _TOP + rows * _ROW + 8
    return {
        "words": words,
        "drawing": Markup(
            f'<svg class="circuit" viewBox="0 0 {_ACROSS} {height}" role="img" '
            'aria-label="The circuit of both models; the table below has the same heads">'
            f'<text class="title" x="{_BOX[0] / 2 + 8}" y="20" text-anchor="middle">Senders</text>'
            f'<text class="title" x="{_ACROSS - _BOX[0] / 2 - 8}" y="20" text-anchor="middle">'
            f"Induction heads</text>{''.join(parts)}</svg>"
        ),
    }


def _place(
    senders: Sequence[Head], receivers: Sequence[Head], rows: int
) -> dict[tuple[str, Head], tuple[float, float]]:
    places: dict[tuple[str, Head], tuple[float, float]] = {}
    for side, heads, x in (("p", senders, 8), ("i", receivers, _ACROSS - _BOX[0] - 8)):
        lead = (rows - len(heads)) * _ROW / 2
        for index, head in enumerate(reversed(heads)):
            places[side, head] = (x, _TOP + lead + index * _ROW)
    return places


def _node(
    diff: Diff,
    kind: str,
    head: Head,
    scores: Sequence[float | None],
    at: tuple[float, float],
    is_cause: bool,
) -> str:
    states = {
        one.state
        for one in diff.comparison.heads
        if (one.layer, one.head, one.kind) == (*head, kind)
    }
    state = next(iter(states - {"kept"}), "kept" if states else "")
    shown = " → ".join("–" if score is None else f"{score:.2f}" for score in scores)
    told = f"{kind.replace('_', '-')} {shown}"
    name = f"{head[0]}.{head[1]}" + (f" {state}" if state not in ("", "kept") else "")
    name += " · explains it" if is_cause else ""
    x, y = at
    middle = x + _BOX[0] / 2
    return (
        f'<g class="node {state}{" cause" if is_cause else ""}">'
        f'<rect x="{x}" y="{y}" width="{_BOX[0]}" height="{_BOX[1]}" rx="8"/>'
        f'<text class="name" x="{middle}" y="{y + 18}" text-anchor="middle">{name}</text>'
        f'<text class="what" x="{middle}" y="{y + 34}" text-anchor="middle">{told}</text></g>'
    )


def _edges(
    a: Circuit, b: Circuit, places: Mapping[tuple[str, Head], tuple[float, float]]
) -> Iterable[str]:
    """Arrows of B, and those of A that B has not any more."""
    found = [
        {(row["sender"], row["receiver"], row["side"]): row["share"] for row in one.every_edge}
        for one in (a, b)
    ]
    for edge in sorted({*found[0], *found[1]}):
        sender, receiver, side = edge
        if ("p", sender) not in places or ("i", receiver) not in places:
            continue
        before, after = (some.get(edge, 0.0) for some in found)
        if max(before, after) < 0.1:
            continue
        lost = after < before / 2
        x1, y1 = places["p", sender]
        x2, y2 = places["i", receiver]
        x1, y1, y2 = x1 + _BOX[0], y1 + _BOX[1] / 2, y2 + _BOX[1] / 2
        kind = side if side in ("key", "query", "value") else "key"
        yield (
            f'<path class="edge {kind}{" lost" if lost else ""}" '
            f'd="M{x1},{y1} C{x1 + 90},{y1} {x2 - 90},{y2} {x2},{y2}" '
            f'stroke-width="{1 + 7 * min(before if lost else after, 1):.1f}" opacity="0.75">'
            f"<title>{sender[0]}.{sender[1]} feeds the {kind} of {receiver[0]}.{receiver[1]}: "
            f"{before:.0%} of its score in A, {after:.0%} in B</title></path>"
        )
