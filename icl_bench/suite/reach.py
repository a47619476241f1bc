"""Checks that no data could pass: for too few samples, or for what is not measured at all."""

from __future__ import annotations

import math
from typing import Any

from icl_bench.measures.bounds import CONFIDENCE, Bounds, can_lie_within, unseen_share
from icl_bench.probes import MetricInfo
from icl_bench.suite.specs import CheckSpec, Support

MOST = 1_000_000
"""Samples up to which a number that is enough is looked for."""


def explain_unreachable(
    metric: str, info: MetricInfo, settings: Any, rule: CheckSpec | Support
) -> str | None:
    """Say why a rule can never pass and what would be right; None where it can pass.

    The interval of a bounded mean has a width even where every sample has the same value. Nothing
    is said of metrics without bounds, of exact ones, and of measurements whose settings do not tell
    the number of samples.

    Args:
        metric: its name.
        info: what it means.
        settings: of the measurement.
        rule: the rule and its threshold, in the metric's unit.
    """
    if info.needs is not None and not getattr(settings, info.needs):
        wanted = "true" if getattr(settings, info.needs) is False else "19"
        return f"{metric} is not measured without {info.needs}: give {info.needs}: {wanted}"
    samples = getattr(settings, "independent_samples", None)
    if info.bounds is None or info.exact or samples is None:
        return None
    (name, count), (lowest, highest) = samples, info.bounds
    confidence: float = getattr(settings, "confidence", CONFIDENCE)
    region, strict = region_of(rule), rule.rule in ("above", "below")

    def passes(number: int) -> bool:
        return can_lie_within(region, (lowest, highest), number, confidence, strict)

    if passes(count):
        return None
    width = unseen_share(count, confidence) * (highest - lowest)
    interval = f"with {name}: {count} its {100 * confidence:.4g}% interval"
    if math.isinf(region[1]):
        best = math.floor(1000 * (highest - width)) / 1000
        why = f"{interval} reaches down to {best:g} even where every value is {highest:g}"
        other = f"a threshold below {best:g}"
    elif math.isinf(region[0]):
        best = math.ceil(1000 * (lowest + width)) / 1000
        why = f"{interval} reaches up to {best:g} even where every value is {lowest:g}"
        other = f"a threshold above {best:g}"
    else:
        why = f"{interval} is {width:.3f} wide or wider, too wide to lie within"
        other = "a wider range"
    enough = next((n for n in _doubling(count) if passes(n)), None)
    if enough is not None:
        few = enough // 2
        while enough - few > 1:
            middle = (few + enough) // 2
            few, enough = (few, middle) if passes(middle) else (middle, enough)
        other = f"{name}: {enough} or more, or {other}"
    return f"{metric} can never pass {rule.rule}: {_show(rule.threshold)}: {why}; give {other}"


def _doubling(count: int) -> list[int]:
    numbers = [2 * count]
    while numbers[-1] < MOST:
        numbers.append(2 * numbers[-1])
    return numbers


def _show(threshold: float | list[float]) -> str:
    if isinstance(threshold, list):
        return f"[{threshold[0]:g}, {threshold[1]:g}]"
    return f"{threshold:g}"


def region_of(rule: CheckSpec | Support) -> Bounds:
    """Return between which numbers a rule holds; it may leave out the ends.

    Args:
        rule: with its threshold.
    """
    threshold = rule.threshold
    if isinstance(threshold, list):
        return threshold[0], threshold[1]
    if rule.rule == "equals":
        return threshold - (rule.tolerance or 0), threshold + (rule.tolerance or 0)
    return (threshold, math.inf) if rule.rule in ("above", "at_least") else (-math.inf, threshold)
