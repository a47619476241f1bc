"""What became of each edit, and the figures of all of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

Verdict = Literal["killed", "survived", "passed", "false alarm", "absent", "not planted"]
"""`killed` and `survived` are for edits that change behaviour or may do so; `passed` and `false
alarm` for neutral ones; `absent` is not in this family; `not planted` broke."""
Change = Literal["changed", "neutral", "unclear"]


@dataclass(frozen=True)
class Moved:
    """How far a quantity moved, in nats, with its 95% interval.

    Args:
        value: after minus before; None where it is no finite number any more.
        low: lower end of the interval.
        high: upper end.
        delta: what counts as no change.
    """

    value: float | None
    low: float | None
    high: float | None
    delta: float


@dataclass(frozen=True)
class Outcome:
    """One edit at one place.

    Args:
        edit: its name.
        place: the head, as LAYER.HEAD, the layer, or the whole model.
        what: what it does.
        verdict: what became of it.
        change: whether it changed behaviour; None where it was not planted.
        neutral: whether it changes nothing by algebra.
        killed_by: checks, metrics and heads that noticed it.
        gain: change of the gain on varied repeats.
        text: change of the loss on text; None without text.
        reason: why it is absent or was not planted; of a survivor, what would have caught it.
        seconds: wall time, of opening checks, true change and suite together.
        cached: whether an earlier run measured it.
    """

    edit: str
    place: str
    what: str
    verdict: Verdict
    change: Change | None = None
    neutral: bool = False
    killed_by: Sequence[str] = ()
    gain: Moved | None = None
    text: Moved | None = None
    reason: str | None = None
    seconds: float | None = None
    cached: bool = False

    @property
    def name(self) -> str:
        """The edit and its place."""
        return f"{self.edit} {self.place}" if self.place else self.edit

    def as_data(self) -> dict[str, Any]:
        """Return everything as plain data."""
        return {**asdict(self), "killed_by": list(self.killed_by)}

    @classmethod
    def read(cls, data: Mapping[str, Any]) -> Outcome:
        """Return an outcome that `as_data` made plain data of."""
        moved = {name: Moved(**data[name]) if data.get(name) else None for name in ("gain", "text")}
        return cls(**{**data, **moved, "killed_by": tuple(data["killed_by"])})


@dataclass
class Mutation:
    """All edits of one model under some suites.

    Args:
        model: name of the model.
        suites: names of the suites.
        passing: checks that pass on the unedited model.
        checks: number of checks.
        baseline_seconds: what measuring the suites on the unedited model took.
        outcomes: in the order of the table of edits.
        left: names of edits that were not tried, where the run was interrupted.
        no_text: why no loss on text was measured; None where it was.
    """

    model: str
    suites: Sequence[str]
    passing: int = 0
    checks: int = 0
    baseline_seconds: float = 0.0
    outcomes: list[Outcome] = field(default_factory=list)
    left: Sequence[str] = ()
    no_text: str | None = None

    def of(self, *verdicts: Verdict) -> list[Outcome]:
        """Return the outcomes with one of some verdicts."""
        return [one for one in self.outcomes if one.verdict in verdicts]

    @property
    def changed(self) -> list[Outcome]:
        """Edits that changed behaviour."""
        return [one for one in self.outcomes if one.change == "changed"]

    @property
    def killed(self) -> list[Outcome]:
        """Those of them that the suite noticed."""
        return [one for one in self.changed if one.verdict == "killed"]

    @property
    def survivors(self) -> list[Outcome]:
        """Those of them that it did not notice."""
        return [one for one in self.changed if one.verdict == "survived"]

    @property
    def harmless(self) -> list[Outcome]:
        """Edits that changed nothing, by algebra or as measured."""
        return self.of("passed", "false alarm")

    @property
    def kill_rate(self) -> float | None:
        """Share of the edits that changed behaviour that the suite noticed; None without any."""
        return len(self.killed) / len(self.changed) if self.changed else None

    @property
    def pace(self) -> float | None:
        """Mean seconds of an edit over those of the suites on the unedited model."""
        times = [one.seconds for one in self.outcomes if one.seconds is not None and one.change]
        known = bool(times) and self.baseline_seconds > 0
        return sum(times) / len(times) / self.baseline_seconds if known else None

    def rows(self) -> list[dict[str, Any]]:
        """Return one flat row for each outcome, as the data frame has them."""
        return [_flat(one) for one in self.outcomes]

    def as_data(self) -> dict[str, Any]:
        """Return everything as plain data, for JSON."""
        return {
            "model": self.model,
            "suites": list(self.suites),
            "checks_passing": self.passing,
            "checks": self.checks,
            "status": "interrupted" if self.left else "complete",
            "not_tried": list(self.left),
            "no_text": self.no_text,
            "changed": len(self.changed),
            "killed": len(self.killed),
            "kill_rate": self.kill_rate,
            "neutral": len(self.harmless),
            "false_alarms": len(self.of("false alarm")),
            "baseline_seconds": self.baseline_seconds,
            "pace": self.pace,
            "outcomes": [one.as_data() for one in self.outcomes],
        }


COLUMNS = (
    *("edit", "place", "change", "verdict", "killed_by"),
    *("gain_change", "gain_ci_low", "gain_ci_high"),
    *("text_change", "text_ci_low", "text_ci_high", "reason", "seconds"),
)
"""Columns of the data frame."""


def _flat(one: Outcome) -> dict[str, Any]:
    row: dict[str, Any] = {
        "edit": one.edit,
        "place": one.place,
        "change": one.change,
        "verdict": one.verdict,
        "killed_by": list(one.killed_by),
    }
    for name, moved in (("gain", one.gain), ("text", one.text)):
        for key, value in (("change", "value"), ("ci_low", "low"), ("ci_high", "high")):
            row[f"{name}_{key}"] = None if moved is None else getattr(moved, value)
    return {**row, "reason": one.reason, "seconds": one.seconds}
