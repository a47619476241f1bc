"""One part of a comparison -> whether its test fails, passes or is skipped, and one line why."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Literal, NamedTuple

from icl_bench.records.parts import Verdict
from icl_bench.records.record import RunRecord
from icl_bench.render.writing import numbers
from icl_bench.render.writing.text import WORDS, one_line

if TYPE_CHECKING:
    from icl_bench.comparing import Comparison, HeadChange, MetricChange, Part, VerdictChange


class PartVerdict(NamedTuple):
    """What becomes of the test of one part.

    Args:
        state: `skipped` where it cannot be compared.
        line: why it fails or is skipped, without its id; empty where it passes.
    """

    state: Literal["pass", "fail", "skipped"]
    line: str = ""


def judge_part(
    part: Part, found: Comparison, baseline: RunRecord, inconclusive_fails: bool = True
) -> PartVerdict:
    """Return whether one part of a comparison fails its test.

    Args:
        part: the part.
        found: what `compare` found of it alone.
        baseline: what was before.
        inconclusive_fails: whether what cannot be told counts as worse.
    """
    if found.is_worse(inconclusive_fails):
        return PartVerdict("fail", one_line("; ".join(_failures(found, inconclusive_fails))))
    if part.suite not in {suite.name for suite in baseline.suites}:
        return PartVerdict("skipped", f"the baseline does not hold suite {part.suite}")
    if part.kind == "heads":
        why = _why_no_heads(part, found, baseline)
    elif part.kind == "complete":
        why = None
    else:
        why = _why_not_compared(found)
    return PartVerdict("pass") if why is None else PartVerdict("skipped", one_line(why))


def _failures(found: Comparison, strict: bool) -> Iterator[str]:
    """What is worse, metrics first: a verdict that changed with its metric says no more."""
    bad = ("regressed", "vanished", "unpaired", *(("unclear",) if strict else ()))
    metrics = [change for change in found.metrics if change.state in bad]
    yield from map(describe_metric, metrics)
    for change in found.checks:
        if change.state not in bad:
            continue
        if change.after is None:
            yield f"check {change.suite}::{change.id} is gone"
        else:
            yield _verdicts(change) + ("" if metrics else _because(change.reason))
    yield from map(_died, found.died)


def _died(head: HeadChange) -> str:
    now = "no score now" if head.value is None else f"{head.value:.3f} now"
    return (
        f"{head.key}: {head.kind.replace('_', '-')} head {head.name} died: {head.baseline:.3f} in "
        f"the baseline, {now}, threshold {numbers.number(head.threshold)}"
    )


def describe_metric(change: MetricChange) -> str:
    """Return in one line what became of a metric: values, limit and reason.

    Args:
        change: what became of it.
    """
    name = f"{change.key}.{change.metric}"
    before = numbers.number(change.baseline)
    if change.value is None:
        return f"{name}: {before} in the baseline, gone now{_because(change.reason)}"
    told = f"{name}: {before} in the baseline, {numbers.number(change.value)} now"
    if change.state != "regressed":
        return told + _because(change.reason)
    limit = f"allowed {numbers.number(change.allowed)} ({change.limit})"
    interval = ""
    if change.ci_low is not None and change.ci_high is not None:
        interval = f" {numbers.interval(change.ci_low, change.ci_high, (0.0,))}"
        interval += " paired" if change.paired else ""
    pairing = f", not paired: {change.unpaired}" if change.unpaired else ""
    return f"{told}, change {change.difference:+.3g}{interval}, {limit}{pairing}"


def _verdicts(change: VerdictChange) -> str:
    return f"{_word(change.before)} -> {_word(change.after)}"


def _word(verdict: Verdict | None) -> str:
    return "none" if verdict is None else WORDS[verdict]


def _because(reason: str | None) -> str:
    return f" ({reason})" if reason else ""


def _why_no_heads(part: Part, found: Comparison, baseline: RunRecord) -> str | None:
    """Why heads of a measurement are not compared; None where they are."""
    if found.heads_left_out:
        return next(iter(found.heads_left_out.values()))
    before = baseline.measurements.get(f"{part.suite}/{part.name}")
    if before is None or not before.heads:
        return "the baseline has no heads of this measurement"
    return None


def _why_not_compared(found: Comparison) -> str | None:
    """Why neither a verdict nor a metric of a check is compared; None where one is."""
    metrics = [one for one in found.metrics if one.state in ("same", "improved")]
    if metrics or any(change.tells and change.state != "unclear" for change in found.checks):
        return None
    for change in found.checks:
        if change.state == "new":
            return "not in the baseline"
        if change.state == "not compared":
            return f"not compared: {change.reason}"
    for metric in found.metrics:
        return f"cannot be compared: {describe_metric(metric)}"
    for change in found.checks:
        return f"cannot be compared: {_verdicts(change)}{_because(change.reason)}"
    return "not in the baseline"
