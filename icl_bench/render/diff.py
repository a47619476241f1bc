"""A diff of two models -> text for the terminal and Markdown."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from icl_bench.records.keys import Key
from icl_bench.render.comparison import COLORS, STATES, describe_check, describe_heads
from icl_bench.render.writing import numbers
from icl_bench.render.writing.markup import escape, table
from icl_bench.render.writing.page import Page
from icl_bench.render.writing.text import one_line

if TYPE_CHECKING:
    from icl_bench.comparing import MetricChange
    from icl_bench.diffing.difference import Diff
    from icl_bench.diffing.places import Restored

TOP = 8
"""Places that the terminal shows."""
ROWS = 40
"""Places that Markdown shows; JSON has all of them."""
METRICS = ("Metric", "A", "B", "Difference", "Interval", "Result")
PLACES = ("Restored from A", "Brings back", "Interval")
SEEN = (
    "The last column is the smallest change that would have been seen: what the limit allows and "
    "half of the interval."
)


def diff_text(diff: Diff, *, width: int = 80, color: bool = False, unicode: bool = True) -> str:
    """Return a diff as text for a terminal; the verdict comes first.

    Args:
        diff: the result.
        width: characters per line.
        color: whether states are coloured with ANSI codes.
        unicode: whether the terminal can show more than ASCII.
    """
    page = Page(width, color, unicode)
    page.wrap("", one_line(diff.verdict), 0)
    page.add()
    page.wrap("", one_line(f"A = {diff.names[0]}, B = {diff.names[1]}"), 0)
    if diff.comparison.metrics:
        page.add()
        _add_metrics(page, diff.comparison.metrics)
    if diff.restored:
        page.add()
        rows = place_rows(_differing(diff.restored)[:TOP])
        page.table(PLACES, rows, ("left", "right", "left"), (2, 2))
    lines = [*describe_heads(diff.comparison.heads), *checks_of(diff)]
    lines += [f"note: {remark}" for remark in remarks_of(diff)]
    if lines:
        page.add()
    for line in lines:
        page.wrap("", one_line(line), 0)
    return page.text()


def diffs_text(
    diffs: Sequence[Diff], *, width: int = 80, color: bool = False, unicode: bool = True
) -> str:
    """Return diffs of several models with one as text for a terminal: a table, then each verdict.

    Args:
        diffs: the results, of one A.
        width: characters per line.
        color: whether ANSI codes may be used.
        unicode: whether the terminal can show more than ASCII.
    """
    page = Page(width, color, unicode)
    worse = [diff.names[1] for diff in diffs if not diff.passes]
    told = f"REGRESSION in {', '.join(worse)}" if worse else "No regression"
    page.wrap("", one_line(f"{told}: {len(diffs)} models against {diffs[0].names[0]}"), 0)
    page.add()
    header, rows = summary_rows(diffs)
    page.table(header, rows, ["left"] * len(header), [2] * (len(header) - 1), shrink={0: 12, 4: 10})
    for diff in diffs:
        page.add()
        page.wrap("", one_line(diff.verdict), 0)
    return page.text()


MAIN = ("gain", "gain_varied", "text_loss")
"""Metrics of the table of several models."""


def summary_rows(diffs: Sequence[Diff]) -> tuple[list[str], list[list[str]]]:
    """Return header and rows of a table of several models against one.

    Args:
        diffs: the results.
    """
    known = {one.metric for diff in diffs for one in diff.comparison.metrics}
    shown = [name for name in MAIN if name in known]
    rows = []
    for diff in diffs:
        values = {one.metric: one for one in diff.comparison.metrics}
        cells = [_cell(values[name]) if name in values else "" for name in shown]
        died = list(dict.fromkeys(one.name for one in diff.comparison.died))
        best = diff.cause.restored if diff.cause else None
        told = f"{best.place.name} ({best.share:.0%})" if best else ""
        word = "ok" if diff.passes else "WORSE"
        rows.append([diff.names[1], word, *cells, ", ".join(died), told])
    return ["Model", "Result", *shown, "Heads that died", "Brings most back"], rows


def _cell(change: MetricChange) -> str:
    now = "gone" if change.value is None else numbers.number(change.value)
    return now if change.state == "same" else f"{now} {STATES[change.state]}"


def diffs_markdown(diffs: Sequence[Diff]) -> str:
    """Return diffs of several models with one as Markdown.

    Args:
        diffs: the results, of one A.
    """
    header, rows = summary_rows(diffs)
    lines = [f"# {len(diffs)} models against {escape(diffs[0].names[0])}", ""]
    lines += [*table(header, rows), ""]
    lines += [f"- {escape(diff.verdict)}" for diff in diffs]
    return "\n".join(lines) + "\n"


def _add_metrics(page: Page, changes: Sequence[MetricChange]) -> None:
    rows = [row[:6] for row in metric_rows(changes)]
    align = ("left", "right", "right", "right", "left", "left")
    states = [COLORS.get(change.state) for change in changes]
    for gap in (2, 1):
        if page.table(METRICS, rows, align, (gap,) * 5, {5: states}, must_fit=True):
            return
    kept = [[*row[:4], row[5]] for row in rows]
    header = [*METRICS[:4], METRICS[5]]
    page.table(header, kept, [*align[:4], align[5]], (1,) * 4, {4: states}, shrink={0: 12})


def _differing(restored: Sequence[Restored]) -> list[Restored]:
    """The places that are not the same in both models; those that are bring nothing back."""
    return [one for one in restored if one.differs]


def metric_rows(changes: Sequence[MetricChange]) -> list[list[str]]:
    """Return cells of a table of metrics: name, A, B, difference, interval, result, seen.

    Args:
        changes: what became of each.
    """
    several = len({Key(change.key).suite for change in changes}) > 1
    return [_metric_row(change, several) for change in changes]


def _metric_row(change: MetricChange, with_suite: bool) -> list[str]:
    interval = ""
    if change.ci_low is not None and change.ci_high is not None:
        interval = numbers.interval(change.ci_low, change.ci_high, (0.0,))
        interval += "" if change.paired else " unpaired"
    key = change.key if with_suite else Key(change.key).name
    return [
        one_line(f"{key}.{change.metric}"),
        numbers.number(change.baseline),
        "" if change.value is None else numbers.number(change.value),
        "" if change.difference is None else f"{change.difference:+.3g}",
        interval,
        STATES[change.state],
        "" if change.seen is None else numbers.number(change.seen, 2),
    ]


def place_rows(restored: Sequence[Restored]) -> list[list[str]]:
    """Return cells of a table of places: what was restored, the share that it brings back.

    Args:
        restored: the places.
    """
    return [
        [
            one.place.name,
            f"{one.share:.1%}",
            ""
            if one.ci_low is None or one.ci_high is None
            else f"[{one.ci_low:.1%}, {one.ci_high:.1%}]",
        ]
        for one in restored
    ]


def checks_of(diff: Diff) -> list[str]:
    """Return sentences about checks whose verdict is not what it was.

    Args:
        diff: the result.
    """
    return [describe_check(one) for one in diff.comparison.checks if one.state != "same"]


def remarks_of(diff: Diff) -> list[str]:
    """Return everything to be noted: what was left out, what is not paired and why.

    Args:
        diff: the result.
    """
    unpaired: dict[str, list[str]] = {}
    for one in diff.comparison.metrics:
        if one.unpaired:
            unpaired.setdefault(one.unpaired, []).append(one.metric)
    told = [f"not paired ({why}): {', '.join(names)}" for why, names in unpaired.items()]
    return [*diff.remarks, *diff.comparison.remarks, *told]


def describe_loss(diff: Diff) -> str:
    """Return how much was lost where places were restored; nothing where none were.

    Args:
        diff: the result.
    """
    if diff.loss is None:
        return ""
    what = "on the second copy of repeated blocks" if diff.lost == "copying" else "on text"
    interval = ""
    if diff.loss.ci_low is not None and diff.loss.ci_high is not None:
        interval = f" {numbers.interval(diff.loss.ci_low, diff.loss.ci_high)}"
    same = sum(not one.differs for one in diff.restored)
    return (
        f"B's loss {what} is {numbers.number(diff.loss.value)} nats{interval} higher "
        f"({diff.loss.n} sequences). A place of B gets A's parameters, all else stays B's; the "
        f"share of these nats that goes is what it brings back. The intervals hold for all "
        f"{len(diff.restored)} places together; {same} of them change nothing."
    )


def diff_markdown(diff: Diff) -> str:
    """Return a diff as Markdown.

    Args:
        diff: the result.
    """
    return "\n".join(_markdown(diff)).rstrip() + "\n"


def _markdown(diff: Diff) -> Iterator[str]:
    yield f"# {escape(diff.names[1])} against {escape(diff.names[0])}"
    yield from ("", f"**{escape(diff.verdict)}**", "")
    yield f"A is {escape(_model(diff.before.model))}; B is {escape(_model(diff.after.model))}."
    yield ""
    if diff.restored:
        yield from ("## What explains it", "", escape(describe_loss(diff)), "")
        shown = _differing(diff.restored)[:ROWS]
        yield from table(PLACES, place_rows(shown), PLACES[1:2])
        yield ""
    heads = diff.comparison.heads
    if heads:
        yield from ("## Heads", "")
        rows = [
            [one.key, one.name, one.kind.replace("_", "-"), *_scores(one), one.state]
            for one in heads
        ]
        header = ("Measurement", "Head", "Kind", "A", "B", "Result")
        yield from table(header, rows, ("A", "B"))
        yield ""
        yield from (f"- {escape(line)}" for line in describe_heads(heads))
        yield ""
    if diff.comparison.metrics:
        yield from ("## Metrics", "")
        rows = [
            [*row, "" if one.limit is None else f"{numbers.number(one.allowed)} ({one.limit})"]
            for row, one in zip(metric_rows(diff.comparison.metrics), diff.comparison.metrics)
        ]
        yield from table((*METRICS, "Seen", "Limit"), rows, ("A", "B", "Difference", "Seen"))
        yield from ("", SEEN.replace("The last column", "`Seen`"), "")
    lines = [*checks_of(diff), *(f"note: {remark}" for remark in remarks_of(diff))]
    if lines:
        yield from ("## Checks and notes", "", *(f"- {escape(line)}" for line in lines))


def _scores(head: Any) -> tuple[str, str]:
    return numbers.score(head.baseline), "" if head.value is None else numbers.score(head.value)


def _model(model: Any) -> str:
    size = f", {model.layers} layers" if model.layers else ""
    return f"{model.label} ({model.architecture or 'unknown architecture'}{size}, {model.dtype})"
