"""How much worse a metric may get where nobody gave a limit: changes below it matter to nobody.

Every default is 2% of something, and at least .02. docs/baselines.md has the table and
the reasons.
"""

from __future__ import annotations

from typing import NamedTuple

from icl_bench.probes import MetricInfo, kind_of
from icl_bench.records.record import RunRecord

SHARE = 0.02
"""What is ignored: of the gain, of a ratio, of a score between 0 and 1, or in nats of text."""

_COUNTED = ("heads", "items", "documents")
"""Units whose every single one matters."""


class Allowed(NamedTuple):
    """How far a metric may change one way.

    Args:
        amount: in the metric's unit.
        rule: what says so: a default, rounding, or the limit that was given.
    """

    amount: float
    rule: str


def default_limit(
    baseline: RunRecord, key: str, name: str, info: MetricInfo | None, rounded: float
) -> Allowed:
    """Return the change that is ignored where no limit is given; never less than rounding makes.

    Args:
        baseline: what was before.
        key: `SUITE/MEASUREMENT`, one of the baseline's.
        name: one of its metrics.
        info: what the probe says of the metric; None where it is not known.
        rounded: how far rounding alone may move the metric, in its unit.
    """
    found = _ignored(baseline, key, name, info)
    return found if found.amount >= rounded else Allowed(rounded, "default: rounding")


def _ignored(baseline: RunRecord, key: str, name: str, info: MetricInfo | None) -> Allowed:
    measurement, unit = baseline.measurements[key], info.unit if info else ""
    if unit in _COUNTED:
        return Allowed(0.0, "default: no count may fall")
    if unit == "nats" and kind_of(measurement.probe) == "texts":
        # A text's loss is compared with itself: 2% of its perplexity.
        return Allowed(SHARE, "default")
    gain = _gain(baseline, key)
    if unit == "nats" and gain is not None:
        return _share_of(gain, "the gain")
    clean = measurement.metrics.get("repeated_loss")
    if name.endswith("_ratio") and gain is not None and clean is not None and clean.value > 0:
        # A loss ratio grows without bound as the clean loss goes to 0, and moves with it: a change
        # of the clean loss that is ignored by itself must not count here.
        clean_loss, ignored = clean.value, SHARE * max(1.0, abs(gain))
        moved = measurement.metrics[name].value * ignored / (clean_loss + ignored)
        return Allowed(abs(moved), "default: 2% of the gain added to the clean loss")
    return _share_of(measurement.metrics[name].value, "the baseline's value")


def _share_of(value: float, what: str) -> Allowed:
    """2% of something, at least of 1: near 0 a share of it would be nothing."""
    if abs(value) > 1:
        return Allowed(SHARE * abs(value), f"default: {SHARE:.0%} of {what}")
    return Allowed(SHARE, "default")


def _gain(baseline: RunRecord, key: str) -> float | None:
    """The gain on repeats, in nats, by this measurement, else by another one of its suite."""
    suite = key.partition("/")[0]
    others = [other for other in baseline.measurements if other.partition("/")[0] == suite]
    for one in (key, *others):
        measurement = baseline.measurements[one]
        if kind_of(measurement.probe) == "ablations" and "gain" in measurement.metrics:
            return measurement.metrics["gain"].value
    return None
