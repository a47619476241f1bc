"""Gates of a training run: what must hold of the measurements made so far.

A gate looks at the records of all evaluations of a run, the current one last, and says whether it
holds, by intervals: a number that noise may have put on either side decides nothing.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass
from typing import Protocol

from icl_bench.errors import SettingsError, nearest
from icl_bench.integrations.gate_metrics import find_metric, look_up, same_tokens
from icl_bench.records.parts import GateVerdict, Metric, Verdict
from icl_bench.records.record import RunRecord
from icl_bench.render.writing import numbers
from icl_bench.running.checks import judge
from icl_bench.suite.plan import Plan


class Gate(Protocol):
    """What must hold of a training run."""

    @property
    def steps(self) -> tuple[int, ...]:
        """Steps at which the gate wants an evaluation, whatever else is due then."""

    def validate(self, plan: Plan) -> None:
        """Raise SettingsError when the suites measure nothing that the gate asks for.

        Args:
            plan: what an evaluation measures.
        """

    def judge(self, history: Sequence[RunRecord], plan: Plan) -> GateVerdict:
        """Say whether the gate holds.

        Args:
            history: records of every evaluation so far, by ascending step, the current one last.
            plan: what an evaluation measures.
        """


@dataclass(frozen=True)
class Reaches:
    """A metric gets past a threshold by some step; once it has, the gate holds for good.

    It fails when the first evaluation at `by_step` or later has its whole interval on the wrong
    side, or when what is to be measured is not there. While that is open, later ones decide.

    Args:
        metric: `METRIC`, or with its measurement `NAME/METRIC`, or `SUITE/NAME/METRIC`.
        above: the threshold, in the metric's unit, for a metric that has to rise.
        below: the threshold for a metric that has to fall; give one of the two.
        by_step: optimizer step by which it must have been reached.

    Raises:
        SettingsError: not exactly one threshold, or `by_step` is negative.
    """

    metric: str
    _: KW_ONLY
    above: float | None = None
    below: float | None = None
    by_step: int

    def __post_init__(self) -> None:
        if (self.above is None) == (self.below is None):
            raise SettingsError(f"gate on {self.metric!r}: give one of 'above' and 'below'")
        if self.by_step < 0:
            raise SettingsError(f"gate on {self.metric!r}: 'by_step' is negative")

    @property
    def steps(self) -> tuple[int, ...]:
        """The step by which it is due."""
        return (self.by_step,)

    @property
    def name(self) -> str:
        """The gate in words."""
        return f"{self.metric} {numbers.rule(*self._rule)} by step {numbers.count(self.by_step)}"

    @property
    def _rule(self) -> tuple[str, float]:
        if self.above is not None:
            return "above", self.above
        assert self.below is not None
        return "below", self.below

    def validate(self, plan: Plan) -> None:
        """See `Gate.validate`."""
        find_metric(self.metric, plan)

    def judge(self, history: Sequence[RunRecord], plan: Plan) -> GateVerdict:
        """See `Gate.judge`."""
        state: tuple[Verdict, str] = ("skipped", "not measured yet")
        for record in history:
            step = _step(record)
            verdict, reason = self._judge_one(record, plan)
            reason = f"at step {numbers.count(step)}: {reason}"
            if verdict == "pass" or (verdict == "fail" and step >= self.by_step):
                return _say(self, verdict, reason)
            if step >= self.by_step:
                state = verdict, reason
            else:
                state = "skipped", f"not due yet; {reason}"
        return _say(self, *state)

    def _judge_one(self, record: RunRecord, plan: Plan) -> tuple[Verdict, str]:
        metric, info, missing = look_up(self.metric, record, plan)
        if metric is None:
            # What cannot be measured on these weights is not there.
            return ("error" if missing[0] == "error" else "fail"), missing[1]
        verdict, reason = judge(metric, *self._rule, exact=info.exact)
        return verdict, reason or f"measured {numbers.estimate(metric.value, metric.stderr)}"


@dataclass(frozen=True)
class Keeps:
    """A metric stays within some distance of the best that the run has measured.

    Best is the highest where more is better, the lowest where less is. It fails when the whole
    interval of the drop lies beyond `within`: over the differences of each sequence where both
    evaluations had the same tokens, else over the two means. What could be measured before and
    cannot now is lost.

    Args:
        metric: `METRIC`, or with its measurement `NAME/METRIC`, or `SUITE/NAME/METRIC`.
        within: the largest drop that is let pass, in the metric's unit.
        from_step: evaluations before this step count neither as best nor as a drop.

    Raises:
        SettingsError: `within` or `from_step` is negative.
    """

    metric: str
    _: KW_ONLY
    within: float
    from_step: int = 0

    def __post_init__(self) -> None:
        if not self.within >= 0 or self.from_step < 0:
            raise SettingsError(f"gate on {self.metric!r}: 'within' or 'from_step' is negative")

    @property
    def steps(self) -> tuple[int, ...]:
        """None: it looks at whatever is measured."""
        return ()

    @property
    def name(self) -> str:
        """The gate in words."""
        start = f" from step {numbers.count(self.from_step)} on" if self.from_step else ""
        return f"{self.metric} within {self.within:.10g} of its best{start}"

    def validate(self, plan: Plan) -> None:
        """See `Gate.validate`."""
        key, info = find_metric(self.metric, plan)
        if info.direction is None:
            raise SettingsError(
                f"gate on {self.metric!r}: neither more nor less of {key!r} is better, so it has "
                "no best to keep"
            )

    def judge(self, history: Sequence[RunRecord], plan: Plan) -> GateVerdict:
        """See `Gate.judge`."""
        now = history[-1]
        earlier = [record for record in history[:-1] if _step(record) >= self.from_step]
        known = [(record, look_up(self.metric, record, plan)[0]) for record in earlier]
        measured = [(record, metric) for record, metric in known if metric is not None]
        if not measured or _step(now) < self.from_step:
            return _say(self, "skipped", "nothing to compare with yet")
        metric, info, missing = look_up(self.metric, now, plan)
        sign = -1.0 if info.direction == "down" else 1.0
        best, highest = max(measured, key=lambda pair: sign * pair[1].value)
        at = numbers.count(_step(best))
        then = f"{numbers.estimate(highest.value, highest.stderr)} at step {at}"
        if metric is None:
            if missing[0] == "error":
                return _say(self, "error", missing[1])
            return _say(self, "fail", f"it was {then}, and cannot be measured now: {missing[1]}")
        key, _ = find_metric(self.metric, plan)
        drop = difference(highest, metric, sign, same_tokens=same_tokens(best, now, key))
        verdict, why = judge(drop, "at_most", self.within, exact=drop.exact)
        shown = f"{then}, {numbers.estimate(metric.value, metric.stderr)} now"
        lost = numbers.estimate(drop.value, drop.stderr)
        return _say(self, verdict, f"{shown}: drop {lost}" + (f" ({why})" if why else ""))


@dataclass(frozen=True)
class Passes:
    """No check of a suite fails.

    Args:
        suite: its name; None for all suites that are run.
        from_step: the gate is not due before this optimizer step.

    Raises:
        SettingsError: `from_step` is negative.
    """

    suite: str | None = None
    from_step: int = 0

    def __post_init__(self) -> None:
        if self.from_step < 0:
            raise SettingsError("gate on a suite: 'from_step' is negative")

    @property
    def steps(self) -> tuple[int, ...]:
        """The step from which it is due."""
        return (self.from_step,)

    @property
    def name(self) -> str:
        """The gate in words."""
        what = f"suite {self.suite}" if self.suite else "every suite"
        start = f" from step {numbers.count(self.from_step)} on" if self.from_step else ""
        return f"{what} passes{start}"

    def validate(self, plan: Plan) -> None:
        """See `Gate.validate`."""
        names = [suite.name for suite in plan.suites]
        if self.suite is not None and self.suite not in names:
            raise SettingsError(
                f"gate on suite {self.suite!r}: it is not run; {nearest(self.suite, names)}"
            )

    def judge(self, history: Sequence[RunRecord], plan: Plan) -> GateVerdict:
        """See `Gate.judge`."""
        now = history[-1]
        checks = [check for check in now.checks if self.suite in (None, check.suite)]
        parts: list[str] = []
        worst: Verdict = "pass" if any(check.verdict == "pass" for check in checks) else "skipped"
        kinds: tuple[Verdict, ...] = ("fail", "error", "inconclusive")
        for verdict in kinds:
            matching = [check for check in checks if check.verdict == verdict]
            if matching and not parts:
                worst = verdict
            parts += [f"{check.id} ({verdict}: {check.reason})" for check in matching]
        held = sum(check.verdict == "pass" for check in checks)
        parts.append(f"{held} of {len(checks)} checks hold")
        reason = f"at step {numbers.count(_step(now))}: " + "; ".join(parts)
        if _step(now) < self.from_step:
            worst, reason = "skipped", f"not due yet; {reason}"
        return _say(self, worst, reason)


def difference(before: Metric, now: Metric, sign: float, *, same_tokens: bool) -> Metric:
    """Return how much smaller `now` is than `before`, with its 95% interval.

    Paired over samples where both have them on the same tokens (Student's t of the differences);
    else from both standard errors (Welch).

    Args:
        before: the metric at an earlier step.
        now: the same at the current one.
        sign: 1 where more is better, -1 where less is: then how much larger.
        same_tokens: whether samples of the two belong together.
    """
    from icl_bench.measures.statistics import CONFIDENCE, exact_metric, mean_metric, t_quantile

    value = sign * (before.value - now.value)
    if before.exact and now.exact:
        return exact_metric(value)
    old, new = before.samples, now.samples
    if same_tokens and old and new and len(old) == len(new):
        return mean_metric([sign * (a - b) for a, b in zip(old, new)], keep=False)
    # A number without sampling error adds nothing: copying lost where no head is left to lose.
    estimated = [one for one in (before, now) if not one.exact]
    if len(estimated) == 1 and estimated[0].ci_low is not None and estimated[0].ci_high is not None:
        (one,) = estimated
        way = sign if one is before else -sign
        ends = (estimated[0].ci_low, estimated[0].ci_high)
        low, high = sorted(value + way * (end - one.value) for end in ends)
        return Metric(value=value, stderr=one.stderr, ci_low=low, ci_high=high, n=one.n)
    parts = [(one.stderr**2, one.n - 1) for one in estimated if one.stderr is not None and one.n]
    if len(parts) < len(estimated):
        return Metric(value=value, n=now.n)
    variance = sum(part for part, _ in parts)
    if variance == 0:
        return Metric(value=value, stderr=0.0, ci_low=value, ci_high=value, n=now.n)
    freedom = variance**2 / sum(part**2 / df for part, df in parts)
    half = float(t_quantile((1 + CONFIDENCE) / 2, freedom)) * math.sqrt(variance)
    error = math.sqrt(variance)
    return Metric(value=value, stderr=error, ci_low=value - half, ci_high=value + half, n=now.n)


def _say(gate: Reaches | Keeps | Passes, verdict: Verdict, reason: str) -> GateVerdict:
    return GateVerdict(gate=gate.name, verdict=verdict, reason=reason)


def _step(record: RunRecord) -> int:
    assert record.step is not None
    return record.step
