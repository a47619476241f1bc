"""Sets of other heads that the chosen ones are compared with, none of which they are in."""

from __future__ import annotations

from collections import Counter
from itertools import combinations, product

import pytest

from icl_bench.measures.null import ALL_SETS, ENOUGH_SETS, FEW_SETS, disjoint_sets


def layers(count, heads):
    return dict.fromkeys(range(count), heads)


@pytest.mark.parametrize(
    ("chosen", "heads", "expected"),
    [([(2, 0)], 32, 31), ([(2, 0)], 9, 8), ([(2, 0), (2, 1)], 9, 21), ([(2, 0), (3, 1)], 6, 25)],
)
def test_all_sets_are_taken_where_they_are_few(chosen, heads, expected):
    found = disjoint_sets(chosen, layers(6, heads), 19)
    wanted = Counter(layer for layer, _ in chosen)
    pools = [
        [tuple(some) for some in combinations(free, count)]
        for layer, count in sorted(wanted.items())
        for free in [[(layer, h) for h in range(heads) if (layer, h) not in chosen]]
    ]
    every = {tuple(sorted(sum(parts, ()))) for parts in product(*pools)}
    assert len(every) == expected <= ALL_SETS
    assert (set(found.sets), len(found.sets), found.radius) == (every, expected, 0)


@pytest.mark.parametrize(
    ("chosen", "heads"),
    [([(2, 0)], 34), ([(2, 0), (2, 1)], 12), ([(2, h) for h in range(5)] + [(3, 1)], 32)],
)
def test_of_many_sets_distinct_ones_are_drawn(chosen, heads):
    banned = [(2, heads - 1), (0, 0)]
    found = disjoint_sets(chosen, layers(6, heads), 19, seed=3, without=banned)
    assert (len(found.sets), len(set(found.sets)), found.radius) == (19, 19, 0)
    for some in found.sets:
        assert list(some) == sorted(set(some))
        assert Counter(layer for layer, _ in some) == Counter(layer for layer, _ in chosen)
        assert not {*some} & {*chosen, *banned}
    assert found == disjoint_sets(chosen, layers(6, heads), 19, seed=3, without=banned)
    assert found.sets != disjoint_sets(chosen, layers(6, heads), 19, seed=4, without=banned).sets


def test_what_feeds_leaves_few_sets_and_near_layers_come_in():
    heads = layers(5, 4)
    assert disjoint_sets([(2, 0)], heads, 19).radius == 0
    found = disjoint_sets([(2, 0)], heads, 19, without=[(2, 1), (1, 0)])
    assert found.radius == 1
    # Two of its own layer, three of the one below, four of the one above.
    assert len(found.sets) == 9 >= ENOUGH_SETS
    assert not {((2, 0),), ((2, 1),), ((1, 0),)} & set(found.sets)


def test_two_layers_share_no_head_when_near_ones_come_in():
    found = disjoint_sets([(1, 0), (1, 1), (2, 0), (2, 1)], layers(4, 2), 19)
    assert found.radius >= 1 and found.sets
    for some in found.sets:
        assert len(set(some)) == 4
        assert not {*some} & {(1, 0), (1, 1), (2, 0), (2, 1)}


def test_where_nowhere_are_enough_the_most_are_taken():
    found = disjoint_sets([(1, 0)], layers(2, 2), 19)
    assert (len(found.sets), found.radius) == (3, 1)
    few = disjoint_sets([(0, 0)], {0: 3}, 19)
    assert (len(few.sets), few.radius) == (2, 0) and len(few.sets) < FEW_SETS


def test_there_is_no_set_without_other_heads():
    every = [(layer, head) for layer in range(2) for head in range(2)]
    assert disjoint_sets(every, layers(2, 2), 19).sets == []
    assert disjoint_sets([(1, 0)], layers(2, 1), 19, without=[(0, 0)]).sets == []
