"""Records in order, with the ranks that each may have by every metric."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from icl_bench.probes.design.sequential import looks_of
from icl_bench.ranking.circuit import why_no_circuit
from icl_bench.ranking.columns import Column, choose_score, list_columns
from icl_bench.ranking.entries import Entry, Figure, Taken
from icl_bench.ranking.groups import Cluster, differ, split, usual
from icl_bench.ranking.pairs import Pairs, rank_ranges, tell_apart
from icl_bench.ranking.remarks import describe_group, describe_row
from icl_bench.records.keys import Key
from icl_bench.records.parts import Verdict


@dataclass
class Cell:
    """One metric of one model.

    Args:
        figure: the number; None where it was not measured.
        rank: the best and the worst rank that the model may have; None where it is not ranked.
        reason: why there is no number or no rank.
        no_circuit: why the rank is the one that models without a circuit share; None where it is
            the model's own.
    """

    figure: Figure | None = None
    rank: tuple[int, int] | None = None
    reason: str | None = None
    no_circuit: str | None = None


@dataclass
class Row:
    """One record in its group.

    Args:
        entry: the record.
        name: what the model is called in this table; no two rows share it.
        cells: one per column of the board.
        verdicts: how many checks of the suite got which verdict.
        twin: index, in the group's rows, of the newest record of the same weights; None where this
            is the newest.
        remarks: what a reader has to know of it.
    """

    entry: Entry
    name: str
    cells: list[Cell]
    verdicts: Counter[Verdict]
    twin: int | None = None
    remarks: list[str] = field(default_factory=list)


@dataclass
class Group:
    """Records that can be compared, best score first, those without a score last.

    Args:
        digest: that of the suite.
        why: why they stand apart from the first group; None for the first.
        rows: the records.
        ranked: how many of them have a rank by the score; they come first.
        pairs: differences of the score between the ranked rows, in their order.
        remarks: what a reader has to know of all of them.
    """

    digest: str
    why: str | None
    rows: list[Row]
    ranked: int
    pairs: Pairs
    remarks: list[str] = field(default_factory=list)


@dataclass
class Board:
    """A leaderboard.

    Args:
        suite: the suite's name.
        columns: its metrics; those that checks read come first.
        score: index of the column that ranks.
        groups: records that can be compared, the largest group first.
        absent: records without the suite, as (name, suites that they have).
        broken: messages about files that could not be read.
    """

    suite: str
    columns: list[Column]
    score: int
    groups: list[Group]
    absent: list[tuple[str, list[str]]] = field(default_factory=list)
    broken: list[str] = field(default_factory=list)

    @property
    def column(self) -> Column:
        """The column that ranks."""
        return self.columns[self.score]


def rank(
    entries: Sequence[Entry],
    score: str | None = None,
    suite: str | None = None,
    broken: Sequence[str] = (),
) -> Board:
    """Rank models by one metric, and by every other metric beside it.

    Args:
        entries: the records.
        score: METRIC, MEASUREMENT.METRIC or SUITE/MEASUREMENT.METRIC; None for the default.
        suite: the suite; None for that of the score.
        broken: messages about files that could not be read, for the reader of the board.

    Raises:
        SettingsError: there is no such suite or metric, or it does not rank.
    """
    key, metric = choose_score(entries, score, suite)
    name = Key(key).suite
    members = [entry for entry in entries if name in entry.suites]
    columns = list_columns(members, name)
    index = next(i for i, one in enumerate(columns) if (one.key, one.metric) == (key, metric))
    groups = [_group(cluster, columns, index, name) for cluster in split(members, name, key)]
    absent = [(_name(entry), list(entry.suites)) for entry in entries if name not in entry.suites]
    return Board(name, columns, index, groups, absent, list(broken))


def _group(cluster: Cluster, columns: Sequence[Column], score: int, suite: str) -> Group:
    entries = _order(cluster.entries, columns[score])
    names = _unique_names(entries)
    rows = [
        Row(entry, name, [], Counter(c.verdict for c in entry.checks if c.suite == suite))
        for entry, name in zip(entries, names)
    ]
    _mark_twins(rows)
    pairs = None
    for index, column in enumerate(columns):
        places = _fill(rows, column)
        if column.no_rank is None:
            told = _rank(rows, column, places)
            pairs = told if index == score else pairs
    assert pairs is not None
    ranked = sum(row.cells[score].rank is not None for row in rows)
    for row in rows:
        row.remarks += describe_row(row)
    group = Group(cluster.digest, cluster.why, rows, ranked, pairs)
    group.remarks = list(describe_group(group, columns[score], score))
    return group


def _order(entries: Sequence[Entry], column: Column) -> list[Entry]:
    """Best value first, of equal ones the newest; then those without a circuit, or a value."""
    sign = -1 if column.direction == "up" else 1

    def place(entry: Entry) -> tuple[bool, bool, float]:
        taken = entry.taken.get(column.key)
        figure = None if taken is None else taken.figures.get(column.metric)
        if taken is None or figure is None:
            return True, False, 0.0
        return False, why_no_circuit(taken, column.metric) is not None, sign * figure.value

    newest_first = sorted(entries, key=lambda entry: entry.created, reverse=True)
    return sorted(newest_first, key=place)


def _name(entry: Entry) -> str:
    model = entry.model
    single = model.revision and not model.steps
    return model.label + (f"@{model.revision}" if single else "")


def _unique_names(entries: Sequence[Entry]) -> list[str]:
    """Names of models; where several share one, that of the record's folder is added."""
    names = [_name(entry) for entry in entries]
    folders = [entry.path.resolve().parent.name for entry in entries]
    for further in (folders, [str(entry.path) for entry in entries]):
        counts = Counter(names)
        names = [
            f"{_name(entry)} ({told})" if counts[name] > 1 else name
            for entry, name, told in zip(entries, names, further)
        ]
    return names


