"""One metric in two records: is the difference for the worse, and more than noise?"""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Literal

from icl_bench.comparing.defaults import Allowed, default_limit
from icl_bench.comparing.limits import Limit, Way, allowances
from icl_bench.comparing.pairing import Unpaired, why_unpaired
from icl_bench.comparing.parts import Owners, Part, is_asked
from icl_bench.comparing.rounding import rounding, rounding_floor
from icl_bench.comparing.settings import differing_settings
from icl_bench.comparing.versions import changed_measurement, find_renewed
from icl_bench.errors import IclError, SettingsError, nearest
from icl_bench.measures.statistics import student_t
from icl_bench.probes import MetricInfo, get_probe
from icl_bench.probes.design.sequential import looks_of
from icl_bench.records.keys import Key
from icl_bench.records.parts import Measurement, Metric
from icl_bench.records.record import RunRecord

State = Literal["regressed", "improved", "same", "vanished", "unclear", "unpaired", "not compared"]


@dataclass(frozen=True)
class MetricChange:
    """What became of one metric.

    Args:
        key: `SUITE/MEASUREMENT`.
        metric: its name.
        state: `regressed` and `vanished` fail a gate, `unpaired` (where pairs are required) too;
            `not compared` is another one in a later version of a shipped suite.
        baseline: value in the baseline.
        value: value now; None when it is gone.
        difference: value - baseline.
        ci_low: lower end of the difference's interval; None when exact or unknown.
        ci_high: upper end.
        paired: whether the interval is that of differences on the same tokens.
        allowed: change that is allowed beside noise, in the metric's unit: the way it went where
            that is judged, else for the worse.
        limit: what says so: the limit that was given, as it was given, or a default.
        reason: why, where the numbers do not say it.
        unpaired: why it is not paired; None where it is, and of exact numbers.
    """

    key: str
    metric: str
    state: State
    baseline: float
    value: float | None = None
    difference: float | None = None
    ci_low: float | None = None
    ci_high: float | None = None
    paired: bool = False
    allowed: float = 0.0
    limit: str | None = None
    reason: str | None = None
    unpaired: str | None = None

    @property
    def seen(self) -> float | None:
        """The smallest change that would have been seen: what is allowed and half of the interval
        together; None where that is not known."""
        if self.difference is None or self.state in ("unclear", "not compared"):
            return None
        known = self.ci_low is not None and self.ci_high is not None
        half = (self.ci_high - self.ci_low) / 2 if known else 0.0  # type: ignore[operator]
        return self.allowed + half


@dataclass(frozen=True)
class _Rules:
    """How far a metric may move: by limits, by rounding (`floor`), and by noise."""

    baseline: RunRecord
    record: RunRecord
    limits: Sequence[Limit]
    floor: float
    confidence: float
    require_paired: bool


def compare_metrics(
    baseline: RunRecord,
    record: RunRecord,
    limits: Sequence[Limit] = (),
    parts: Collection[Part] | None = None,
    *,
    require_paired: bool = False,
) -> list[MetricChange]:
    """Compare every metric that a check of the baseline reads or a limit names exactly.

    Of a suite without checks these are all metrics of which it is known which way is better.

    A metric regresses when the interval of its difference lies wholly beyond what its limit
    allows. The intervals hold together: m metrics have 1 - 0.05/m each (Bonferroni), so that a
    model that has not changed fails at most one time in twenty. A part of them is judged as it is
    among all.

    Args:
        baseline: what was before.
        record: what is now.
        limits: how much worse metrics may get; `default_limit` where none is given.
        parts: what is compared; None for everything.
        require_paired: whether a metric fails that could be paired and is not.

    Raises:
        SettingsError: a limit names no metric that can be judged.
    """
    wanted = _wanted(baseline, limits)
    floor = rounding_floor(baseline.model, record.model)
    renewed = find_renewed(baseline, record)
    confidence = 1 - 0.05 / max(1, len(wanted))
    rules = _Rules(baseline, record, limits, floor, confidence, require_paired)
    owners = Owners.of_records(baseline, record)
    changes = []
    for key, name in wanted:
        if not is_asked(parts, owners.of_metric(key, name)):
            continue
        before, after = baseline.measurements[key], record.measurements.get(key)
        why = changed_measurement(key, before, record) if Key(key).suite in renewed else None
        if why:
            value = before.metrics[name].value
            changes.append(MetricChange(key, name, "not compared", value, reason=why))
        else:
            changes.append(_compare(key, name, before, after, rules))
    return changes


