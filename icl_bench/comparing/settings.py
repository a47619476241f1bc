"""Settings of one measurement in two records: do their numbers estimate the same?"""

from __future__ import annotations

from icl_bench.probes.design.sequential import comparable_settings
from icl_bench.records.parts import Measurement


def differing_settings(before: Measurement, after: Measurement) -> str | None:
    """Return the first setting in which two measurements differ, or None.

    Another seed draws other tokens of the same kind: they estimate the same number, unpaired.

    Args:
        before: the baseline's.
        after: the one of now.
    """
    if before.probe != after.probe:
        return f"probe {before.probe}, now {after.probe}"
    mine, other = (comparable_settings(measurement.settings) for measurement in (before, after))
    for name in sorted((mine.keys() | other.keys()) - {"seed"}):
        if mine.get(name) != other.get(name):
            return f"{name} {mine.get(name)}, now {other.get(name)}"
    return None
