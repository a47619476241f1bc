"""A record against its baseline, as one result that passes or fails."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal

from icl_bench.comparing.heads import HeadChange, compare_heads
from icl_bench.comparing.limits import Limit
from icl_bench.comparing.metrics import MetricChange, compare_metrics
from icl_bench.comparing.versions import (
    Renewed,
    changed_check,
    describe_versions,
    find_renewed,
)
from icl_bench.errors import SettingsError
from icl_bench.records.parts import DESELECTED, Check, Verdict
from icl_bench.records.record import RunRecord

CheckState = Literal[
    "regressed",
    "improved",
    "same",
    "changed",
    "vanished",
    "unclear",
    "new",
    "not run",
    "not compared",
]

_JUDGED = ("pass", "fail", "inconclusive")
"""Verdicts that say something of the model."""


@dataclass(frozen=True)
class VerdictChange:
    """What became of one check.

    Args:
        suite: its suite.
        id: its id.
        state: `regressed` and `vanished` fail a gate, `unclear` unless that is allowed; `changed`
            is another verdict that neither passes now nor passed before; `not compared` asks
            something else in a later version of a shipped suite.
        before: the baseline's verdict; None when it is new.
        after: the verdict now; None when the check is gone.
        reason: why it has the verdict it has now.
    """

    suite: str
    id: str
    state: CheckState
    before: Verdict | None
    after: Verdict | None
    reason: str | None = None


@dataclass
class Comparison:
    """A record against its baseline.

    Args:
        baseline: name of the baseline's model.
        model: name of the model now.
        checks: what became of every check.
        metrics: what became of every metric that is judged.
        heads: heads of the circuit, before and now.
        remarks: differences between the runs that may explain others.
    """

    baseline: str
    model: str
    checks: list[VerdictChange] = field(default_factory=list)
    metrics: list[MetricChange] = field(default_factory=list)
    heads: list[HeadChange] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)

    def count(self, state: str) -> int:
        """Return how many checks and metrics are in a state."""
        states: list[str] = [check.state for check in self.checks]
        states += [metric.state for metric in self.metrics]
        return states.count(state)

    @property
    def died(self) -> list[HeadChange]:
        """Heads that fell below the threshold, or are not in the record any more."""
        return [head for head in self.heads if head.state in ("died", "gone")]

    @property
    def is_empty(self) -> bool:
        """Whether a later version of the suites has left nothing that could be compared."""
        states = {check.state for check in self.checks} | {one.state for one in self.metrics}
        left = states - {"not compared", "new", "not run"}
        return "not compared" in states and not left and not self.heads

    def passes(self, inconclusive_fails: bool = True) -> bool:
        """Whether something was compared, nothing got worse or is gone, and no head died.

        Args:
            inconclusive_fails: whether what cannot be told counts as worse.
        """
        bad = ["regressed", "vanished"] + (["unclear"] if inconclusive_fails else [])
        return not (any(map(self.count, bad)) or self.died or self.is_empty)

    def as_data(self, inconclusive_fails: bool = True) -> dict[str, Any]:
        """Return everything as plain data, for JSON.

        Args:
            inconclusive_fails: whether what cannot be told counts as worse.
        """
        return {"passed": self.passes(inconclusive_fails), **asdict(self)}


def compare(
    baseline: RunRecord,
    record: RunRecord,
    limits: Sequence[Limit] = (),
    *,
    deselected: bool = False,
) -> Comparison:
    """Compare a record with a baseline.

    Args:
        baseline: what was before.
        record: what is now.
        limits: how much worse metrics may get; a default where none is given.
        deselected: whether checks may be left out of `record` on purpose, by a choice of tests;
            they count as gone otherwise.

    Raises:
        SettingsError: the records have no suite in common, or a limit names no metric.
    """
    before, now = ({suite.name for suite in one.suites} for one in (baseline, record))
    if not before & now:
        raise SettingsError(
            f"nothing to compare: the baseline holds {_names(before)}, this run {_names(now)}"
        )
    metrics = compare_metrics(baseline, record, limits)
    if deselected:
        left_out = _left_out(record)
        metrics = [
            change
            for change in metrics
            if change.state not in ("vanished", "not compared")
            or left_out.isdisjoint({change.key, (change.key, change.metric)})
        ]
    renewed = find_renewed(baseline, record)
    heads, not_compared = compare_heads(baseline, record)
    return Comparison(
        baseline.model.label,
        record.model.label,
        _compare_checks(baseline, record, deselected, renewed),
        metrics,
        heads,
        [*not_compared, *describe_versions(baseline, record, renewed), *_remarks(baseline, record)],
    )


def _left_out(record: RunRecord) -> set[str | tuple[str, str]]:
    """Measurements, and metrics, that only checks read which were left out on purpose."""
    every: set[str | tuple[str, str]] = set()
    read: set[str | tuple[str, str]] = set()
    for check in record.checks:
        found = every if check.reason == DESELECTED else read
        found |= {check.measurement, (check.measurement, check.metric)}
    return every - read


def _compare_checks(
    baseline: RunRecord, record: RunRecord, deselected: bool, renewed: Renewed
) -> list[VerdictChange]:
    old = {(check.suite, check.id): check for check in baseline.checks}
    new = {(check.suite, check.id): check for check in record.checks}
    changes = []
    for key, check in old.items():
        now = new.get(key)
        change = _compare_check(check, now, deselected)
        if check.suite in renewed and change.state != "not run":
            why = changed_check(check, now, baseline, record)
            change = replace(change, state="not compared", reason=why) if why else change
        changes.append(change)
    return changes + [
        VerdictChange(check.suite, check.id, "new", None, check.verdict, check.reason)
        for key, check in new.items()
        if key not in old
    ]


def _compare_check(old: Check, new: Check | None, deselected: bool) -> VerdictChange:
    if new is None:
        why = "the check is not in this run"
        return VerdictChange(old.suite, old.id, "vanished", old.verdict, None, why)
    return VerdictChange(
        old.suite, old.id, _state(old, new, deselected), old.verdict, new.verdict, new.reason
    )


def _state(old: Check, new: Check, deselected: bool) -> CheckState:
    if new.reason == DESELECTED and deselected:
        return "not run"
    if new.verdict == old.verdict:
        return "same"
    if new.verdict == "pass":
        return "improved"
    if new.verdict == "skipped" and old.verdict in _JUDGED:
        return "vanished"
    if new.verdict == "error" or (old.verdict, new.verdict) == ("pass", "fail"):
        return "regressed"
    return "unclear" if old.verdict == "pass" else "changed"


def _remarks(baseline: RunRecord, record: RunRecord) -> list[str]:
    lines = []
    if seeds := _other_seeds(baseline, record):
        lines.append(f"other tokens, not paired: {seeds}")
    if baseline.model.fingerprint and baseline.model.fingerprint == record.model.fingerprint:
        lines.append("both records are of the same weights")
    pairs = {
        "dtype": (baseline.model.dtype, record.model.dtype),
        "attention": (baseline.model.attention, record.model.attention),
        "torch": (baseline.environment.torch, record.environment.torch),
        "transformers": (baseline.environment.transformers, record.environment.transformers),
        "device": (baseline.environment.device, record.environment.device),
    }
    lines += [f"{name} {old}, now {new}" for name, (old, new) in pairs.items() if old != new]
    for name, one in (("the baseline", baseline), ("this run", record)):
        if one.doubt:
            lines.append(f"{name} has {one.doubt}")
    if baseline.status != "complete":
        lines.append(f"the baseline is {baseline.status}")
    if record.status != "complete":
        lines.append(f"this run is {record.status}")
    return lines


def _other_seeds(baseline: RunRecord, record: RunRecord) -> str:
    """`seed 0, now 1`, for every pair of seeds of a measurement that both have."""
    found = set()
    for key in baseline.measurements.keys() & record.measurements.keys():
        settings = (one.measurements[key].settings for one in (baseline, record))
        before, now = (one.get("seed") for one in settings)
        if before != now:
            found.add(f"seed {before}, now {now}")
    return "; ".join(sorted(found))


def _names(suites: set[str]) -> str:
    return ", ".join(sorted(suites)) or "no suite"