def keys_of(baseline: RunRecord, limits: Sequence[Limit], owners: Owners, part: Part) -> list[str]:
    """Return the measurements that a part of the comparison reads metrics of.

    Args:
        baseline: what was before.
        limits: how much worse metrics may get.
        owners: which part each metric belongs to.
        part: the part.
    """
    wanted = _wanted(baseline, limits)
    return list(dict.fromkeys(key for key, name in wanted if part in owners.of_metric(key, name)))


def check_limits(limits: Sequence[Limit], baseline: RunRecord) -> None:
    """Refuse limits that would limit nothing.

    Args:
        limits: how much worse metrics may get.
        baseline: what was before.

    Raises:
        SettingsError: a limit names no metric that can be judged.
    """
    _wanted(baseline, limits)


def _wanted(baseline: RunRecord, limits: Sequence[Limit]) -> list[tuple[str, str]]:
    """Metrics of the baseline that are judged, each once; p-values are judged by their checks."""
    read = {(check.measurement, check.metric) for check in baseline.checks}
    every = [
        (key, name)
        for key, measurement in baseline.measurements.items()
        for name in measurement.metrics
    ]
    checked = {check.suite for check in baseline.checks}
    for key, name in every:
        info = _look_up(baseline.measurements[key].probe, name)
        if Key(key).suite not in checked and info is not None and info.direction is not None:
            read.add((key, name))
    estimates = [metric for metric in every if "p_value" not in metric[1]]
    exact = [limit for limit in limits if limit.is_exact]
    wanted = [
        metric
        for metric in estimates
        if metric in read or any(limit.names(*metric) for limit in exact)
    ]
    for limit in limits:
        if not any(limit.names(*metric) for metric in wanted):
            raise SettingsError(f"limit {limit.pattern!r} names {_why(limit, every, estimates)}")
    return wanted


def _why(limit: Limit, every: list[tuple[str, str]], estimates: list[tuple[str, str]]) -> str:
    if any(limit.names(*metric) for metric in estimates):
        return "no metric that a check of the baseline reads: without '*' it may name others"
    if any(limit.names(*metric) for metric in every):
        return "p-values alone, which are judged by their checks"
    # Short names are offered, unless the limit names a measurement too.
    whole = "." in limit.pattern or "/" in limit.pattern
    known = {f"{key}.{name}" if whole else name for key, name in every}
    return f"no metric of the baseline; {nearest(limit.pattern, known)}"


def _look_up(probe: str, metric: str) -> MetricInfo | None:
    """What the probe says of a metric; None of a probe or metric that is not known here."""
    try:
        return get_probe(probe).metrics.get(metric)
    except IclError:
        return None


