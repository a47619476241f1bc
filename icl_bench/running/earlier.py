"""How long an earlier run on the same model took, from the record that it left."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from icl_bench.errors import IclError
from icl_bench.records.parts import Measurement
from icl_bench.records.reading import read_record
from icl_bench.suite.plan import Plan

RECORDS = ("results.partial.json", "results.json")
"""Records of a model's folder; what the later one says counts."""


def earlier_seconds(plan: Plan, folder: Path) -> Callable[[str], Mapping[str, float]]:
    """Return a function: name of a model -> digest of a measurement -> its seconds then.

    Only what was measured under the very settings of now tells anything. Of a series it is the
    mean of its checkpoints; what grew until its checks were decided is left out, because how far
    it will grow this time is not known.

    Args:
        plan: what is measured now.
        folder: where reports are written, a folder to a model.
    """

    def look(model: str) -> dict[str, float]:
        found: dict[str, float] = {}
        for name in RECORDS:
            try:
                record = read_record(folder / model / name)
            except (IclError, ValueError):
                continue
            for key, taken in record.measurements.items():
                planned = plan.measurements.get(key)
                if planned is None or planned.looks or planned.probe != taken.probe:
                    continue
                now = planned.settings.model_dump(mode="json", by_alias=True, exclude_none=True)
                if taken.settings == now and (seconds := _seconds_of(taken)) is not None:
                    found[planned.digest] = seconds
        return found

    return look


def _seconds_of(taken: Measurement) -> float | None:
    if taken.status != "measured" or taken.seconds is None:
        return None
    return taken.seconds / max(len(taken.tables.get("steps", [])), 1)