def _mark_twins(rows: Sequence[Row]) -> None:
    """Let older records of the same weights name the newest one; rows share their settings."""
    newest: dict[str, int] = {}
    for index, row in enumerate(rows):
        digest = row.entry.model.fingerprint
        if digest is None:
            continue
        other = newest.get(digest)
        if other is None or rows[other].entry.created < row.entry.created:
            newest[digest] = index
    for index, row in enumerate(rows):
        digest = row.entry.model.fingerprint
        if digest is not None and newest[digest] != index:
            row.twin = newest[digest]
            row.remarks.append(
                f"the same weights as {rows[row.twin].name}, measured before it: shown, and not "
                "counted in the others' ranks"
            )


def _fill(rows: Sequence[Row], column: Column) -> list[int]:
    """Give every row its cell of one column; return the rows whose numbers can be compared."""
    present = [row.entry.taken[column.key] for row in rows if column.key in row.entry.taken]
    norm = usual(present) if present else None
    ranked: list[int] = []
    for index, row in enumerate(rows):
        cell = _cell(row.entry, column, norm)
        row.cells.append(cell)
        if cell.figure is not None and cell.reason is None:
            ranked.append(index)
    return ranked


def _rank(rows: Sequence[Row], column: Column, ranked: Sequence[int]) -> Pairs:
    """Give the rows that have a comparable number their ranks by the last column filled."""
    figures, taken = [], []
    for index in ranked:
        figure = rows[index].cells[-1].figure
        assert figure is not None
        figures.append(figure)
        taken.append(rows[index].entry.taken[column.key])
    pairs = tell_apart(
        figures,
        [one.tokens for one in taken],
        exact=column.exact,
        looks=max((looks_of(one.settings) for one in taken), default=1),
    )
    assert column.direction is not None
    place = {index: position for position, index in enumerate(ranked)}
    better = pairs.better(column.direction)
    lacking = [why_no_circuit(one, column.metric) for one in taken]
    without = np.array([why is not None for why in lacking], dtype=bool)
    # Whoever has a circuit stands above whoever has none, and those share a rank.
    better[without] = False
    better[np.ix_(~without, without)] = True
    ranges = rank_ranges(better, _twins(rows, ranked, place))
    for index, found, why in zip(ranked, ranges, lacking):
        rows[index].cells[-1].rank, rows[index].cells[-1].no_circuit = found, why
    return pairs


def _twins(rows: Sequence[Row], ranked: Sequence[int], place: dict[int, int]) -> list[int | None]:
    """Positions of the twins among the ranked rows; a twin without a number stands for nobody."""
    found: list[int | None] = []
    standing: dict[int, int] = {}
    for index in ranked:
        twin = rows[index].twin
        if twin is None:
            found.append(None)
        elif twin in place:
            found.append(place[twin])
        else:
            found.append(standing.get(twin))
            standing.setdefault(twin, place[index])
    return found


def _cell(entry: Entry, column: Column, norm: Taken | None) -> Cell:
    taken = entry.taken.get(column.key)
    if taken is None:
        return Cell(reason=_why_absent(entry, column))
    figure = taken.figures.get(column.metric)
    if figure is None:
        unmeasured = taken.unmeasured.get(column.metric)
        return Cell(reason=unmeasured or taken.reason or "not among what the probe gave")
    if norm is not None and (taken.probe, taken.settings_key) != (norm.probe, norm.settings_key):
        told = differ(taken.comparable, norm.comparable, "elsewhere")
        return Cell(figure, reason=f"not comparable: {told or 'another probe'}")
    return Cell(figure)


def _why_absent(entry: Entry, column: Column) -> str:
    for check in entry.checks:
        if (check.measurement, check.metric) == (column.key, column.metric) and check.reason:
            return check.reason
    if entry.status != "complete":
        return f"not in this {entry.status} run"
    return "not in this record"
