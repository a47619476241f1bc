"""Random sets of heads: matched by layer, distinct, widened only where that helps."""

from __future__ import annotations

from collections import Counter
from math import comb

import numpy as np
import pytest

from icl_bench.measures import null
from icl_bench.measures.null import matched_sets, uniform_sets

MANY = dict.fromkeys(range(30), 9)
SELECTED = [(17, 3), (17, 4), (17, 5), (18, 6), (18, 7), (20, 6), (23, 2), (23, 7)]


def test_sets_have_as_many_heads_in_every_layer():
    null = matched_sets(SELECTED, MANY, draws=99, alpha=0.05)
    assert (null.radius, len(null.sets), len(set(null.sets))) == (0, 99, 99)
    wanted = Counter(layer for layer, _ in SELECTED)
    for heads in null.sets:
        assert len(set(heads)) == len(SELECTED)
        assert Counter(layer for layer, _ in heads) == wanted
        assert heads != tuple(SELECTED)
        assert all(0 <= head < 9 for _, head in heads)
    # Selected heads are drawn like any others: (3 x 3 + 2 x 2 + 1 + 2 x 2) / 9 on average.
    shared = sum(len(set(heads) & set(SELECTED)) for heads in null.sets) / 99
    assert shared == pytest.approx(2, abs=0.35)


def test_the_same_seed_gives_the_same_sets():
    one, two = (matched_sets(SELECTED, MANY, 20, 0.05, seed=5).sets for _ in range(2))
    assert one == two
    assert one != matched_sets(SELECTED, MANY, 20, 0.05, seed=6).sets


def test_the_sets_of_a_seed_are_these():
    """Published p-values hang on them: another draw would change every number."""
    drawn = [matched_sets(SELECTED, MANY, 2, 0.05, seed=seed).sets for seed in (0, 5)]
    assert drawn == [
        [
            ((17, 0), (17, 2), (17, 7), (18, 0), (18, 4), (20, 2), (23, 3), (23, 5)),
            ((17, 3), (17, 6), (17, 8), (18, 2), (18, 7), (20, 6), (23, 0), (23, 2)),
        ],
        [
            ((17, 4), (17, 5), (17, 6), (18, 0), (18, 6), (20, 4), (23, 3), (23, 5)),
            ((17, 1), (17, 2), (17, 6), (18, 0), (18, 6), (20, 8), (23, 0), (23, 2)),
        ],
    ]
    few = [matched_sets([(1, 0), (1, 4)], {0: 12, 1: 12}, 3, 0.5, seed=seed) for seed in (0, 5)]
    assert [null.sets for null in few] == [
        [((1, 1), (1, 4)), ((1, 3), (1, 10)), ((1, 4), (1, 10))],
        [((1, 3), (1, 4)), ((1, 6), (1, 11)), ((1, 5), (1, 6))],
    ]


def test_a_layer_with_enough_sets_for_alpha_is_not_left():
    null = matched_sets([(1, 0)], {0: 24, 1: 24}, draws=99, alpha=0.05)
    assert (null.radius, len(null.sets)) == (0, 23)
    assert null.p_min == pytest.approx(1 / 24)


def test_the_other_half_of_the_circuit_stays_out_of_a_null_that_can_decide():
    """Twelve heads give 65 other pairs: fewer than 99, but enough; layer 0 must not come in."""
    null = matched_sets([(1, 0), (1, 4)], {0: 12, 1: 12}, draws=99, alpha=0.05)
    assert (null.radius, len(null.sets)) == (0, 65)
    assert {layer for some in null.sets for layer, _ in some} == {1}


def test_too_few_sets_widen_to_neighbours_until_alpha_can_be_reached():
    heads = dict.fromkeys(range(6), 4)
    null = matched_sets([(3, 0)], heads, draws=99, alpha=0.05)
    assert null.radius == 2
    assert len(null.sets) == 19
    assert {layer for some in null.sets for layer, _ in some} == {1, 2, 3, 4, 5}


def test_where_widening_does_not_help_all_sets_of_the_layer_are_used():
    null = matched_sets([(1, 0)], {0: 4, 1: 4}, draws=99, alpha=0.05)
    assert null.radius == 0
    assert sorted(null.sets) == [((1, 1),), ((1, 2),), ((1, 3),)]
    assert null.p_min == 0.25


def test_a_layer_that_is_all_selected_leaves_nothing_there():
    null = matched_sets([(0, 0), (0, 1)], {0: 2}, draws=9, alpha=0.05)
    assert null.sets == []


def test_small_spaces_are_listed_whole_and_once():
    heads = {0: 5, 1: 5}
    null = matched_sets([(0, 0), (1, 0), (1, 1)], heads, draws=50, alpha=0.05)
    if null.radius == 0:
        assert len(null.sets) == comb(5, 1) * comb(5, 2) - 1
    assert len(set(null.sets)) == len(null.sets)


def test_uniform_sets_may_come_from_any_layer():
    sets = uniform_sets(SELECTED, MANY, 60)
    assert len(set(sets)) == 60
    assert sets[:2] == [
        ((4, 7), (8, 4), (10, 5), (20, 2), (20, 8), (24, 7), (27, 8), (29, 6)),
        ((1, 1), (2, 3), (4, 1), (7, 6), (21, 8), (25, 0), (25, 2), (29, 3)),
    ]
    backwards = dict.fromkeys(reversed(range(30)), 9)
    assert uniform_sets(SELECTED, backwards, 1, seed=5) == [
        ((6, 6), (6, 8), (8, 1), (9, 1), (9, 7), (14, 6), (17, 6), (25, 6))
    ]
    assert all(len(some) == 8 and not set(some) & set(SELECTED) for some in sets)
    assert len({layer for some in sets for layer, _ in some}) > 20
    assert len(uniform_sets([(0, 0)], {0: 3}, 60)) == 2
    assert uniform_sets([(0, 0), (0, 1)], {0: 3}, 60) == []


def test_an_innocent_set_has_any_rank():
    """When nothing is there, p-values are uniform: exact, since all sets are exchangeable."""
    generator = np.random.default_rng(0)
    heads = {0: 4, 1: 5}
    selected = [(0, 0), (0, 1), (1, 2)]
    p_values = []
    for seed in range(2000):
        damage = {(la, h): generator.exponential() for la in heads for h in range(heads[la])}
        null = matched_sets(selected, heads, draws=19, alpha=0.05, seed=seed)
        assert len(null.sets) == 19
        observed = sum(damage[head] for head in selected)
        worse = sum(sum(damage[head] for head in some) >= observed for some in null.sets)
        p_values.append((1 + worse) / 20)
    for level in (0.05, 0.25, 0.5):
        share = np.mean([p <= level for p in p_values])
        assert share == pytest.approx(level, abs=4 * (level * (1 - level) / 2000) ** 0.5)


def test_a_draw_that_fails_or_gives_the_chosen_heads_is_no_set(monkeypatch):
    chosen = [(0, 1), (0, 2)]
    drawn = [None, tuple(chosen), ((0, 3), (0, 4)), ((0, 5), (0, 6))]
    monkeypatch.setattr(null, "ENUMERABLE", 0)
    monkeypatch.setattr(null, "_draw_one", lambda *_: drawn.pop(0))
    found = null.matched_sets(chosen, {0: 12}, draws=2, alpha=0.5, seed=0)
    assert found.sets == [((0, 3), (0, 4)), ((0, 5), (0, 6))]
