"""Which heads died, moved or appeared between two records."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection, Iterator
from dataclasses import dataclass, replace
from typing import Any, Literal

from icl_bench.comparing.parts import Owners, Part, is_asked
from icl_bench.comparing.rounding import rounding_floor
from icl_bench.comparing.settings import differing_settings
from icl_bench.measures.statistics import student_t
from icl_bench.records.parts import Measurement, ModelInfo
from icl_bench.records.record import RunRecord

HEAD_PROBE = "induction"
"""The probe that scores heads."""
KINDS = ("induction", "previous_token")
"""Scores by which a head is one of the circuit's."""
THRESHOLD = 0.4
"""Where the settings name none."""

HeadState = Literal["died", "gone", "moved", "weaker", "kept", "stronger", "appeared"]


@dataclass(frozen=True)
class HeadChange:
    """One head that has the score in either record.

    Args:
        key: `SUITE/MEASUREMENT`.
        kind: `induction` or `previous_token`.
        layer: the head's layer.
        head: its number in the layer.
        state: `died` (fell below the threshold) and `gone` (has no score now) fail a gate; all but
            `gone` and `kept` are changes beyond noise. `moved` has exchanged its score with another
            head of its layer: heads of a layer have no order, and the model may be the same.
        baseline: score before, a probability.
        value: score now; None when it is gone.
        threshold: above it a head has the score.
    """

    key: str
    kind: str
    layer: int
    head: int
    state: HeadState
    baseline: float
    value: float | None
    threshold: float = THRESHOLD

    @property
    def name(self) -> str:
        """`LAYER.HEAD`."""
        return f"{self.layer}.{self.head}"


def compare_heads(
    baseline: RunRecord, record: RunRecord, parts: Collection[Part] | None = None
) -> tuple[list[HeadChange], dict[str, str]]:
    """Compare heads above the threshold, score by score, where both records are of one shape.

    Scores of one head are compared by their standard errors as if on other tokens, which on the
    same tokens errs towards `kept`; the intervals of all heads compared hold together.

    Args:
        baseline: what was before.
        record: what is now.
        parts: what is compared; None for everything.

    Returns:
        the heads; and key of a measurement whose heads are not compared -> why.
    """
    changes: list[HeadChange] = []
    left_out: dict[str, str] = {}
    owners = Owners.of_records(baseline, record)
    floor = rounding_floor(baseline.model, record.model)
    for key, before in baseline.measurements.items():
        after = record.measurements.get(key)
        if before.probe != HEAD_PROBE or not before.heads:
            continue
        if not is_asked(parts, owners.of_heads(key)):
            continue
        if any(
            change.key != key and _same(baseline, record, key, change.key) for change in changes
        ):
            continue  # two suites share a measurement
        why: str | None = "not measured now"
        if after is not None:
            why = _differ(before, after, baseline.model, record.model)
        if after is None or why is not None:
            left_out[key] = why or ""
            continue
        for kind in KINDS:
            changes += _without_moves(list(_compare_kind(key, kind, before, after, floor)), floor)
    return changes, left_out


def _differ(before: Measurement, after: Measurement, old: ModelInfo, new: ModelInfo) -> str | None:
    """Why heads of two measurements do not belong together; None where they do."""
    if after.status != "measured":
        return after.reason or after.status
    if differing := differing_settings(before, after):
        return f"settings differ ({differing})"
    if _places(before) == _places(after):
        return None
    if None not in (old.layers, old.heads) and (old.layers, old.heads) == (new.layers, new.heads):
        return None  # the same model's shape, from which rows are missing
    return f"{_shape(before)} before, {_shape(after)} now"


def _compare_kind(
    key: str, kind: str, before: Measurement, after: Measurement, floor: float
) -> Iterator[HeadChange]:
    bound = float(before.settings.get("threshold", THRESHOLD)) if kind == "induction" else THRESHOLD
    now = {(row["layer"], row["head"]): row for row in after.heads if kind in row}
    rows = [row for row in before.heads if kind in row]
    pairs = [
        (row, new) for row in rows if (new := now.get((row["layer"], row["head"]))) is not None
    ]
    pairs = [(a, b) for a, b in pairs if max(a[kind], b[kind]) > bound]
    n = min(int(measured.settings.get("sequences", 2)) for measured in (before, after))
    for old, new in pairs:
        spread = _spread(old, new, kind)
        state: HeadState = "kept"
        if spread is not None:  # one sequence cannot tell
            half = student_t(max(n - 1, 1), comparisons=len(pairs)) * spread
            state = _judge(old[kind], new[kind], max(half, floor), bound)
        yield HeadChange(key, kind, old["layer"], old["head"], state, old[kind], new[kind], bound)
    for row in rows:
        if row[kind] > bound and (row["layer"], row["head"]) not in now:
            yield HeadChange(key, kind, row["layer"], row["head"], "gone", row[kind], None, bound)


def _without_moves(changes: list[HeadChange], floor: float) -> list[HeadChange]:
    """The changes with `moved` in place of a head that died and one that has its score now."""
    changes = list(changes)
    for place, lost in enumerate(changes):
        for other, new in enumerate(changes):
            if (lost.state, new.state, lost.layer) != ("died", "appeared", new.layer):
                continue
            assert lost.value is not None and new.value is not None
            if max(abs(new.value - lost.baseline), abs(lost.value - new.baseline)) <= floor:
                changes[place], changes[other] = (
                    replace(one, state="moved") for one in (lost, new)
                )
                break
    return changes


def _judge(old: float, new: float, half: float, bound: float) -> HeadState:
    if abs(new - old) <= half:
        return "kept"
    if new < old:
        return "died" if new <= bound < old else "weaker"
    return "appeared" if old <= bound < new else "stronger"


def _spread(old: dict[str, Any], new: dict[str, Any], kind: str) -> float | None:
    name = f"{kind}_stderr"
    return math.hypot(old[name], new[name]) if name in old and name in new else None


def _places(measurement: Measurement) -> set[tuple[int, int]]:
    return {(row["layer"], row["head"]) for row in measurement.heads}


def _shape(measurement: Measurement) -> str:
    """`2 layers x 12 heads`, or how many heads in how many layers where layers differ."""
    per_layer = Counter(layer for layer, _ in _places(measurement))
    if not per_layer:
        return "no heads"
    layers = "1 layer" if len(per_layer) == 1 else f"{len(per_layer)} layers"
    sizes = set(per_layer.values())
    if len(sizes) == 1:
        return f"{layers} x {sizes.pop()} heads"
    return f"{per_layer.total()} heads in {layers}"


def _same(baseline: RunRecord, record: RunRecord, key: str, other: str) -> bool:
    """Whether two keys are of one measurement, in both records."""
    old, new = baseline.measurements, record.measurements
    now = key in new and other in new and new[key].heads == new[other].heads
    return now and old[key].heads == old[other].heads
