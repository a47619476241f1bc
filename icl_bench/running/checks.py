"""Metric, rule and interval -> verdict.

An exact metric is decided by its value. An estimated one passes or fails only when its whole 95%
interval lies on one side of the threshold; else it is inconclusive and says why.
"""

from __future__ import annotations

import fnmatch
import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from icl_bench.errors import SettingsError, nearest
from icl_bench.records.parts import Check, Measurement, Metric, Verdict
from icl_bench.render.writing import numbers
from icl_bench.suite.schema import RULES
from icl_bench.suite.specs import CheckSpec, QuizSpec

if TYPE_CHECKING:
    from icl_bench.probes import MetricInfo


MOST_ADVISED = 10_000
"""Samples beyond which nobody is advised to draw more."""


@dataclass(frozen=True)
class _Region:
    """The values that pass: one stretch of the number line."""

    low: float
    high: float
    open: bool = False

    def holds(self, value: float) -> bool:
        return not self.below(value) and not self.above(value)

    def below(self, value: float) -> bool:
        return value <= self.low if self.open else value < self.low

    def above(self, value: float) -> bool:
        return value >= self.high if self.open else value > self.high

    @property
    def bounds(self) -> list[float]:
        return sorted({end for end in (self.low, self.high) if math.isfinite(end)})


def judge(
    metric: Metric | None,
    rule: str,
    threshold: Any,
    tolerance: float | None = None,
    *,
    exact: bool,
) -> tuple[Verdict, str | None]:
    """Return the verdict on one metric, and the reason for everything but a pass.

    Args:
        metric: the measured metric; None when there is none.
        rule: above, below, at_least, at_most, between (inclusive) or equals.
        threshold: the rule's number, in the metric's unit; two numbers for `between`.
        tolerance: how far `equals` may be off, in the metric's unit; None for 0.
        exact: whether the metric has no sampling error; the metric's own flag suffices too.

    Raises:
        SettingsError: there is no such rule.
    """
    region = _region(rule, threshold, tolerance)
    if metric is None:
        return "skipped", "not measured"
    if not math.isfinite(metric.value):
        return "skipped", f"not measured: its value is {metric.value}"
    needed = numbers.rule(rule, _recorded(rule, threshold, tolerance))
    if exact or metric.exact:
        if region.holds(metric.value):
            return "pass", None
        return "fail", f"required {needed}, measured {numbers.apart(metric.value, region.bounds)}"
    shown = numbers.estimate(metric.value, _finite(metric.stderr), region.bounds)
    low, high = _finite(metric.ci_low), _finite(metric.ci_high)
    if low is None or high is None:
        return "inconclusive", f"{shown}: {_no_interval(metric)}"
    if region.holds(low) and region.holds(high):
        return "pass", None
    interval = f"the 95% interval {numbers.interval(low, high, region.bounds)}"
    if region.below(high) or region.above(low):
        return "fail", f"required {needed}, measured {shown}: {interval} lies wholly outside that"
    crossed = [bound for bound in region.bounds if low <= bound <= high]
    across = " and ".join(numbers.apart(bound, (low, high)) for bound in crossed)
    advice = _advise(metric, region, low, high)
    return "inconclusive", f"{shown}: {interval} straddles {across}{advice}"


def evaluate(
    spec: CheckSpec | QuizSpec,
    suite_name: str,
    measurement_key: str,
    measurement: Measurement | None,
    info: MetricInfo,
    *names: str,
) -> Check:
    """Return one check or quiz item of a suite with its verdict on one model.

    Args:
        spec: the check or quiz item as the suite states it.
        suite_name: the suite it belongs to.
        measurement_key: key of the measurement in the record, `SUITE/NAME`.
        measurement: what was measured; None when it was not.
        info: what the metric means, and whether it is exact.
        *names: the model's, as `ModelInfo.names` has them.

    Raises:
        SettingsError: the spec names a rule that does not exist.
    """
    metric, verdict, reason = _find(spec, measurement, names)
    supported = None
    if metric is not None and isinstance(spec, QuizSpec):
        verdict, reason, supported = _judge_quiz(spec, metric, info.exact)
        if verdict == "fail" and supported is None and (other := _preferred(spec, measurement)):
            supported, reason = other, f"the model prefers {_option(spec, other)}"
            reason += f" (margin {numbers.number(metric.value)}); expected {spec.expected}"
    elif metric is not None and isinstance(spec, CheckSpec):
        verdict, reason = judge(metric, spec.rule, spec.threshold, spec.tolerance, exact=info.exact)
    found = metric or Metric.model_construct(value=math.nan)
    if metric is not None and measurement is not None:
        verdict, reason = _heed(measurement, spec.metric, verdict, reason)
    return Check(
        id=spec.id,
        suite=suite_name,
        measurement=measurement_key,
        metric=spec.metric,
        direction=info.direction,
        value=_finite(found.value),
        stderr=_finite(found.stderr),
        ci_low=_finite(found.ci_low),
        ci_high=_finite(found.ci_high),
        verdict=verdict,
        reason=reason,
        description=spec.description,
        **_stated(spec, supported),
    )


