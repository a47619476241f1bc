"""What an interval of a bounded quantity can show at best; no numpy, for reading suites."""

from __future__ import annotations

import math

CONFIDENCE = 0.95

Bounds = tuple[float, float]
"""The lowest and the highest value that a single sample can have."""
UNIT: Bounds = (0.0, 1.0)
"""Bounds of scores, probabilities and shares."""
SIGNED: Bounds = (-1.0, 1.0)
"""Bounds of differences of two of these."""


def unseen_share(samples: int, confidence: float = CONFIDENCE) -> float:
    """Return the largest share of a population that no sample may have come from.

    u = 1 - (alpha/2)^(1/n): a larger share is missed by all n samples with a probability below
    alpha/2. At 95% it is .109 for 32 samples and .056 for 64.

    Args:
        samples: n, independent.
        confidence: 1 - alpha.
    """
    return 1 - math.pow((1 - confidence) / 2, 1 / samples)


def can_lie_within(
    region: Bounds, bounds: Bounds, samples: int, confidence: float = CONFIDENCE, open: bool = False
) -> bool:
    """Tell whether the interval of a bounded mean can lie inside a region for any data at all.

    The interval of a mean m reaches at least from m - u (m - lowest) to m + u (highest - m).

    Args:
        region: lowest and highest value that passes, in the metric's unit; infinite where open.
        bounds: of the metric.
        samples: that the mean is of.
        confidence: of the interval.
        open: whether the region's own ends lie outside it.
    """
    u = unseen_share(samples, confidence)
    lowest, highest = bounds
    least = max(lowest, (region[0] - u * lowest) / (1 - u))
    most = min(highest, (region[1] - u * highest) / (1 - u))
    return least < most if open else least <= most