def _compare(
    key: str, name: str, before: Measurement, after: Measurement | None, rules: _Rules
) -> MetricChange:
    old = before.metrics[name]
    if after is None or name not in after.metrics:
        return MetricChange(key, name, "vanished", old.value, reason=_why_gone(name, after))
    if differing := differing_settings(before, after):
        reason = f"settings differ ({differing}): make a new baseline"
        return MetricChange(key, name, "vanished", old.value, reason=reason)
    new, info = after.metrics[name], _look_up(before.probe, name)
    if info is not None and info.exact:
        old, new = (metric.model_copy(update={"exact": True}) for metric in (old, new))
    unpaired: Unpaired | None = None
    if not (old.exact and new.exact):
        models = (rules.baseline.model, rules.record.model)
        unpaired = why_unpaired(before, after, name, models)
    paired = unpaired is None and not (old.exact and new.exact)
    # Both measured with as many looks: that is one of the settings.
    looks = looks_of(before.settings)
    half = _half_width(old, new, paired, 1 - (1 - rules.confidence) / looks, looks)
    difference = new.value - old.value
    rounded = rounding(rules.floor, old.value, info)
    better = info.direction if info else None
    default = default_limit(rules.baseline, key, name, info, rounded)
    ways = allowances(rules.limits, key, name, better, old.value, default, rounded)
    went: Way = "up" if difference > 0 else "down"
    allowed = ways.get(went)
    shown = next(iter(ways.values())) if allowed is None else allowed
    state: State = "unclear"
    why = "one sample has no standard error" if half is None else None
    if half is not None:
        named = any(limit.names(key, name) for limit in rules.limits)
        ignored = rounded if named else default.amount
        state = _judge(abs(difference) - half, allowed, better == went, ignored)
        if state == "regressed":
            why = f"allowed is {shown.amount:.3g} ({shown.rule})"
    if rules.require_paired and unpaired and unpaired.avoidable and state != "regressed":
        state, why = "unpaired", f"not paired, as is required: {unpaired.reason}"
    low, high = (difference - half, difference + half) if half else (None, None)
    return MetricChange(
        key,
        name,
        state,
        old.value,
        new.value,
        difference,
        low,
        high,
        paired,
        shown.amount,
        shown.rule,
        why,
        unpaired.reason if unpaired else None,
    )


def _judge(surely: float, allowed: Allowed | None, is_better: bool, ignored: float) -> State:
    """Whether a difference is for the worse or for the better.

    Args:
        surely: how far the end of its interval that is nearer to 0 lies from 0, the way it went;
            negative where 0 is inside.
        allowed: how far it may go the way it went; None where that way is not judged.
        is_better: whether it went the metric's better way.
        ignored: how far it goes before it is called better.
    """
    if allowed is not None and surely > allowed.amount:
        return "regressed"
    return "improved" if is_better and surely > ignored else "same"


def _half_width(
    old: Metric, new: Metric, paired: bool, confidence: float, looks: int
) -> float | None:
    """Half of the interval of the difference; 0 for exact numbers, None when it is not known."""
    if old.exact and new.exact:
        return 0.0
    if paired and old.samples and new.samples:
        differences = [b - a for a, b in zip(old.samples, new.samples)]
        n = len(differences)
        mean = math.fsum(differences) / n
        variance = math.fsum((d - mean) ** 2 for d in differences) / (n - 1)
        return student_t(n - 1, confidence=confidence) * math.sqrt(variance / n)
    errors = [_error(metric, looks) for metric in (old, new) if not metric.exact]
    if any(error is None for error in errors):
        return None
    smallest = min(metric.n or 2 for metric in (old, new) if not metric.exact)
    spread = math.sqrt(math.fsum(error**2 for error in errors if error is not None))
    return student_t(max(smallest - 1, 1), confidence=confidence) * spread


def _error(metric: Metric, looks: int) -> float | None:
    """A standard error; read off the interval, which holds for all looks, where that says more.

    Steps of a phase change have intervals that reach to the next checkpoints, wider than sampling
    alone makes them.
    """
    if metric.ci_low is None or metric.ci_high is None or metric.n is None or metric.n < 2:
        return metric.stderr
    quantile = student_t(metric.n - 1, looks)
    return max(metric.stderr or 0.0, (metric.ci_high - metric.ci_low) / 2 / quantile)


def _why_gone(name: str, after: Measurement | None) -> str:
    if after is None:
        return "not measured"
    return after.unmeasured.get(name) or after.reason or "not measured"
