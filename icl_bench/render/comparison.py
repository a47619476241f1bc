"""A record against its baseline -> text for the terminal and Markdown."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from icl_bench.records.keys import Key
from icl_bench.records.parts import Verdict
from icl_bench.render.writing import numbers
from icl_bench.render.writing.markup import escape, table
from icl_bench.render.writing.page import Page
from icl_bench.render.writing.text import WORDS, one_line

if TYPE_CHECKING:
    from icl_bench.comparing import Comparison, HeadChange, MetricChange, VerdictChange

METRIC_HEADER = ("Metric", "Baseline", "Now", "Difference", "Interval", "Result")

STATES = {
    "regressed": "WORSE",
    "improved": "better",
    "same": "same",
    "changed": "changed",
    "vanished": "GONE",
    "unclear": "UNCLEAR",
    "unpaired": "UNPAIRED",
    "new": "new",
    "not compared": "not compared",
}
"""State -> the word in tables."""

COLORS: dict[str, Verdict] = {
    "regressed": "fail",
    "vanished": "fail",
    "unpaired": "fail",
    "unclear": "inconclusive",
    "improved": "pass",
}
"""State -> the verdict whose colour it has."""

_HEAD_WORDS = {
    "died": "died",
    "gone": "is gone",
    "appeared": "appeared",
    "weaker": "is weaker",
    "kept": "is what it was",
    "stronger": "is stronger",
}


def comparison_text(
    comparison: Comparison,
    *,
    width: int = 80,
    color: bool = False,
    unicode: bool = True,
    inconclusive_fails: bool = True,
    brief: bool = False,
) -> str:
    """Return a comparison as text for a terminal.

    Args:
        comparison: what to show.
        width: characters per line.
        color: whether states are coloured with ANSI codes.
        unicode: whether the terminal can show more than ASCII.
        inconclusive_fails: whether what cannot be told counts as worse.
        brief: whether the table is left out, and everything that failed tests have told of.
    """
    page = Page(width, color, unicode)
    page.wrap("", one_line(f"{comparison.model} against the baseline {comparison.baseline}"), 0)
    page.add()
    if comparison.metrics and not brief:
        _add_metrics(page, comparison.metrics)
        page.add()
    told = ("same", *_failing(inconclusive_fails)) if brief else ("same",)
    lost = ("died", "gone") if brief else ()
    for line in describe_heads([head for head in comparison.heads if head.state not in lost]):
        page.wrap("", one_line(line), 0)
    for change in comparison.checks:
        if change.state not in told:
            page.wrap("", one_line(describe_check(change)), 0)
    for metric in [] if brief else comparison.metrics:
        if metric.reason:
            page.wrap("", one_line(f"{metric.key}.{metric.metric}: {metric.reason}"), 0)
    for line in _list_unpaired(comparison.metrics) if brief else []:
        page.wrap("", line, 0)
    for remark in comparison.remarks:
        page.wrap("", one_line(f"note: {remark}"), 0)
    page.wrap("", verdict_line(comparison, inconclusive_fails), 0)
    return page.text()


def _failing(inconclusive_fails: bool) -> list[str]:
    """States of checks and metrics that fail a gate."""
    return ["regressed", "vanished", "unpaired", *(["unclear"] if inconclusive_fails else [])]


def _add_metrics(page: Page, changes: list[MetricChange]) -> None:
    """The table of metrics, as much of it as there is room for; no number or name is cut."""
    states = [COLORS.get(change.state) for change in changes]
    align = ("left", "right", "right", "right", "left", "left")
    rows = _metric_rows(changes)
    if page.table(METRIC_HEADER, rows, align, (2,) * 5, {5: states}, must_fit=True):
        return
    paired = sum(change.paired for change in changes)
    told = [f"{paired} of {len(changes)} paired on the same tokens, sample by sample."]
    told += _list_unpaired(changes)
    rows = _metric_rows(changes, short=True)
    for gap in (2, 1):
        if page.table(METRIC_HEADER, rows, align, (gap,) * 5, {5: states}, must_fit=True):
            for line in told:
                page.wrap("", line, 0)
            return
    # Intervals only of what is not the same, in lines of their own.
    kept = [[*row[:4], row[5]] for row in rows]
    header = [*METRIC_HEADER[:4], METRIC_HEADER[5]]
    page.table(header, kept, [*align[:4], align[5]], (1,) * 4, {4: states}, shrink={0: 12})
    for line in told:
        page.wrap("", line, 0)
    for row, change in zip(rows, changes):
        if change.state != "same" and row[4]:
            page.wrap("", f"{row[0]}: {row[3]}, interval {row[4]}", 0)


def _list_unpaired(changes: list[MetricChange]) -> list[str]:
    """Which metrics are not paired, reason by reason."""
    lines = []
    for why in dict.fromkeys(change.unpaired for change in changes if change.unpaired):
        names = [f"{change.key}.{change.metric}" for change in changes if change.unpaired == why]
        lines.append(one_line(f"Not paired ({why}): {', '.join(names)}"))
    return lines


def comparison_markdown(comparison: Comparison, inconclusive_fails: bool = True) -> str:
    """Return a comparison as Markdown.

    Args:
        comparison: what to show.
        inconclusive_fails: whether what cannot be told counts as worse.
    """
    return "\n".join(_markdown(comparison, inconclusive_fails)).rstrip() + "\n"


def _markdown(comparison: Comparison, inconclusive_fails: bool) -> Iterator[str]:
    yield f"# {escape(comparison.model)} against {escape(comparison.baseline)}"
    yield ""
    yield f"**{escape(verdict_line(comparison, inconclusive_fails))}**"
    yield ""
    changed = [c for c in comparison.checks if c.state != "same"]
    lines = [*describe_heads(comparison.heads), *map(describe_check, changed)]
    lines += [f"note: {remark}" for remark in comparison.remarks]
    yield from (f"- {escape(line)}" for line in lines)
    if lines:
        yield ""
    if comparison.metrics:
        yield "## Metrics"
        yield ""
        cells = zip(_metric_rows(comparison.metrics), comparison.metrics)
        rows = [[*row, _limit(change), change.reason or ""] for row, change in cells]
        right = ("Baseline", "Now", "Difference")
        yield from table((*METRIC_HEADER, "Limit", "Why"), rows, right)
        yield ""
        yield (
            "Differences are now minus baseline; intervals hold for all metrics together. "
            "`paired`: on the same tokens, sample by sample; else by both standard errors, and the "
            "cell says why. A metric is worse where its interval lies wholly beyond its limit."
        )
        yield ""
    if comparison.heads:
        yield "## Heads"
        yield ""
        yield from table(
            ("Measurement", "Head", "Score", "Baseline", "Now", "Result"),
            [
                (h.key, h.name, h.kind, *map(_score, (h.baseline, h.value)), h.state)
                for h in comparison.heads
            ],
            ("Baseline", "Now"),
        )


def _metric_rows(changes: list[MetricChange], short: bool = False) -> list[list[str]]:
    """Cells under `METRIC_HEADER`; the suite is left out where there is only one."""
    several = len({Key(change.key).suite for change in changes}) > 1
    return [_metric_row(change, several, short) for change in changes]


def _metric_row(change: MetricChange, with_suite: bool, short: bool) -> list[str]:
    interval = ""
    if change.ci_low is not None and change.ci_high is not None:
        interval = numbers.interval(change.ci_low, change.ci_high, (0.0,))
        if short:
            ends = (numbers.number(end, 2) for end in (change.ci_low, change.ci_high))
            interval = f"[{', '.join(ends)}]"
        elif change.paired:
            interval += " paired"
        elif change.unpaired:
            interval += f" not paired: {change.unpaired}"
    key = change.key if with_suite else Key(change.key).name
    return [
        one_line(f"{key}.{change.metric}"),
        numbers.number(change.baseline),
        "" if change.value is None else numbers.number(change.value),
        "" if change.difference is None else f"{change.difference:+.3g}",
        interval,
        STATES[change.state],
    ]


def _limit(change: MetricChange) -> str:
    """How far the metric may change, and what says so."""
    return "" if change.limit is None else f"{numbers.number(change.allowed)} ({change.limit})"


def describe_check(change: VerdictChange) -> str:
    """Return a sentence about a check that is not what it was.

    Args:
        change: what became of it.
    """
    before = "" if change.before is None else WORDS[change.before]
    after = "gone" if change.after is None else WORDS[change.after]
    why = f" ({change.reason})" if change.reason and change.state != "improved" else ""
    if change.state == "new":
        return f"new check {change.suite}::{change.id}: {after}{why}"
    return f"{change.suite}::{change.id}: {before} -> {after}{why}"


def describe_heads(changes: list[HeadChange]) -> list[str]:
    """Return sentences about heads that are not what they were, with where each was measured.

    Args:
        changes: all heads that were compared.
    """
    several = len({change.key for change in changes}) > 1
    lines = []
    for key, kind in dict.fromkeys((change.key, change.kind) for change in changes):
        own = [c for c in changes if (c.key, c.kind) == (key, kind) and c.state != "kept"]
        lost = [change for change in own if change.state in ("died", "gone")]
        appeared = [change for change in own if change.state == "appeared"]
        if len(lost) == len(appeared) == 1:
            where = f"{key}: " if several else ""
            name = _kind(kind)
            lines.append(f"{where}the {name} head moved from {lost[0].name} to {appeared[0].name}")
        lines += [describe_head(change, several) for change in own]
    return lines


def describe_head(change: HeadChange, with_key: bool) -> str:
    """Return a sentence about a head.

    Args:
        change: what became of it.
        with_key: whether to say in which measurement, because there are several.
    """
    where = f"{change.key}: " if with_key else ""
    now = "no score now" if change.value is None else f"{change.value:.3f}"
    word = _HEAD_WORDS[change.state]
    return f"{where}{_kind(change.kind)} head {change.name} {word}: {change.baseline:.3f} -> {now}"


def _kind(kind: str) -> str:
    return kind.replace("_", "-")


def _score(value: float | None) -> str:
    return "" if value is None else numbers.score(value)


def verdict_line(comparison: Comparison, inconclusive_fails: bool = True) -> str:
    """Return the result in one line.

    Args:
        comparison: the comparison.
        inconclusive_fails: whether what cannot be told counts as worse.
    """
    if comparison.is_empty:
        if comparison.count("not compared"):
            return (
                "NOTHING COMPARED: what the baseline holds was changed or removed in this version "
                "of the suite; renew the baseline"
            )
        return "NOTHING COMPARED: no check was decided both in the baseline and in this run"
    died = len({head.name for head in comparison.died})  # a head that two suites measured is one
    counts = [
        (comparison.count("regressed"), "worse"),
        (comparison.count("vanished"), "gone"),
        (died, "head died" if died == 1 else "heads died"),
        (comparison.count("unclear"), "unclear"),
        (comparison.count("unpaired"), "not paired"),
        (comparison.count("improved"), "better"),
        (comparison.count("changed"), "changed"),
        (comparison.count("not compared"), "not compared"),
        (comparison.count("same"), "the same"),
    ]
    told = ", ".join(f"{count} {word}" for count, word in counts if count)
    word = "no regression" if comparison.passes(inconclusive_fails) else "REGRESSION"
    return f"{word}: {told or 'nothing was compared'}"
