"""Shipped suites of which two records hold different versions: what of them is still comparable.

An update of icl_bench may change its own suites. What changed or is gone in them says nothing of
the model, so it is noted; in a suite of the user's own the same is a regression. A suite that
extends a shipped one has both: what it takes from there, and what it gives or removes itself.
"""

from __future__ import annotations

from icl_bench.comparing.settings import differing_settings
from icl_bench.records.parts import Check, Measurement, SuiteRef
from icl_bench.records.record import RunRecord

Renewed = dict[str, tuple[int, int]]
"""Name of a suite that is shipped, or extends a shipped one -> the version of that one in the
baseline and now, where they differ."""

_ASKED = ("kind", "measurement", "metric", "rule", "threshold", "question", "options", "expected")
"""What a check asks; what it found is not among it."""


def find_renewed(baseline: RunRecord, record: RunRecord) -> Renewed:
    """Return the suites that are another version of a shipped one, or of one that they extend.

    Args:
        baseline: what was before; one of before versions were recorded has version 1.
        record: what is now.
    """
    now = {suite.name: suite for suite in record.suites}
    return {
        old.name: renewal[1:]
        for old in baseline.suites
        if (new := now.get(old.name)) and (renewal := _find_renewal(old, new))
    }


def _find_renewal(old: SuiteRef, new: SuiteRef) -> tuple[str, int, int] | None:
    """Return name and versions of the shipped suite that has changed; None where none has."""
    if _is_shipped(old, new):
        return (old.name, old.version, new.version) if old.version != new.version else None
    before = {base.name: base.version for base in old.extends if base.shipped}
    for base in new.extends:
        if base.shipped and before.get(base.name, base.version) != base.version:
            return base.name, before[base.name], base.version
    return None


def _is_own(suite: str, name: str, *records: RunRecord) -> bool:
    """Whether a suite's user has given, changed or removed a check or measurement of that name."""
    return any(name in ref.own for one in records for ref in one.suites if ref.name == suite)


def _is_shipped(old: SuiteRef, new: SuiteRef) -> bool:
    """Whether both are the shipped suite of that name; an older record does not say."""
    return {old.shipped, new.shipped} in ({True}, {True, None})


def describe_versions(baseline: RunRecord, record: RunRecord) -> list[str]:
    """Return remarks on suites that have changed since the baseline.

    Args:
        baseline: what was before.
        record: what is now.
    """
    before = {suite.name: suite for suite in baseline.suites}
    lines = []
    for new in sorted(record.suites, key=lambda suite: suite.name):
        old = before.get(new.name)
        if old is None or (old.sha256, old.version) == (new.sha256, new.version):
            continue
        renewal = _find_renewal(old, new)
        name, then, now = renewal or (new.name, old.version, new.version)
        versions = f"version {then} then, version {now} now"
        if renewal:
            which = f"{new.name!r}" if name == new.name else f"{new.name!r} extends {name!r}"
            told = "what was changed or removed in it is not compared"
            lines.append(f"suite {which}: {versions}; {told}: renew the baseline")
        elif old.version != new.version:
            lines.append(f"suite {new.name!r} has changed since the baseline: {versions}")
        else:
            lines.append(f"suite {new.name!r} has changed since the baseline")
    return lines


def changed_check(
    old: Check, new: Check | None, baseline: RunRecord, record: RunRecord
) -> str | None:
    """Return why a check of a renewed suite asks something else now; None where it does not.

    Args:
        old: the baseline's.
        new: the one of the same name now; None where it is gone.
        baseline: what was before.
        record: what is now.
    """
    if _is_own(old.suite, old.id, baseline, record):
        return None
    if new is None:
        return "removed from the suite"
    for name in _ASKED:
        if getattr(old, name) != getattr(new, name):
            return f"its {name} has changed in the suite"
    before = baseline.measurements.get(old.measurement)
    return changed_measurement(old.measurement, before, record) if before else None


def changed_measurement(key: str, before: Measurement, record: RunRecord) -> str | None:
    """Return why a measurement of a renewed suite is another one now; None where it is not.

    Args:
        key: `SUITE/MEASUREMENT`.
        before: the baseline's.
        record: what is now.
    """
    suite, _, name = key.partition("/")
    if _is_own(suite, name, record):
        return None
    after = record.measurements.get(key)
    if after is None:  # a check that reads it says that it is still asked for, and broke
        asked = any(check.measurement == key for check in record.checks)
        return None if asked else "its measurement was removed from the suite"
    if before.status == after.status == "measured":
        differing = differing_settings(before, after)
        return differing and f"its settings have changed in the suite ({differing})"
    return None
