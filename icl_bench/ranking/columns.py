"""Which metrics the records of a suite have, and the one that ranks."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from icl_bench.errors import IclError, SettingsError, nearest
from icl_bench.probes import MetricInfo, get_probe
from icl_bench.ranking.entries import Entry
from icl_bench.records.keys import Key

DEFAULT_SUITE = "core"
DEFAULT_METRIC = "induction_max"

_LISTED = 30
"""Names that a message may list."""

Place = tuple[str, str]
"""`SUITE/MEASUREMENT` and metric."""


@dataclass(frozen=True)
class Column:
    """One metric of one measurement.

    Args:
        key: `SUITE/MEASUREMENT`.
        metric: its name.
        probe: the probe that measures it.
        meaning: what it is, in words.
        unit: its unit, in words.
        direction: which way is better; None for neither.
        exact: whether it has no sampling error.
        read: whether a check of the suite reads it.
    """

    key: str
    metric: str
    probe: str
    meaning: str = ""
    unit: str = ""
    direction: Literal["up", "down"] | None = None
    exact: bool = False
    read: bool = False

    @property
    def name(self) -> str:
        """`SUITE/MEASUREMENT.METRIC`."""
        return f"{self.key}.{self.metric}"

    @property
    def short(self) -> str:
        """`MEASUREMENT.METRIC`."""
        return f"{self.key.partition('/')[2]}.{self.metric}"

    @property
    def no_rank(self) -> str | None:
        """Why models are not ranked by it; None where they are."""
        if "p_value" in self.metric:
            return (
                "a p-value says whether an effect is beyond chance, not how large it is, and its "
                "smallest value depends on how many heads a layer has: its check judges it"
            )
        if self.direction is None:
            return "neither more nor less of it is better"
        return None


def choose_score(entries: Sequence[Entry], score: str | None, suite: str | None) -> Place:
    """Return the metric that ranks.

    Args:
        entries: the records.
        score: METRIC, MEASUREMENT.METRIC or SUITE/MEASUREMENT.METRIC; None for `induction_max` of
            suite `core` where records have it, else the metric of the first check, of the suite
            that most records share, that says which way is better.
        suite: the suite that it must be of; None for any.

    Raises:
        SettingsError: there is no such suite or metric, the name fits several, or the metric does
            not say which way is better.
    """
    shared = Counter(name for entry in entries for name in entry.suites)
    if suite is not None and suite not in shared:
        raise SettingsError(f"no record has a suite {suite!r}; {nearest(suite, shared)}")
    # Of those that equally many share the default comes first, then that of the first record.
    ordered = sorted(shared, key=lambda name: (-shared[name], name != DEFAULT_SUITE))
    if suite is not None:
        ordered = [suite]
    if score is not None:
        return _find(entries, score, ordered)
    if DEFAULT_SUITE in ordered and shared[DEFAULT_SUITE] >= min(2, shared[ordered[0]]):
        ordered.remove(DEFAULT_SUITE)
        ordered.insert(0, DEFAULT_SUITE)
    for name in ordered:
        columns = list_columns(entries, name)
        ranking = [column for column in columns if column.read and column.no_rank is None]
        usual = [column for column in ranking if column.metric == DEFAULT_METRIC]
        if name == DEFAULT_SUITE and usual:
            ranking = usual
        if ranking:
            return ranking[0].key, ranking[0].metric
    raise SettingsError(
        f"no check of suite {ordered[0]!r} reads a metric that says which way is better: "
        "name one with --score"
        if ordered
        else "the records hold no suite"
    )


def _find(entries: Sequence[Entry], score: str, suites: Sequence[str]) -> Place:
    columns = [column for name in suites for column in list_columns(entries, name)]
    fitting = [one for one in columns if score in (one.metric, one.short, one.name)]
    if not fitting:
        hint = nearest(score, {name for one in columns for name in (one.metric, one.name)})
        if not hint.startswith("did you mean") and len(columns) > _LISTED:
            read = {one.metric for one in columns if one.read and one.no_rank is None}
            hint = "those that checks read: " + ", ".join(sorted(read))
        where = f"suite {suites[0]!r}" if len(suites) == 1 else "the records"
        raise SettingsError(f"--score {score}: no such metric in {where}; {hint}")
    own = [one for one in fitting if Key(one.key).suite == Key(fitting[0].key).suite]
    able = [one for one in own if one.no_rank is None]
    if len(able) > 1:
        names = ", ".join(one.name for one in able)
        raise SettingsError(f"--score {score}: that may be {names}; name one of them")
    if not able:
        told = f" ({own[0].meaning})" if own[0].meaning else ""
        raise SettingsError(
            f"--score {score}: {own[0].name}{told} ranks no model: {own[0].no_rank}"
        )
    return able[0].key, able[0].metric


def list_columns(entries: Sequence[Entry], suite: str) -> list[Column]:
    """Return every metric of a suite: those that checks read in their order, then all others.

    Args:
        entries: the records.
        suite: the suite's name.
    """
    read: dict[Place, Literal["up", "down"] | None] = {}
    probes: dict[str, str] = {}
    others: dict[Place, None] = {}
    for entry in entries:
        for check in entry.checks:
            if check.suite == suite:
                read.setdefault((check.measurement, check.metric), check.direction)
        for key, taken in entry.taken.items():
            if Key(key).suite == suite:
                probes.setdefault(key, taken.probe)
                others |= dict.fromkeys((key, name) for name in taken.figures)
                others |= dict.fromkeys((key, name) for name in taken.unmeasured)
    known = {probe: _metrics_of(probe) for probe in set(probes.values())}
    columns = []
    for key, metric in dict.fromkeys([*read, *others]):
        probe = probes.get(key, "")
        info = known.get(probe, {}).get(metric)
        if info is None:
            info = MetricInfo("", read.get((key, metric)))
        columns.append(
            Column(
                key,
                metric,
                probe,
                info.meaning,
                info.unit,
                info.direction,
                info.exact,
                (key, metric) in read,
            )
        )
    return columns


def _metrics_of(probe: str) -> Mapping[str, MetricInfo]:
    try:
        return get_probe(probe).metrics
    except IclError:  # that of a later version, or somebody's own
        return {}
