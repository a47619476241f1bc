"""What was measured at every checkpoint of one training run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from icl_bench.record import Measurement


@dataclass(frozen=True)
class Series:
    """A training run as a series probe sees it: no model, only what was measured.

    A series probe has `measure_series(series, settings, context)` instead of `measure`, and its
    settings a property `sources`: the names of the measurements of the same suite that it reads.

    Args:
        steps: optimizer steps that were measured, ascending, each at least 0.
        measurements: name of a measurement in the suite -> what it gave, one for each of `steps`.
        training_loss: step -> recorded loss in nats, of any steps; empty when none was recorded.
        broken: step -> why this checkpoint could not be measured; not among `steps`.
    """

    steps: tuple[int, ...]
    measurements: Mapping[str, tuple[Measurement, ...]]
    training_loss: Mapping[int, float] = field(default_factory=dict)
    broken: Mapping[int, str] = field(default_factory=dict)