def _heed(
    measurement: Measurement, name: str, verdict: Verdict, reason: str | None
) -> tuple[Verdict, str | None]:
    """Return a verdict and its reason with what the measurement says of the metric."""
    vacuous = measurement.vacuous.get(name)
    if vacuous and verdict in ("pass", "inconclusive"):
        return "skipped", vacuous
    told = [vacuous, None if verdict == "pass" else measurement.remarks.get(name)]
    return verdict, "; ".join(filter(None, (reason, *told))) or None


def all_decided(
    specs: Iterable[CheckSpec | QuizSpec],
    measurement: Measurement,
    metrics: Mapping[str, MetricInfo],
) -> bool:
    """Whether more data could change no verdict: none of the checks is inconclusive.

    Which models a check is meant for does not matter here.

    Args:
        specs: the checks and quiz items on the measurement.
        measurement: what was measured.
        metrics: metric name -> what it means, of the measurement's probe.
    """
    return all(
        evaluate(replace(spec, models=None), "", "", measurement, metrics[spec.metric]).verdict
        != "inconclusive"
        for spec in specs
    )


def applies(spec: CheckSpec | QuizSpec, names: Collection[str]) -> bool:
    """Whether a check is meant for a model: its `models` globs match a name, or it has none.

    A glob that begins with `!` leaves out what the rest of it matches, whatever others say.

    Args:
        spec: the check or quiz item.
        names: the model's, as `ModelInfo.names` has them.
    """

    def match(glob: str) -> bool:
        return any(fnmatch.fnmatchcase(name, glob) for name in names)

    meant, left_out = _split_globs(spec.models or ())
    return (not meant or any(map(match, meant))) and not any(map(match, left_out))


def _split_globs(globs: Iterable[str]) -> tuple[list[str], list[str]]:
    """Globs of the models that a check is meant for, and of those that it leaves out."""
    globs = list(globs)
    left_out = [glob[1:] for glob in globs if glob.startswith("!")]
    return [glob for glob in globs if not glob.startswith("!")], left_out


def _explain_models(globs: Iterable[str]) -> str:
    meant, left_out = _split_globs(globs)
    words = ["applies only to " + ", ".join(meant)] if meant else []
    words += ["does not apply to " + ", ".join(left_out)] if left_out else []
    return "; ".join(words)


def _find(
    spec: CheckSpec | QuizSpec, measurement: Measurement | None, names: Collection[str]
) -> tuple[Metric | None, Verdict, str | None]:
    """The metric to judge; without one, the verdict and reason that stand instead."""
    if not applies(spec, names):
        return None, "skipped", _explain_models(spec.models or ())
    if measurement is None:
        return None, "skipped", "not measured"
    if measurement.status == "error":
        return None, "error", measurement.reason or "the measurement failed"
    if measurement.status == "skipped":
        return None, "skipped", measurement.reason or "the measurement was skipped"
    metric = measurement.metrics.get(spec.metric)
    if metric is None:
        return None, "skipped", measurement.unmeasured.get(spec.metric, "not measured")
    if not math.isfinite(metric.value):
        return None, "skipped", f"not measured: its value is {metric.value}"
    return metric, "pass", None


