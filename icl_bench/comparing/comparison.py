"""A record against its baseline, as one result that passes or fails."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal

from icl_bench.comparing.display import describe_comparison, show_comparison
from icl_bench.comparing.heads import HeadChange, compare_heads
from icl_bench.comparing.limits import Limit
from icl_bench.comparing.metrics import MetricChange, compare_metrics
from icl_bench.comparing.pairing import WITH_TOKENIZER
from icl_bench.comparing.parts import Owners, Part, is_asked
from icl_bench.comparing.versions import (
    Renewed,
    changed_check,
    describe_versions,
    find_renewed,
)
from icl_bench.errors import SettingsError
from icl_bench.records.parts import Check, Verdict
from icl_bench.records.record import RunRecord

CheckState = Literal[
    "regressed",
    "improved",
    "same",
    "changed",
    "vanished",
    "unclear",
    "new",
    "not compared",
]

_JUDGED = ("pass", "fail", "inconclusive")
"""Verdicts that say something of the model."""
_DECIDED = {"pass", "fail"}
_BAD = ("regressed", "vanished", "unpaired")
"""States that fail a gate."""


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

    @property
    def tells(self) -> bool:
        """Whether the two verdicts say which of the models is better, or that neither is."""
        if self.state in ("new", "not compared"):
            return False
        worse = self.state in ("regressed", "vanished", "unclear", "improved")
        return worse or {self.before, self.after} <= _DECIDED


@dataclass(repr=False)
class Comparison:
    """A record against its baseline.

    Args:
        baseline: name of the baseline's model.
        model: name of the model now.
        checks: what became of every check.
        metrics: what became of every metric that is judged.
        heads: heads of the circuit, before and now.
        remarks: differences between the runs that may explain others.
        heads_left_out: key of a measurement whose heads are not compared -> why.
    """

    baseline: str
    model: str
    checks: list[VerdictChange] = field(default_factory=list)
    metrics: list[MetricChange] = field(default_factory=list)
    heads: list[HeadChange] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)
    heads_left_out: dict[str, str] = field(default_factory=dict)

    def __repr__(self) -> str:
        return f"<{describe_comparison(self)}>"

    def _repr_html_(self) -> str:
        return show_comparison(self)

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
    def tells(self) -> bool:
        """Whether anything could be compared."""
        metrics = any(metric.state != "not compared" for metric in self.metrics)
        return metrics or bool(self.heads) or any(check.tells for check in self.checks)

    @property
    def is_empty(self) -> bool:
        """Whether there are checks, and nothing of them could be compared."""
        return bool(self.checks or self.metrics) and not self.tells

    def is_worse(self, inconclusive_fails: bool = True) -> bool:
        """Whether something got worse or is gone, or a head died.

        Args:
            inconclusive_fails: whether what cannot be told counts as worse.
        """
        bad = _BAD + (("unclear",) if inconclusive_fails else ())
        return any(map(self.count, bad)) or bool(self.died)

    def passes(self, inconclusive_fails: bool = True) -> bool:
        """Whether something was compared, nothing got worse or is gone, and no head died.

        Args:
            inconclusive_fails: whether what cannot be told counts as worse.
        """
        return not (self.is_worse(inconclusive_fails) or self.is_empty)

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
    parts: Collection[Part] | None = None,
    require_paired: bool = False,
) -> Comparison:
    """Compare a record with a baseline.

    Args:
        baseline: what was before.
        record: what is now.
        limits: how much worse metrics may get; a default where none is given.
        parts: what is compared, where tests were chosen; None for everything: what the record
            does not have is then gone.
        require_paired: whether a metric fails that could be paired and is not.

    Raises:
        SettingsError: the records have no suite in common, or a limit names no metric.
    """
    before, now = ({suite.name for suite in one.suites} for one in (baseline, record))
    if not before & now:
        raise SettingsError(
            f"nothing to compare: the baseline holds {_names(before)}, this run {_names(now)}"
        )
    metrics = compare_metrics(baseline, record, limits, parts, require_paired=require_paired)
    renewed = find_renewed(baseline, record)
    heads, left_out = compare_heads(baseline, record, parts)
    remarks = [f"heads of {key} are not compared: {why}" for key, why in left_out.items()]
    remarks += describe_versions(baseline, record)
    remarks += _remarks(baseline, record)
    return Comparison(
        baseline.model.label,
        record.model.label,
        _compare_checks(baseline, record, parts, renewed),
        metrics,
        heads,
        remarks,
        left_out,
    )


def _compare_checks(
    baseline: RunRecord,
    record: RunRecord,
    parts: Collection[Part] | None,
    renewed: Renewed,
) -> list[VerdictChange]:
    owners = Owners.of_records(baseline, record)
    old = {(check.suite, check.id): check for check in baseline.checks}
    new = {(check.suite, check.id): check for check in record.checks}
    changes = []
    for key, check in old.items():
        if not is_asked(parts, owners.of_check(*key)):
            continue
        change = _compare_check(check, new.get(key))
        if check.suite in renewed:
            why = changed_check(check, new.get(key), baseline, record)
            change = replace(change, state="not compared", reason=why) if why else change
        changes.append(change)
    return changes + [
        VerdictChange(check.suite, check.id, "new", None, check.verdict, check.reason)
        for key, check in new.items()
        if key not in old and is_asked(parts, owners.of_check(*key))
    ]


def _compare_check(old: Check, new: Check | None) -> VerdictChange:
    if new is None:
        why = "the check is not in this run"
        return VerdictChange(old.suite, old.id, "vanished", old.verdict, None, why)
    return VerdictChange(old.suite, old.id, _state(old, new), old.verdict, new.verdict, new.reason)


def _state(old: Check, new: Check) -> CheckState:
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
        "quantization": (
            baseline.model.quantization or "none",
            record.model.quantization or "none",
        ),
        "adapter": (baseline.model.adapter or "none", record.model.adapter or "none"),
        "attention": (baseline.model.attention, record.model.attention),
        "torch": (baseline.environment.torch, record.environment.torch),
        "transformers": (baseline.environment.transformers, record.environment.transformers),
        "device": (baseline.environment.device, record.environment.device),
    }
    lines += [f"{name} {old}, now {new}" for name, (old, new) in pairs.items() if old != new]
    for name, one in (("the baseline", baseline), ("this run", record)):
        if one.doubt:
            lines.append(f"{name} has {one.doubt}")
    lines += _lost_texts(baseline, record)
    if baseline.status != "complete":
        lines.append(f"the baseline is {baseline.status}")
    if record.status != "complete":
        lines.append(f"this run is {record.status}")
    return lines


def _lost_texts(baseline: RunRecord, record: RunRecord) -> list[str]:
    """What was measured on text in one record only, for want of a tokenizer."""
    lines = []
    for name, one, other in (
        ("the baseline", baseline, record),
        ("this run", record, baseline),
    ):
        note = one.model.tokenizer_note
        lost = [
            key
            for key, taken in one.measurements.items()
            if note and note in (taken.reason or "") and taken.status == "skipped"
            if key in other.measurements and other.measurements[key].status == "measured"
        ]
        if lost:
            lines.append(
                f"in {name} {note}, so {', '.join(lost)} cannot be paired: {WITH_TOKENIZER}"
            )
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
