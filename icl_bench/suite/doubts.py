"""What a suite asks that can never come out, and is no mistake in the writing: warnings."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from icl_bench.measures.bounds import Bounds
from icl_bench.probes import MetricInfo
from icl_bench.suite.reach import region_of
from icl_bench.suite.specs import CheckSpec, Support

COUNTED = ("heads", "items", "documents", "steps")
"""Units of what is counted."""
EVERYTHING = (-math.inf, math.inf)
SCORE_RANGES: dict[str, Bounds] = {
    "induction_excess": (-1.0, 1.0),
    "function_vector": (-1.0, 1.0),
    "ov_eigenvalue": (-1.0, 1.0),
    "ov_behaviour": (-1.0, 1.0),
    "delta": EVERYTHING,
    "logit": EVERYTHING,
}
"""Score of a head -> between which numbers it lies; all others are attention, between 0 and 1."""


def range_of(metric: str, info: MetricInfo) -> Bounds:
    """Return between which numbers a metric lies, as far as its name, unit and bounds say.

    Args:
        metric: its name.
        info: what it means.
    """
    if info.bounds is not None:
        return info.bounds
    if "p_value" in metric:
        return (0.0, 1.0)
    if info.unit == "probability":
        return (-1.0, 1.0)  # it may be a difference of two
    if info.unit in COUNTED or metric.endswith(("_loss", "_loss_ablated", "loss_ratio")):
        return (0.0, math.inf)
    return EVERYTHING


def explain_never(metric: str, info: MetricInfo, settings: Any, rule: CheckSpec | Support) -> str:
    """Say why a rule for a metric never holds; "" where it may.

    Args:
        metric: its name.
        info: what it means.
        settings: of the measurement.
        rule: the rule and its threshold, in the metric's unit.
    """
    absent = getattr(settings, "absent", None)  # other packages' settings may lack it
    if why := absent.get(metric) if isinstance(absent, Mapping) else None:
        return f"{metric} is never measured here: {why}"
    (low, high), (lowest, highest) = region_of(rule), range_of(metric, info)
    strict = rule.rule in ("above", "below")
    if low > highest or high < lowest or (strict and (low >= highest or high <= lowest)):
        return f"{metric} {_describe(lowest, highest)}, so this never holds"
    if rule.rule == "equals" and not rule.tolerance and not info.exact and info.unit not in COUNTED:
        return f"{metric} is an estimate, and never surely one number: give a tolerance"
    return ""


def explain_support(
    metric: str, info: MetricInfo, settings: Any, supports: Sequence[Support], place: int
) -> str:
    """Say why an entry of `supports` never speaks for its option; "" where it may.

    Args:
        metric: that decides.
        info: what it means.
        settings: of the measurement.
        supports: all entries, of which the first that holds counts.
        place: of the entry.
    """
    if why := explain_never(metric, info, settings, supports[place]):
        return why
    for number, earlier in enumerate(supports[:place]):
        if earlier.option != supports[place].option and _covers(earlier, supports[place]):
            return f"entry {number + 1} holds wherever this one does, and comes first"
    return ""


def explain_unchosen(score: str, bound: Any) -> str:
    """Say why no head ever has a score within a bound of `where`; "" where one may.

    Args:
        score: its name.
        bound: `above`, `below` or both, as written.
    """
    numbers = {key: value for key, value in bound.items() if isinstance(value, (int, float))}
    low, high = numbers.get("above", -math.inf), numbers.get("below", math.inf)
    lowest, highest = SCORE_RANGES.get(score, (0.0, 1.0))
    if low >= high:
        return f"no {score} is above {low:g} and below {high:g}"
    if low >= highest or high <= lowest:
        return f"{score} {_describe(lowest, highest)}, so no head is ever chosen"
    return ""


def _describe(lowest: float, highest: float) -> str:
    if math.isinf(highest):
        return f"is never below {lowest:g}"
    return f"lies between {lowest:g} and {highest:g}"


def _covers(first: Support, second: Support) -> bool:
    """Whether the first rule holds for every number that the second one holds for."""
    (low, high), (other_low, other_high) = region_of(first), region_of(second)
    if not (low <= other_low and other_high <= high):
        return False
    touches = low == other_low > -math.inf or high == other_high < math.inf
    open_ends, other_open = (one.rule in ("above", "below") for one in (first, second))
    return not touches or not open_ends or other_open
