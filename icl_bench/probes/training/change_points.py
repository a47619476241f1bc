"""Where every curve of a training run changes, or why there is nothing to locate."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from icl_bench.probes.training.phase_curves import QUANTITIES
from icl_bench.records.parts import Metric

if TYPE_CHECKING:
    from icl_bench.measures.phase import Change, Curve

ABSENT = {
    "text": "no 'text' in the suite",
    "induction_excess": "the source of 'scores' has no controls",
}
"""Curve that may be missing -> why it is."""


class Changes:
    """The changes of a training run's curves.

    Args:
        curves: name -> curve, turned so that learning makes it rise.
        minima: kind of a quantity -> rise below which there is no change to locate.
    """

    def __init__(self, curves: Mapping[str, Curve], minima: Mapping[str, float]) -> None:
        self.curves, self._minima = curves, minima
        self.p_values: dict[str, float] = {}
        """Curve -> p-value against gradual curves, where it has been taken."""
        found = {name: self._why_not(name) for name in QUANTITIES}
        self.reasons = {name: reason for name, reason in found.items() if reason}
        """Curve -> why it has no change."""

    def find(self, name: str, confidence: float = 0.95) -> Change:
        """Return the change of a curve that has one.

        Args:
            name: of the curve.
            confidence: of the intervals.
        """
        from icl_bench.measures.phase import find_change

        return find_change(self.curves[name], confidence)

    def rows(self) -> list[dict[str, Any]]:
        """Return one row per curve: its change, or the reason why none is located."""
        return [self._row(name) for name in self.curves]

    def _row(self, name: str) -> dict[str, Any]:
        from icl_bench.measures.phase import enclosing_steps

        curve = self.curves[name]
        row: dict[str, Any] = {"curve": name, **_cells("size", curve.rise())}
        if name in self.reasons:
            return {**row, "reason": self.reasons[name]}
        change = self.find(name)
        for part in ("onset", "midpoint", "end", "fastest", "sharpness"):
            row |= _cells(part, getattr(change, part))
        around = enclosing_steps(curve.steps, change.midpoint.value, change.midpoint.value)
        row |= {"midpoint_after": around[0], "midpoint_before": around[1]}
        row["setback"] = change.setback
        if name in self.p_values:
            row["null_p_value"] = self.p_values[name]
        return row

    def _why_not(self, name: str) -> str | None:
        if name not in self.curves:
            return ABSENT[name]
        quantity, curve = QUANTITIES[name], self.curves[name]
        minimum, rise = self._minima[quantity.kind], curve.rise()
        if rise.value >= minimum and (rise.ci_low is None or rise.ci_low > 0):
            return None
        ends = "" if rise.ci_low is None else f" [{rise.ci_low:.3f}, {rise.ci_high:.3f}]"
        lack = f"below {minimum:g}" if rise.value < minimum else "not surely above 0"
        return (
            f"no phase change: {quantity.told} is {rise.value:.3f}{ends} "
            f"from step {curve.steps[0]} to {curve.steps[-1]}, {lack}"
        )


def _cells(name: str, metric: Metric) -> dict[str, float]:
    """A metric's value and interval as cells of a row."""
    cells = {name: metric.value, f"{name}_ci_low": metric.ci_low, f"{name}_ci_high": metric.ci_high}
    return {key: value for key, value in cells.items() if value is not None}
