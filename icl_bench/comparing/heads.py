"""Which heads died, moved or appeared between two records."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

from icl_bench.comparing.metrics import differing_settings
from icl_bench.measures.statistics import student_t
from icl_bench.record import Measurement, RunRecord

KINDS = ("induction", "previous_token")
"""Scores by which a head is one of the circuit's."""
THRESHOLD = 0.4
"""Where the settings name none."""

HeadState = Literal["died", "weaker", "kept", "stronger", "appeared"]


@dataclass(frozen=True)
class HeadChange:
    """One head that has the score in either record.

    Args:
        key: `SUITE/MEASUREMENT`.
        kind: `induction` or `previous_token`.
        layer: the head's layer.
        head: its number in the layer.
        state: `died` (fell below the threshold) fails a gate; all but `kept` are beyond noise.
        baseline: score before, a probability.
        value: score now.
    """

    key: str
    kind: str
    layer: int
    head: int
    state: HeadState
    baseline: float
    value: float

    @property
    def name(self) -> str:
        """`LAYER.HEAD`."""
        return f"{self.layer}.{self.head}"


def compare_heads(baseline: RunRecord, record: RunRecord) -> list[HeadChange]:
    """Compare heads above the threshold, score by score, where both records have them.

    Scores of one head are compared by their standard errors as if on other tokens, which on the
    same tokens errs towards `kept`; the intervals of all heads compared hold together.

    Args:
        baseline: what was before.
        record: what is now.
    """
    found: list[HeadChange] = []
    for key, before in baseline.measurements.items():
        after = record.measurements.get(key)
        if before.probe != "induction" or after is None or differing_settings(before, after):
            continue
        if _shape(before) != _shape(after):
            continue  # another model: its heads have other names
        if any(change.key != key and _same(before, baseline, change.key) for change in found):
            continue  # two suites share a measurement
        for kind in KINDS:
            found += _compare_kind(key, kind, before, after)
    return found


def _compare_kind(
    key: str, kind: str, before: Measurement, after: Measurement
) -> Iterator[HeadChange]:
    bound = float(before.settings.get("threshold", THRESHOLD)) if kind == "induction" else THRESHOLD
    now = {(row["layer"], row["head"]): row for row in after.heads}
    pairs = [
        (row, now[row["layer"], row["head"]])
        for row in before.heads
        if kind in row and kind in now[row["layer"], row["head"]]
    ]
    pairs = [(a, b) for a, b in pairs if max(a[kind], b[kind]) > bound]
    n = min(int(one.settings.get("sequences", 2)) for one in (before, after))
    for old, new in pairs:
        spread = _spread(old, new, kind)
        state: HeadState = "kept"
        if spread is not None:  # one sequence cannot tell
            half = student_t(max(n - 1, 1), comparisons=len(pairs)) * spread
            state = _judge(old[kind], new[kind], half, bound)
        yield HeadChange(key, kind, old["layer"], old["head"], state, old[kind], new[kind])


def _judge(old: float, new: float, half: float, bound: float) -> HeadState:
    if abs(new - old) <= half:
        return "kept"
    if new < old:
        return "died" if new <= bound < old else "weaker"
    return "appeared" if old <= bound < new else "stronger"


def _spread(old: dict[str, Any], new: dict[str, Any], kind: str) -> float | None:
    name = f"{kind}_stderr"
    return math.hypot(old[name], new[name]) if name in old and name in new else None


def _shape(measurement: Measurement) -> list[tuple[int, int]]:
    return [(row["layer"], row["head"]) for row in measurement.heads]


def _same(measurement: Measurement, record: RunRecord, key: str) -> bool:
    return record.measurements[key].heads == measurement.heads
