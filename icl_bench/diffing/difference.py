"""What changed between two models: the result of a diff."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from html import escape
from typing import TYPE_CHECKING, Any

from icl_bench.comparing import Comparison
from icl_bench.diffing.places import Cause, Restored, find_cause
from icl_bench.diffing.verdict import write_verdict
from icl_bench.records.display import make_table
from icl_bench.records.parts import Metric
from icl_bench.records.record import RunRecord

if TYPE_CHECKING:
    import pandas as pd

TOP = 12
"""Places that a notebook shows."""


@dataclass(repr=False)
class Diff:
    """What changed between two models.

    Args:
        before: A's record.
        after: B's record.
        comparison: B against A.
        lost: of what B's loss is higher, `copying` or `text`, where places were restored.
        loss: nats that B's loss is higher, on the sequences on which places were restored.
        restored: every place of B that was restored from A, best first.
        remarks: what was left out, and why.
        strict: whether what cannot be told counts as worse.
    """

    before: RunRecord
    after: RunRecord
    comparison: Comparison
    lost: str | None = None
    loss: Metric | None = None
    restored: list[Restored] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)
    strict: bool = True

    @property
    def names(self) -> tuple[str, str]:
        """What A and B are called."""
        a, b = self.comparison.baseline, self.comparison.model
        return (f"{a} (A)", f"{b} (B)") if a == b else (a, b)

    @property
    def passes(self) -> bool:
        """Whether nothing is worse in B than in A."""
        return self.comparison.passes(self.strict)

    @property
    def verdict(self) -> str:
        """The result in one or two sentences."""
        return write_verdict(self)

    @property
    def cause(self) -> Cause | None:
        """The place that explains most of what was lost; None where none does."""
        return find_cause(self.restored)

    @property
    def heads(self) -> pd.DataFrame:
        """A row for each head of the circuit: measurement, kind, layer, head, state, a, b."""
        import pandas as pd

        columns = ["measurement", "kind", "layer", "head", "state", "a", "b"]
        rows = [
            (one.key, one.kind, one.layer, one.head, one.state, one.baseline, one.value)
            for one in self.comparison.heads
        ]
        return pd.DataFrame(rows, columns=columns)

    @property
    def metrics(self) -> pd.DataFrame:
        """A row for each metric: measurement, metric, state, a, b, difference, ci_low, ci_high,
        paired, allowed, and the smallest change that would have been seen."""
        import pandas as pd

        names = ["key", "metric", "state", "baseline", "value"]
        more = ["difference", "ci_low", "ci_high", "paired", "allowed"]
        rows = [
            (*(getattr(one, name) for name in (*names, *more)), one.seen)
            for one in self.comparison.metrics
        ]
        frame = pd.DataFrame(rows, columns=[*names, *more, "seen"])
        return frame.rename(columns={"key": "measurement", "baseline": "a", "value": "b"})

    @property
    def explained(self) -> pd.DataFrame:
        """A row for each place that was restored from A, best first: place, kind, layer, head,
        share of the loss that comes back, ci_low, ci_high, differs."""
        import pandas as pd

        columns = ["place", "kind", "layer", "head", "share", "ci_low", "ci_high", "differs"]
        rows = [
            [
                one.place.name,
                *asdict(one.place).values(),
                *(getattr(one, name) for name in columns[4:]),
            ]
            for one in self.restored
        ]
        return pd.DataFrame(rows, columns=columns).astype({"layer": "Int64", "head": "Int64"})

    def as_data(self) -> dict[str, Any]:
        """Return everything but the two records as plain data, for JSON."""
        found = self.comparison.as_data(self.strict)
        for told, metric in zip(found["metrics"], self.comparison.metrics):
            told["seen"] = metric.seen
        cause = self.cause
        return {
            "verdict": self.verdict,
            "passed": self.passes,
            "a": _describe(self.before),
            "b": _describe(self.after),
            "lost": self.lost,
            "loss": None if self.loss is None else self.loss.model_dump(exclude={"samples"}),
            "explained_by": None if cause is None else _place(cause.restored),
            "mostly": None if cause is None or cause.mostly is None else _place(cause.mostly),
            "explained": [_place(one) for one in self.restored],
            "remarks": [*self.remarks, *self.comparison.remarks],
            **{name: found[name] for name in ("checks", "metrics", "heads", "heads_left_out")},
        }

    def __repr__(self) -> str:
        return f"<Diff of {self.names[0]} and {self.names[1]}: {self.verdict[:600]}>"

    def _repr_html_(self) -> str:
        changed = [one for one in self.comparison.metrics if one.state != "same"]
        heads = [one for one in self.comparison.heads if one.state != "kept"]
        parts = [f"<p><b>{escape(self.verdict)}</b></p>"]
        rows: list[tuple[str, str, str, str]] = [
            (one.state, f"{one.key}.{one.metric}", _show(one.baseline), _show(one.value))
            for one in changed
        ]
        rows += [
            (one.state, f"{one.kind} head {one.name}", _show(one.baseline), _show(one.value))
            for one in heads
        ]
        if rows:
            parts.append(make_table(("state", "what", "A", "B"), rows))
        back = [(one.place.name, f"{one.share:.0%}") for one in self.restored[:TOP]]
        if back:
            parts.append(make_table(("restored from A", "brings back"), back))
        return f"<div>{''.join(parts)}</div>"


def _place(one: Restored) -> dict[str, Any]:
    return {"name": one.place.name, **asdict(one)}


def _describe(record: RunRecord) -> Mapping[str, Any]:
    names = ("spec", "slug", "revision", "fingerprint", "architecture", "layers", "heads", "dtype")
    return {name: getattr(record.model, name) for name in names}


def _show(value: float | None) -> str:
    return "" if value is None else f"{value:.3g}"