def _judge_quiz(
    spec: QuizSpec, metric: Metric, exact: bool
) -> tuple[Verdict, str | None, str | None]:
    """Verdict, reason and supported option: the first option whose rule passes."""
    doubts = []
    reason: str | None = None
    for support in spec.supports:
        verdict, reason = judge(
            metric, support.rule, support.threshold, support.tolerance, exact=exact
        )
        if verdict == "pass" and support.option == spec.expected:
            return "pass", None, support.option
        if verdict == "pass":
            shown = numbers.estimate(metric.value, _finite(metric.stderr))
            named = _option(spec, support.option)
            reason = f"measured {shown}, which supports {named}; expected {spec.expected}"
            return "fail", reason, support.option
        if verdict == "inconclusive":
            doubts.append((support.option, reason))
    if doubts:
        # Without an interval every option is in doubt for the same reason: say it once.
        reasons = {reason for _, reason in doubts}
        if len(reasons) == 1:
            return "inconclusive", doubts[0][1], None
        return "inconclusive", "; ".join(f"option {key}: {why}" for key, why in doubts), None
    if len(spec.supports) == 1:
        return "fail", reason, None
    shown = numbers.estimate(metric.value, _finite(metric.stderr))
    return "fail", f"measured {shown}, which supports none of the options", None


def _option(spec: QuizSpec, key: str) -> str:
    """An option with its text, in the middle of a sentence."""
    text = spec.options.get(key, "").strip().removesuffix(".")
    return f"{key}: {text}" if text else key


def _preferred(spec: QuizSpec, measurement: Measurement | None) -> str | None:
    """The option that the model itself chose, where it was asked this one question."""
    answers = measurement.tables.get("answers", []) if measurement else []
    if len(answers) != 1 or spec.metric != "margin":
        return None
    chosen = [key for key, text in spec.options.items() if text == answers[0].get("chosen")]
    return chosen[0] if chosen and chosen[0] != spec.expected else None


def _stated(spec: CheckSpec | QuizSpec, supported: str | None) -> dict[str, Any]:
    """The fields of a Check that only repeat what the suite says."""
    if isinstance(spec, CheckSpec):
        return {
            "kind": "check",
            "rule": spec.rule,
            "threshold": _recorded(spec.rule, spec.threshold, spec.tolerance),
        }
    return {
        "kind": "quiz",
        "rule": "supports",
        "threshold": [
            {
                "option": each.option,
                "rule": each.rule,
                "threshold": _recorded(each.rule, each.threshold, each.tolerance),
            }
            for each in spec.supports
        ],
        "question": spec.question,
        "beside": list(spec.beside),
        "options": dict(spec.options),
        "expected": spec.expected,
        "supports": supported,
    }


def _recorded(rule: str, threshold: Any, tolerance: float | None) -> Any:
    """The threshold as it is kept in a record and shown by `numbers.rule`."""
    if rule == "equals" and tolerance:
        return {"value": threshold, "tolerance": tolerance}
    return list(threshold) if isinstance(threshold, Sequence) else threshold


def _region(rule: str, threshold: Any, tolerance: float | None) -> _Region:
    if rule not in RULES:
        raise SettingsError(f"unknown rule {rule!r}; {nearest(rule, RULES)}")
    if rule == "between":
        return _Region(float(threshold[0]), float(threshold[1]))
    bound = float(threshold)
    if rule == "equals":
        return _Region(bound - (tolerance or 0.0), bound + (tolerance or 0.0))
    ends = (bound, math.inf) if rule in ("above", "at_least") else (-math.inf, bound)
    return _Region(*ends, open=rule in ("above", "below"))


def _advise(metric: Metric, region: _Region, low: float, high: float) -> str:
    """What to do about an interval that straddles a bound."""
    gap = min(abs(metric.value - bound) for bound in region.bounds)
    if not metric.n or gap == 0:
        return ""
    width = max(metric.value - low, high - metric.value)
    # An interval is as wide as the root of the number of samples is small.
    if width > gap * math.sqrt(MOST_ADVISED / metric.n):
        return "; the value is too near the bound for more samples to decide"
    needed = math.ceil(metric.n * (width / gap) ** 2)
    digits = max(0, len(str(needed)) - 2)
    needed = math.ceil(needed / 10**digits) * 10**digits
    return (
        f"; if the value stays, about {needed} samples would decide, not {metric.n}: ask for more, "
        "or set 'until: decided'"
    )


def _no_interval(metric: Metric) -> str:
    if metric.n is not None and metric.n > 1:
        return "it has no 95% interval"
    return "one sequence or question gives no standard error; measure more"


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None
