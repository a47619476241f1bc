"""What one evaluation in a training run found."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from icl_bench.comparing import Comparison
from icl_bench.records.record import RunRecord


@dataclass(frozen=True)
class Outcome:
    """What one evaluation found.

    Args:
        record: everything measured, with the step and the gates' verdicts.
        failures: gates that do not hold, in words; empty when training may go on.
        stop: whether training is to stop here.
        seconds: wall time of the evaluation.
        path: where the record was written, or None.
        comparison: this evaluation against the run's first; None for the first itself.
    """

    record: RunRecord
    failures: tuple[str, ...]
    stop: bool
    seconds: float
    path: Path | None
    comparison: Comparison | None = None

    @property
    def step(self) -> int:
        """Optimizer steps that the model had behind it."""
        assert self.record.step is not None
        return self.record.step

    def scalars(self) -> dict[str, float]:
        """Return everything that loggers can draw.

        Returns:
            `icl/SUITE/NAME/METRIC` -> value of every metric that was measured; for each suite
            `icl/SUITE/checks_passed`, `checks_failed` (broken ones too) and
            `checks_inconclusive`; with gates `icl/gates_failed`; after the first evaluation
            `icl/since_start/worse`, `better` and `heads_died`; `icl/seconds`.
        """
        scalars = {
            f"icl/{key}/{name}": metric.value
            for key, measurement in self.record.measurements.items()
            for name, metric in measurement.metrics.items()
        }
        kinds = {"passed": ("pass",), "failed": ("fail", "error"), "inconclusive": None}
        for suite in self.record.suites:
            verdicts = [check.verdict for check in self.record.checks if check.suite == suite.name]
            for kind, names in kinds.items():
                count = sum(verdict in (names or (kind,)) for verdict in verdicts)
                scalars[f"icl/{suite.name}/checks_{kind}"] = float(count)
        if self.record.gates:
            failed = sum(gate.verdict == "fail" for gate in self.record.gates)
            scalars["icl/gates_failed"] = float(failed)
        if (found := self.comparison) is not None:
            worse = found.count("regressed") + found.count("vanished")
            scalars["icl/since_start/worse"] = float(worse)
            scalars["icl/since_start/better"] = float(found.count("improved"))
            scalars["icl/since_start/heads_died"] = float(len(found.died))
        return scalars | {"icl/seconds": self.seconds}


def explain(failures: Sequence[str]) -> str:
    """Return why a run stops, in one line.

    Args:
        failures: gates that do not hold, in words.
    """
    return "training gate: " + "; ".join(failures)
