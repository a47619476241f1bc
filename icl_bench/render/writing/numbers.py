"""How numbers, intervals and rules are written, the same everywhere they are shown."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

_SIGNS = {"above": ">", "below": "<", "at_least": "≥", "at_most": "≤"}


def number(value: float, digits: int = 3) -> str:
    """Return `value` as short text: 0.902, 13.95, 4.41, 135.2, 5, 1.2e-05.

    Trailing zeros stay where rounding took something away (0.8996 is "0.900") and go where it
    did not (0.4 is "0.4", a count of 5.0 is "5").

    Args:
        value: a finite number.
        digits: significant digits of values below 1; larger ones keep `digits - 1` decimals, and
            one decimal fewer from 100 on.
    """
    value = float(value)
    if not math.isfinite(value):
        return "not a number"
    size = abs(value)
    if value == int(value) and size < 1e7:
        return str(int(value))
    if size < 1e-4 or size >= 1e6:
        return f"{value:.{max(digits - 2, 1)}e}"
    # math.floor(log10) of 0.0999 is -2: its first digit stands in the second decimal place.
    decimals = digits - 1 - math.floor(math.log10(size)) if size < 1 else digits - 1
    if size >= 100:
        decimals -= 1 if size < 1000 else decimals
    text = f"{value:.{max(decimals, 0)}f}"
    if "." in text and math.isclose(float(text), value, rel_tol=1e-9):
        text = text.rstrip("0").rstrip(".")
    return text


def score(value: float) -> str:
    """Return a score between 0 and 1, or a difference of two, with three decimals."""
    text = f"{value:.3f}"
    return text.lstrip("-") if float(text) == 0 else text


def stderr(value: float) -> str:
    """Return a standard error as text with two significant digits."""
    return number(value, digits=2)


def apart(value: float, others: Iterable[float]) -> str:
    """Return `value` with as many digits as it takes to look different from unequal `others`.

    A reason such as "required < 0.05, measured 0.05" would make no sense.

    Args:
        value: the number to write.
        others: the numbers it is compared with.
    """
    rivals = [other for other in others if other != value]
    for text in (number(value), *(f"{value:.{digits}g}" for digits in range(4, 17))):
        if all(
            float(text) != rival and (float(text) < rival) == (value < rival) for rival in rivals
        ):
            return text
    return repr(value)


def interval(low: float, high: float, bounds: Iterable[float] = ()) -> str:
    """Return an interval as text, its ends distinct from `bounds`."""
    bounds = tuple(bounds)
    return f"[{apart(low, bounds)}, {apart(high, bounds)}]"


def estimate(value: float, error: float | None, bounds: Iterable[float] = ()) -> str:
    """Return `value ± error`, or the value alone when there is no standard error."""
    text = apart(value, bounds)
    return text if error is None else f"{text} ± {stderr(error)}"


def count(number_of: int) -> str:
    """Return a count with thousands separators."""
    return f"{number_of:,}"


def rule(name: str, threshold: Any) -> str:
    """Return a rule and its threshold in short: `> 0.4`, `0.2 – 0.4`, `= 5 ± 1`.

    Args:
        name: above, below, at_least, at_most, between or equals.
        threshold: the rule's number, its two numbers, or `{"value": ..., "tolerance": ...}`.
    """
    # Those of a quiz item's options are not looked at when a record is read.
    if name == "between" and isinstance(threshold, (list, tuple)) and len(threshold) == 2:
        return f"{_side(threshold[0])} – {_side(threshold[1])}"
    if name == "equals":
        if isinstance(threshold, dict) and {"value", "tolerance"} <= threshold.keys():
            return f"= {_side(threshold['value'])} ± {_side(threshold['tolerance'])}"
        return f"= {_side(threshold)}"
    return f"{_SIGNS.get(name, name)} {_side(threshold)}"


def _side(value: Any) -> str:
    """A threshold was chosen, not measured: it is written in full."""
    return f"{value:.10g}" if isinstance(value, (int, float)) else str(value)
