"""Records that can be compared with each other, and why others cannot."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from icl_bench.ranking.entries import Entry, Taken
from icl_bench.records.keys import Key


@dataclass
class Cluster:
    """Records of one suite whose score was measured in the same way.

    Args:
        entries: the records.
        digest: the suite's.
        settings: those of the score's measurement; None where no record has it.
        why: why they stand apart from the first cluster; None for the first.
    """

    entries: list[Entry]
    digest: str
    settings: dict[str, Any] | None
    why: str | None = None


def split(entries: Sequence[Entry], suite: str, key: str) -> list[Cluster]:
    """Return the records in clusters, the largest first.

    A record that does not have the measurement at all goes with the largest cluster of its suite.

    Args:
        entries: records that have the suite.
        suite: its name.
        key: `SUITE/MEASUREMENT` of the score.
    """
    found: dict[tuple[str, str], Cluster] = {}
    without: list[Entry] = []
    for entry in entries:
        taken, digest = entry.taken.get(key), entry.suites[suite]
        if taken is None:
            without.append(entry)
            continue
        place = (digest, f"{taken.probe} {taken.settings_key}")
        cluster = found.setdefault(place, Cluster([], digest, taken.comparable))
        cluster.entries.append(entry)
    clusters = sorted(found.values(), key=_size_and_age, reverse=True)
    for entry in without:
        digest = entry.suites[suite]
        own = [cluster for cluster in clusters if cluster.digest == digest]
        if not own:
            own = [Cluster([], digest, None)]
            clusters += own
        own[0].entries.append(entry)
    for number, cluster in enumerate(clusters[1:], start=2):
        cluster.why = _explain(suite, key, clusters[: number - 1], cluster)
    return clusters


def _size_and_age(cluster: Cluster) -> tuple[int, str]:
    return len(cluster.entries), max(entry.created for entry in cluster.entries)


def _explain(suite: str, key: str, before: Sequence[Cluster], cluster: Cluster) -> str:
    """Why a cluster is not one of those before it, by the nearest of them."""
    same = [
        (number, one)
        for number, one in enumerate(before, start=1)
        if one.digest == cluster.digest and one.settings is not None
    ]
    if not same:
        return (
            f"Kept apart: suite {suite} is not the one of group 1 (its digest is "
            f"{cluster.digest[:8]}, there {before[0].digest[:8]}), so its numbers may be of "
            "something else."
        )
    number, other = same[0]
    name = Key(key).name
    told = differ(cluster.settings or {}, other.settings or {}, f"in group {number}")
    return f"Kept apart: {name} was measured with {told or 'another probe'}."


def differ(settings: dict[str, Any], others: dict[str, Any], there: str) -> str | None:
    """Return in words in which settings two measurements differ; None where they do not.

    Args:
        settings: of the one.
        others: of the other.
        there: what the other is called.
    """
    told = []
    for name in sorted(settings.keys() | others.keys()):
        mine, other = settings.get(name), others.get(name)
        if mine == other:
            continue
        if name.endswith("_sha256"):
            what = "another text" if name.startswith("text") else f"another {name[:-7]}"
            told.append(f"{what} (SHA-256 {_show(mine)[:8]}, {there} {_show(other)[:8]})")
        else:
            told.append(f"{name} {_show(mine)} ({there} {_show(other)})")
    return ", ".join(told) or None


def _show(value: Any) -> str:
    return "not set" if value is None else str(value)


def usual(taken: Sequence[Taken]) -> Taken:
    """Return a measurement with the settings that most have.

    Args:
        taken: measurements of one name, at least one.
    """
    counts = Counter(f"{one.probe} {one.settings_key}" for one in taken)
    [(most, _)] = counts.most_common(1)
    return next(one for one in taken if f"{one.probe} {one.settings_key}" == most)
