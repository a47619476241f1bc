"""How far a number may move because the same sums were rounded in another order.

Another processor, thread count or version of a library adds the same numbers in another order.
Paired samples see that, for the noise between tokens is not in their differences, and exact numbers
have no interval at all: without a floor a model would fail against itself on another machine.
"""

from __future__ import annotations

from icl_bench.probes import MetricInfo
from icl_bench.records.parts import ModelInfo

FINE, COARSE = 1e-4, 1e-2
"""Floors in float32 and float64, and in everything narrower."""

_FINE_DTYPES = (None, "float32", "float64")  # None: a record that does not say
_COUNTS = ("heads", "items", "documents", "steps", "tokens")
"""Units of what is counted."""


def rounding_floor(before: ModelInfo, after: ModelInfo) -> float:
    """Return the floor for two models, as a share of a value, or absolute for values below 1.

    Args:
        before: how the baseline's model was run; the coarser of the two counts.
        after: how the one of now was.
    """
    return FINE if {before.dtype, after.dtype} <= set(_FINE_DTYPES) else COARSE


def rounding(floor: float, value: float, info: MetricInfo | None) -> float:
    """Return how far a metric may move by rounding alone, in its own unit; 0 for counts.

    Args:
        floor: of the two models.
        value: the baseline's value.
        info: what the probe says of the metric; None where it is not known.
    """
    return 0.0 if info is not None and info.unit in _COUNTS else floor * max(1.0, abs(value))
