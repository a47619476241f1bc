"""How much worse a metric may get: `induction_max=0.05`, `repeated_loss=5%`, `gain=noise`."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Literal

from icl_bench.comparing.defaults import Allowed
from icl_bench.errors import SettingsError

Way = Literal["up", "down"]

FORM = "METRIC=AMOUNT, as in induction_max=0.05, repeated_loss=5% or gain=noise"


@dataclass(frozen=True)
class Limit:
    """What a metric may lose against the baseline.

    Args:
        pattern: metric's name, `MEASUREMENT.METRIC` or `SUITE/MEASUREMENT.METRIC`; `*` stands for
            anything.
        amount: allowed change for the worse, in the metric's unit, or a share when `relative`;
            None for whatever noise and rounding make.
        relative: whether `amount` is a share of the baseline's value.
        worse: the way that is limited, beside the metric's own; None for the metric's own, or
            both where it has none.
        text: how it was given.
    """

    pattern: str
    amount: float | None = None
    relative: bool = False
    worse: Way | None = None
    text: str = ""

    def names(self, key: str, metric: str) -> bool:
        """Whether the limit is for a metric.

        Args:
            key: `SUITE/MEASUREMENT`.
            metric: the metric's name.
        """
        names = (metric, f"{key.partition('/')[2]}.{metric}", f"{key}.{metric}")
        return any(fnmatchcase(name, self.pattern) for name in names)

    @property
    def is_exact(self) -> bool:
        """Whether it names one metric, and does not stand for many."""
        return not any(sign in self.pattern for sign in "*?[")

    def allowed(self, baseline: float, rounding: float) -> Allowed:
        """Return the allowed change for the worse, in the metric's unit.

        Args:
            baseline: the baseline's value.
            rounding: what is allowed where no amount was given.
        """
        amount = rounding if self.amount is None else self.amount
        return Allowed(amount * abs(baseline) if self.relative else amount, f"given: {self.text}")


def parse_limit(text: str) -> Limit:
    """Read a limit.

    Args:
        text: `METRIC=AMOUNT`; the amount is a number, a percentage of the baseline's value, or
            `noise`; with `-` in front it limits a fall, with `+` a rise.

    Raises:
        SettingsError: it is not of this form.
    """
    pattern, equals, amount = text.partition("=")
    pattern, amount = pattern.strip(), amount.strip()
    if not equals or not pattern or not amount:
        raise SettingsError(f"limit {text!r}: expected {FORM}")
    worse: Way | None = {"-": "down", "+": "up"}.get(amount[0])  # type: ignore[assignment]
    number = amount[1:] if worse else amount
    if number == "noise":
        return Limit(pattern, worse=worse, text=text)
    relative = number.endswith("%")
    try:
        value = float(number.removesuffix("%"))
    except ValueError:
        value = math.nan
    if not 0 <= value < math.inf:
        raise SettingsError(f"limit {text!r}: {amount!r} is not an amount; expected {FORM}")
    return Limit(pattern, value / 100 if relative else value, relative, worse, text)


def allowances(
    limits: Sequence[Limit],
    key: str,
    metric: str,
    better: Way | None,
    baseline: float,
    default: Allowed,
    rounding: float,
) -> dict[Way, Allowed]:
    """Return how far a metric may change, for each way that is judged, in its own unit.

    Judged is the metric's own way for the worse, both where it has none, and beside it each way
    that a limit with a sign names. Of several limits of one way the last counts.

    Args:
        limits: in the order given.
        key: `SUITE/MEASUREMENT`.
        metric: the metric's name.
        better: the metric's better way; None where neither is.
        baseline: the baseline's value.
        default: what is allowed where no limit was given.
        rounding: what is allowed where a limit gives no amount: `noise`.
    """
    fitting = [limit for limit in limits if limit.names(key, metric)]
    signed = {limit.worse for limit in fitting}
    own: set[Way] = {"up", "down"} - {better}  # type: ignore[assignment]
    if better is None and None not in signed and signed:
        own = set()  # a metric without a better way is judged the way that was asked for
    allowed: dict[Way, Allowed] = dict.fromkeys(sorted(own), default)
    for limit in fitting:
        for way in own if limit.worse is None else {limit.worse}:
            allowed[way] = limit.allowed(baseline, rounding)
    return allowed
