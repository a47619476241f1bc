"""Drawing more sequences until a gate is decided, without passing more often by luck.

A 95% interval that is looked at again and again misses the truth at one look or another far more
often than 5% of the time. Here the looks are few and fixed beforehand (the sample doubles), and
each has its share of the 5%: K looks have intervals of confidence 1 - 0.05/K. By Boole's
inequality all of them hold together 95% of the time, whatever joins the looks and whatever rule
stops the sampling, as long as each holds on its own. For skewed values and for rare ones that takes
more than Student's t (`intervals.error_bounds`). Source: group-sequential testing with a spending
function (Pocock 1977; Lan & DeMets 1983), here the spending in equal parts.

docs/statistics.md has simulations beside the alternatives. Pocock's bounds and the asymptotic
confidence sequences (Waudby-Smith et al. 2024) are for means over one growing sample, which
cross-fitted maxima, counts and ratios are not; confidence sequences that hold for every law on
[0, 1] (Howard et al. 2021; Waudby-Smith & Ramdas 2024) are two to three times as wide.
"""

from __future__ import annotations

from icl_bench.measures.bounds import CONFIDENCE


def look_sizes(first: int, most: int) -> list[int]:
    """Return the sample sizes at which the data are looked at: doubling, the last one `most`.

    Args:
        first: samples at the first look, >= 1.
        most: samples at the last look, >= `first`.

    Raises:
        ValueError: `most` is below `first`.
    """
    if not 1 <= first <= most:
        raise ValueError(f"looks from {first} to {most} samples")
    sizes = [first]
    while sizes[-1] * 2 < most:
        sizes.append(sizes[-1] * 2)
    return sizes if sizes[-1] == most else [*sizes, most]


def look_confidence(looks: int) -> float:
    """Return the confidence of the interval at each of `looks` looks."""
    return 1 - (1 - CONFIDENCE) / looks
