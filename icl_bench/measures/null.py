"""Random sets of heads to compare an ablation with."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from itertools import combinations
from math import comb, prod

from icl_bench.measures.draws import Draws

Head = tuple[int, int]
HeadSet = tuple[Head, ...]

ENUMERABLE = 20_000
"""Largest number of sets that is listed instead of drawn."""


@dataclass
class NullSets:
    """Distinct sets of heads, layer-matched to the selected ones and other than they.

    Args:
        sets: the sets, each sorted.
        radius: how many layers away a matched head may lie: 0 is the same layer.
    """

    sets: list[HeadSet]
    radius: int

    @property
    def p_min(self) -> float:
        """The smallest p-value that this null can give."""
        return 1 / (1 + len(self.sets))


def matched_sets(
    selected: Collection[Head],
    heads: Mapping[int, int],
    draws: int,
    alpha: float,
    seed: int = 0,
) -> NullSets:
    """Draw sets with as many heads, layer by layer, as `selected` has; never that very set.

    Selected heads may be in them. If the selected set is any set of these layers, it and the drawn
    ones are then exchangeable, and its rank among them is uniform: an exact permutation test,
    whatever the heads do together. Sets of unselected heads alone would share heads with each
    other and none with the selected ones, scatter less than a fresh set would, and call 14% of
    innocent sets of eight significant at 5%.

    Where the layers themselves have too few distinct sets for a p-value of `alpha`, heads may
    come from neighbouring layers, as far as needed. If that does not help, all sets of the
    layers themselves are used. Layers that can decide at `alpha` are not left, even when they
    have fewer than `draws` sets: a neighbour may hold the other half of the circuit, and a set
    with that in it does as much damage without being a fair comparison.

    Args:
        selected: the heads under test.
        heads: layer -> number of heads.
        draws: number of sets wanted.
        alpha: level that p-values should be able to reach.
        seed: seed of the draws.

    Source: Phipson & Smyth 2010 for the p-value (1 + sets at least as bad) / (1 + sets).
    """
    strict = _draw_within(set(selected), heads, 0, draws, seed)
    null, radius = strict, 0
    while not (len(null.sets) >= draws or null.p_min <= alpha):
        radius += 1
        if radius > max(heads) - min(heads):
            return strict
        null = _draw_within(set(selected), heads, radius, draws, seed)
    return null


FEW_SETS, ENOUGH_SETS, ALL_SETS = 3, 7, 31
"""With fewer sets than the first, heads of near layers are added until there are as many as the
second; up to the third, all that exist are taken."""


def disjoint_sets(
    selected: Collection[Head],
    heads: Mapping[int, int],
    draws: int,
    seed: int = 0,
    without: Collection[Head] = (),
) -> NullSets:
    """Draw sets of other heads, as many of each layer as `selected` has there.

    All sets where at most `ALL_SETS` exist, else distinct draws. Where the layers have fewer than
    `FEW_SETS`, heads of the nearest layers come in until there are `ENOUGH_SETS`.

    Args:
        selected: the heads under test, in no set.
        heads: layer -> number of heads.
        draws: number of sets wanted where there are many.
        seed: seed of the draws.
        without: further heads that are in no set, such as those that feed the selected ones.
    """
    wanted = sorted(Counter(layer for layer, _ in selected).items())
    banned, found = {*selected, *without}, NullSets([], 0)
    for radius in range(max(heads) - min(heads) + 1):
        pools = {
            layer: [head for head in _pool(heads, layer, radius) if head not in banned]
            for layer, _ in wanted
        }
        near = NullSets(_draw_disjoint(wanted, pools, draws, seed), radius)
        if len(near.sets) >= (FEW_SETS if radius == 0 else ENOUGH_SETS):
            return near
        found = near if len(near.sets) > len(found.sets) else found
    return found


def _draw_disjoint(
    wanted: list[tuple[int, int]], pools: Mapping[int, list[Head]], draws: int, seed: int
) -> list[HeadSet]:
    if any(len(pools[layer]) < count for layer, count in wanted):
        return []
    if prod(comb(len(pools[layer]), count) for layer, count in wanted) <= ENUMERABLE:
        every = _list_all(wanted, pools)
        return every if len(every) <= ALL_SETS else Draws(seed, "disjoint").choose(every, draws)
    drawn: dict[HeadSet, None] = {}
    for attempt in range(50 * draws):
        some = _draw_one(wanted, pools, Draws(seed, "disjoint", 1 + attempt))
        if some is not None:
            drawn[some] = None
        if len(drawn) == draws:
            break
    return list(drawn)


def _pool(heads: Mapping[int, int], layer: int, radius: int) -> list[Head]:
    """The heads of a layer and of those near it, in order."""
    near = [other for other in sorted(heads) if abs(other - layer) <= radius]
    return [(other, head) for other in near for head in range(heads[other])]


def uniform_sets(
    selected: Collection[Head], heads: Mapping[int, int], draws: int, seed: int = 0
) -> list[HeadSet]:
    """Draw distinct sets of as many unselected heads of any layer."""
    pool = sorted((la, h) for la in heads for h in range(heads[la]) if (la, h) not in set(selected))
    size = len(selected)
    if size > len(pool):
        return []
    if comb(len(pool), size) <= draws:
        return list(combinations(pool, size))
    drawn: dict[HeadSet, None] = {}
    attempt = 0
    while len(drawn) < draws:
        drawn[tuple(sorted(Draws(seed, "null", 10**6 + attempt).choose(pool, size)))] = None
        attempt += 1
    return list(drawn)


def _draw_within(
    selected: set[Head], heads: Mapping[int, int], radius: int, draws: int, seed: int
) -> NullSets:
    wanted = Counter(layer for layer, _ in selected)
    pools = {layer: _pool(heads, layer, radius) for layer in wanted}
    if any(len(pools[layer]) < count for layer, count in wanted.items()):
        return NullSets([], radius)
    itself = tuple(sorted(selected))
    ways = prod(comb(len(pools[layer]), count) for layer, count in wanted.items())
    if ways <= ENUMERABLE:
        every = [some for some in _list_all(sorted(wanted.items()), pools) if some != itself]
        if len(every) <= draws:
            return NullSets(every, radius)
        return NullSets(Draws(seed, "null").choose(every, draws), radius)
    drawn: dict[HeadSet, None] = {}
    for attempt in range(50 * draws):
        some = _draw_one(sorted(wanted.items()), pools, Draws(seed, "null", 1 + attempt))
        if some is not None and some != itself:
            drawn[some] = None
        if len(drawn) == draws:
            break
    return NullSets(list(drawn), radius)


def _draw_one(
    wanted: list[tuple[int, int]], pools: Mapping[int, list[Head]], draws: Draws
) -> HeadSet | None:
    chosen: set[Head] = set()
    for layer, count in wanted:
        free = [head for head in pools[layer] if head not in chosen]
        if len(free) < count:
            return None
        chosen.update(draws.choose(free, count))
    return tuple(sorted(chosen))


def _list_all(wanted: list[tuple[int, int]], pools: Mapping[int, list[Head]]) -> list[HeadSet]:
    partial: set[frozenset[Head]] = {frozenset()}
    for layer, count in wanted:
        partial = {
            chosen | frozenset(more)
            for chosen in partial
            for more in combinations([h for h in pools[layer] if h not in chosen], count)
        }
    return sorted(tuple(sorted(heads)) for heads in partial)
