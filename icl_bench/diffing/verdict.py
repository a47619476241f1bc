"""The result of a diff in a sentence or two, for the first line of every report."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from icl_bench.comparing import Comparison, HeadChange, MetricChange
from icl_bench.render.writing import numbers

if TYPE_CHECKING:
    from icl_bench.diffing.difference import Diff

FIRST = ("gain", "gain_varied", "text_loss", "accuracy", "copying_lost", "induction_max")
"""Metrics in the order in which the sentence prefers them."""
NAMED = 4
"""Heads that a sentence names of each kind and state."""
MOST = 0.5
"""Share from which on a place explains what was lost."""
_BETTER = ("improved",)
_WORSE = ("regressed", "vanished", "unpaired", "unclear")


def write_verdict(diff: Diff) -> str:
    """Return the result of a diff: what is worse, which heads changed, and what explains it.

    Args:
        diff: the result.
    """
    a, b = diff.names
    found = diff.comparison
    if not diff.passes:
        told = [
            *_metrics(found.metrics, ("regressed",)),
            *_heads(found.heads, ("died", "gone", "weaker")),
        ]
        told = told or _other(found)
        return f"REGRESSION: {b} is worse than {a}: {'; '.join(told)}.{_cause(diff)}"
    changed = [
        *_metrics(found.metrics, _BETTER),
        *_heads(found.heads, ("appeared", "weaker", "stronger")),
    ]
    if changed:
        return f"No regression from {a} to {b}, but a change: {'; '.join(changed)}."
    return f"No change beyond noise from {a} to {b}{_seen(found.metrics)}."


def _order(change: MetricChange) -> int:
    return FIRST.index(change.metric) if change.metric in FIRST else len(FIRST)


def _metrics(changes: Sequence[MetricChange], states: Sequence[str]) -> list[str]:
    chosen = sorted((one for one in changes if one.state in states), key=_order)
    told = []
    for one in chosen[:2]:
        value = "gone" if one.value is None else numbers.number(one.value)
        share = ""
        if one.difference is not None and abs(one.baseline) > 1e-9:
            share = f" ({one.difference / abs(one.baseline):+.0%})"
        told.append(f"{one.metric} {numbers.number(one.baseline)} -> {value}{share}")
    if len(chosen) > 2:
        told.append(f"{len(chosen) - 2} more metrics")
    return told


def _heads(changes: Sequence[HeadChange], states: Sequence[str]) -> list[str]:
    told = []
    for kind in dict.fromkeys(one.kind for one in changes):
        lost, new = (
            [one for one in changes if one.kind == kind and one.state in some]
            for some in (("died", "gone"), ("appeared",))
        )
        name = kind.replace("_", "-")
        if len(lost) == len(new) == 1 and lost[0].state in states:
            told.append(f"the {name} head moved from {lost[0].name} to {new[0].name}")
            continue
        for state in states:
            heads = [one for one in changes if (one.kind, one.state) == (kind, state)]
            heads = list({one.name: one for one in heads}.values())
            if heads:
                words = ", ".join(f"{one.name} ({_scores(one)})" for one in heads[:NAMED])
                rest = f" and {len(heads) - NAMED} more" if len(heads) > NAMED else ""
                plural = "heads" if len(heads) > 1 else "head"
                did = {"gone": "lost its score", "weaker": "weakened", "stronger": "strengthened"}
                told.append(f"{name} {plural} {words}{rest} {did.get(state, state)}")
    return told


def _scores(one: HeadChange) -> str:
    now = "none" if one.value is None else f"{one.value:.2f}"
    return f"{one.baseline:.2f} -> {now}"


def _other(found: Comparison) -> list[str]:
    """What is worse where it is neither a metric beyond its limit nor a head that died."""
    told = [
        f"check {one.suite}::{one.id}: {one.before} -> {one.after or 'gone'}"
        for one in found.checks
        if one.state in _WORSE
    ]
    told += [
        f"{one.key}.{one.metric}: {one.reason or one.state}"
        for one in found.metrics
        if one.state in _WORSE
    ]
    more = f"{len(told) - 2} more" if len(told) > 2 else ""
    return [*told[:2], *filter(None, [more])]


def _cause(diff: Diff) -> str:
    cause = diff.cause
    what = "the lost copying" if diff.lost == "copying" else "the loss on text"
    if cause is None:
        return " No single layer restored brings it back." if diff.restored else ""
    best = cause.restored
    if best.share < MOST:
        return (
            f" No single place explains it: {best.place.name}, restored from {diff.names[0]}, "
            f"brings back {_share(best.share, best.ci_low, best.ci_high)} of {what}, no other more."
        )
    mostly = ""
    if cause.mostly is not None:
        mostly = f" ({cause.mostly.place.name} alone: {cause.mostly.share:.0%})"
    own = [
        one.state
        for one in diff.comparison.heads
        if best.place.kind == "head"
        and (one.layer, one.head) == (best.place.layer, best.place.head)
    ]
    unchanged = ", though its own scores are the same" if set(own) == {"kept"} else ""
    return (
        f" Explained by {best.place.name}{unchanged}: restored from {diff.names[0]} it brings back "
        f"{_share(best.share, best.ci_low, best.ci_high)} of {what}{mostly}."
    )


def _share(share: float, low: float | None, high: float | None) -> str:
    if low is None or high is None or high - low < 0.01:
        return f"{share:.0%}"
    return f"{share:.0%} [{low:.0%}, {high:.0%}]"


def _seen(changes: Sequence[MetricChange]) -> str:
    """The smallest change of the main metrics that would have been seen."""
    told: list[str] = []
    for one in sorted(changes, key=_order):
        seen = one.seen
        if seen is not None and one.metric in FIRST and len(told) < 2:
            share = f" ({seen / abs(one.baseline):.1%})" if abs(one.baseline) > 1 else ""
            told.append(f"of {one.metric} by {numbers.number(seen, 2)}{share}")
    if not told:
        return ""
    return f"; a change {' or '.join(told)} would have been seen"
