"""Suites -> the measurements that a run needs, each once.

Resolved before any model is opened: names, overrides by options, and which measurements of
different suites are the same thing under two names.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from pydantic import BaseModel

from icl_bench.errors import InputError
from icl_bench.probes import get_probe
from icl_bench.probes.design.sequential import LookSettings
from icl_bench.probes.design.settings import source_of_heads, sources_of_heads
from icl_bench.suite import CheckSpec, QuizSpec, Suite


@dataclass(frozen=True)
class Planned:
    """One measurement of one suite.

    Args:
        key: `SUITE/NAME`.
        probe: name of the probe.
        settings: final settings: option, measurement, suite default, built-in, in this order.
        upstream: key of the measurement that heads are chosen from, or None.
        digest: equal for measurements that would give the same numbers.
        looks: with `until: decided`, the measurements of growing size that are taken one after
            the other until `checks` are decided; the last one taken is the result.
        checks: with `until: decided`, the checks and quiz items on this measurement.
        series: whether it is made from what was measured at every checkpoint of a series.
        sources: of such a measurement, role -> key of the measurement that it reads; of one whose
            heads are chosen from several, name in the suite -> key of each.
    """

    key: str
    probe: str
    settings: BaseModel
    upstream: str | None
    digest: str
    looks: tuple[Planned, ...] = ()
    checks: tuple[CheckSpec | QuizSpec, ...] = ()
    series: bool = False
    sources: Mapping[str, str] = field(default_factory=dict)


@dataclass
class Plan:
    """What a run measures and checks on every model.

    Args:
        suites: in the order asked for; no two of one name.
        measurements: key -> measurement.
    """

    suites: Sequence[Suite]
    measurements: dict[str, Planned] = field(default_factory=dict)

    def assertions(self) -> Iterator[tuple[Suite, CheckSpec | QuizSpec]]:
        """Every check and quiz item, in the order of the files."""
        for suite in self.suites:
            for spec in suite.assertions:
                yield suite, spec

    def unread(self, suite: Suite) -> list[str]:
        """Return keys of the suite's measurements that no check, and no other one of them, reads.

        They are there for the report: for a reader, not for a verdict.

        Args:
            suite: one of the plan's.
        """
        read = {suite.key(spec.on) for spec in suite.assertions}
        for planned in self.measurements.values():
            read |= {planned.upstream or "", *planned.sources.values()}
        return [key for name in suite.measure if (key := suite.key(name)) not in read]

    def only_measured(self) -> list[str]:
        """Return keys of the measurements of suites without checks and quiz items."""
        suites = [suite for suite in self.suites if not suite.assertions]
        return [suite.key(name) for suite in suites for name in suite.measure]

    def on_each_model(self, keys: Collection[str]) -> list[str]:
        """Return keys of what is measured for these on one model, or at every step of a series.

        For a series probe that is what it reads.

        Args:
            keys: `SUITE/NAME` of measurements that are asked for.
        """
        needed: set[str] = set()
        for key in keys:
            planned = self.measurements[key]
            needed |= set(planned.sources.values()) if planned.series else {key}
        return [key for key in self.measurements if key in needed]

    def find(self, suite_name: str, check_id: str) -> tuple[Suite, CheckSpec | QuizSpec]:
        """Return one check or quiz item.

        Raises:
            KeyError: there is none of that name.
        """
        for suite, spec in self.assertions():
            if suite.name == suite_name and spec.id == check_id:
                return suite, spec
        raise KeyError(f"{suite_name}::{check_id}")


def make_plan(suites: Sequence[Suite], *, seed: int | None = None) -> Plan:
    """Resolve suites into measurements.

    Args:
        suites: the suites; the same file twice counts once.
        seed: overrides every measurement's seed, or None.

    Raises:
        InputError: two different suites have one name, or there is none at all.
    """
    chosen: dict[str, Suite] = {}
    for suite in suites:
        other = chosen.setdefault(suite.name, suite)
        if other.path.resolve() != suite.path.resolve():
            raise InputError(
                f"two suites are named {suite.name!r}: {other.path} and {suite.path}; "
                "rename one ('name:' in the file)"
            )
    if not chosen:
        raise InputError("no suite to run")
    plan = Plan(list(chosen.values()))
    for suite in plan.suites:
        for name in suite.measure:
            _add(plan, suite, name, seed)
    return plan


def _add(plan: Plan, suite: Suite, name: str, seed: int | None) -> Planned:
    key = suite.key(name)
    if key in plan.measurements:
        return plan.measurements[key]
    spec = suite.measure[name]
    settings: Any = spec.settings
    if seed is not None and "seed" in type(settings).model_fields:
        settings = settings.model_copy(update={"seed": seed})
    source = source_of_heads(settings)
    upstream = None if source is None else _add(plan, suite, source, seed)
    read = {name: _add(plan, suite, name, seed) for name in sources_of_heads(settings)}
    planned = _describe(key, spec.probe, settings, upstream, read)
    if get_probe(spec.probe).is_series:
        sources = {
            role: _add(plan, suite, source, seed) for role, source in settings.sources.items()
        }
        planned = _describe_series(planned, sources)
    each_look = settings.each_look() if isinstance(settings, LookSettings) else []
    if each_look:
        looks = [_describe(key, spec.probe, look, upstream, read) for look in each_look]
        checks = tuple(one for one in suite.assertions if one.on == name)
        # How far it goes depends on what is asked of it; what each look finds does not.
        content = [[look.digest for look in looks], sorted(_rules_of(one) for one in checks)]
        planned = replace(planned, digest=_digest(content), looks=tuple(looks), checks=checks)
    plan.measurements[key] = planned
    return planned


def _describe(
    key: str,
    probe: str,
    settings: BaseModel,
    upstream: Planned | None,
    read: Mapping[str, Planned],
) -> Planned:
    described: dict[str, Any] = {
        "probe": probe,
        "settings": settings.model_dump(mode="json", by_alias=True),
        "upstream": upstream.digest if upstream else None,
    }
    if upstream:
        # What heads are chosen from is told by its digest; its name in the suite is not a setting.
        described["settings"]["heads"] = _without_names(described["settings"]["heads"], read)
    sources = {name: one.key for name, one in read.items()} if len(read) > 1 else {}
    planned = Planned(key, probe, settings, upstream.key if upstream else None, _digest(described))
    return replace(planned, sources=sources)


def _without_names(rule: dict[str, Any], read: Mapping[str, Planned]) -> dict[str, Any]:
    """How heads are chosen, rules within rules, with digests in place of the inner ones' names."""
    told = {name: value for name, value in rule.items() if name != "from"}
    for name in ("and", "without"):
        if inner := rule.get(name):
            told[name] = {
                **_without_names(inner, read),
                "upstream": read[inner["from"]].digest,
            }
    return told


def _describe_series(planned: Planned, sources: Mapping[str, Planned]) -> Planned:
    """The same measurement, with the digests of what it reads in place of their names."""
    settings = planned.settings.model_dump(mode="json", by_alias=True)
    described = {
        "probe": planned.probe,
        "settings": {name: value for name, value in settings.items() if name not in sources},
        "sources": {role: source.digest for role, source in sources.items()},
    }
    keys = {role: source.key for role, source in sources.items()}
    return replace(planned, digest=_digest(described), series=True, sources=keys)


def _rules_of(spec: CheckSpec | QuizSpec) -> str:
    """What a check asks, without what it is called."""
    rule: list[Any]
    if isinstance(spec, CheckSpec):
        rule = [spec.rule, spec.threshold, spec.tolerance]
    else:
        rule = [[asdict(one) for one in spec.supports], spec.expected]
    return json.dumps([spec.metric, rule], sort_keys=True)


def _digest(content: Any) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
