"""Heads chosen by several rules: those that `and` chooses too, without those of `without`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from pydantic import Field

from icl_bench.errors import MeasurementError
from icl_bench.probes.design.settings import HeadSelection
from icl_bench.records.parts import Measurement

Head = tuple[int, int]
Qualify = Callable[[HeadSelection, Measurement], Iterable[dict[str, Any]]]
"""Rows of the heads that one rule chooses from one measurement."""


class Upstream(Measurement):
    """The measurement that heads are chosen from, where their rule reads others beside it."""

    read: dict[str, Measurement] = Field(default_factory=dict, exclude=True)
    """Name in the suite -> measurement, of every one that the rule names."""


def combine(first: Measurement, read: Mapping[str, Measurement]) -> Measurement:
    """Return what heads are chosen from, as one measurement.

    Args:
        first: the one that the rule itself names.
        read: name in the suite -> measurement, where rules within it name others.
    """
    return Upstream.model_construct(**dict(first), read=dict(read)) if read else first


def parts_of(upstream: Measurement | None) -> list[Measurement]:
    """Return all measurements that heads are chosen from.

    Args:
        upstream: what `combine` returned; None for none.
    """
    if isinstance(upstream, Upstream):
        return list(upstream.read.values())
    return [] if upstream is None else [upstream]


def choose_by_rules(rule: HeadSelection, upstream: Measurement, qualify: Qualify) -> list[Head]:
    """Return the heads that a rule and the rules within it choose, sorted.

    Args:
        rule: the rule.
        upstream: what `combine` returned for it.
        qualify: what one rule chooses.

    Raises:
        MeasurementError: a measurement that a rule names is missing.
    """
    rows = qualify(rule, upstream)
    return sorted(narrow(rule, upstream, {_place(row) for row in rows}, qualify))


def narrow(
    rule: HeadSelection, upstream: Measurement, found: set[Head], qualify: Qualify
) -> set[Head]:
    """Return those of some heads that the rules within a rule leave.

    Args:
        rule: the rule.
        upstream: what `combine` returned for it.
        found: heads that the rule itself chooses.
        qualify: what one rule chooses.

    Raises:
        MeasurementError: a measurement that a rule names is missing.
    """
    if rule.and_ is not None:
        found = found & _choose(rule.and_, upstream, qualify)
    if rule.without is not None:
        found = found - _choose(rule.without, upstream, qualify)
    return found


def _choose(rule: HeadSelection, upstream: Measurement, qualify: Qualify) -> set[Head]:
    known = upstream.read if isinstance(upstream, Upstream) else {}
    source = known.get(rule.from_ or "")
    if source is None:
        raise MeasurementError(f"the measurement {rule.from_!r} to choose heads from is missing")
    return narrow(rule, upstream, {_place(row) for row in qualify(rule, source)}, qualify)


def _place(row: dict[str, Any]) -> Head:
    return row["layer"], row["head"]
