"""Sets of other heads, made again slowly: all of them listed, or drawn one head after another."""

from __future__ import annotations

from collections import Counter
from itertools import combinations, count, islice
from math import comb, prod

import pytest
from slow_draws import Raw

from icl_bench.measures import null


def listed(picks):
    """All sets of so many heads of each pool, sorted, none with a head twice."""
    found = {()}
    for pool, number in picks:
        found = {
            tuple(sorted([*some, *more]))
            for some in found
            for more in combinations(pool, number)
            if not {*some} & {*more}
        }
    return sorted(found)


def drawn(picks, seed, stream, banned, wanted):
    """So many different sets, or all that 50 times as many attempts give."""
    found = []
    for attempt in range(1, 50 * wanted + 1):
        slow, some = Raw(seed, stream, attempt), []
        for pool, number in picks:
            free = [head for head in pool if head not in some]
            if len(free) < number:
                break
            some += slow.shuffled(free, number)
        else:
            if (one := tuple(sorted(some))) not in [*found, banned]:
                found.append(one)
        if len(found) == wanted:
            break
    return found


def picks_of(chosen, heads, radius, banned=()):
    return [
        ([(la, h) for la in sorted(heads) if abs(la - layer) <= radius
          for h in range(heads[la]) if (la, h) not in banned], number)
        for layer, number in sorted(Counter(layer for layer, _ in chosen).items())
    ]  # fmt: skip


def ways(picks):
    return prod(comb(len(pool), number) for pool, number in picks)


def slow_matched(chosen, heads, wanted, alpha, seed):
    itself, strict = tuple(sorted(chosen)), []
    for radius in range(max(heads) - min(heads) + 1):
        picks = picks_of(chosen, heads, radius)
        if ways(picks) <= 20_000:
            found = [some for some in listed(picks) if some != itself]
            if len(found) > wanted:
                found = Raw(seed, "null").shuffled(found, wanted)
        else:
            found = drawn(picks, seed, "null", itself, wanted)
        strict = found if radius == 0 else strict
        if len(found) >= wanted or 1 / (1 + len(found)) <= alpha:
            return found, radius
    return strict, 0


ACROSS = [(0, 1), (1, 7), (2, 3)]
MATCHED = {
    "one head": ([(3, 0)], dict.fromkeys(range(6), 4), 9, 0.1),
    "near layers that just do": ([(1, 0)], {0: 4, 1: 4}, 99, 1 / 8),
    "near layers that just do not": ([(1, 0)], {0: 4, 1: 4}, 99, 0.124),
    "as many as are wanted": ([(1, 0)], {0: 4, 1: 6, 2: 4}, 5, 0.01),
    "one fewer": ([(1, 0)], {0: 4, 1: 6, 2: 4}, 6, 0.01),
    "far layers": ([(2, 1)], {2: 2, 3: 2, 5: 3, 9: 40}, 30, 0.05),
    "all of a layer": ([(0, 0), (0, 1)], {0: 2, 1: 3}, 9, 0.1),
    "two near layers": ([(1, 0), (2, 1)], {0: 3, 1: 2, 2: 2, 3: 3}, 99, 0.02),
    "20,000 sets": (ACROSS, {0: 20, 1: 40, 2: 25}, 3, 0.05),
    "20,001 sets": (ACROSS, {0: 3, 1: 59, 2: 113}, 3, 0.05),
    "few of many": ([(0, h) for h in range(4)], {0: 30}, 12, 0.05),
}


@pytest.mark.parametrize("name", MATCHED)
def test_matched_sets_are_those_of_slow_lists_and_draws(name):
    chosen, heads, wanted, alpha = MATCHED[name]
    for seed in (0, 3):
        more = {"seed": seed} if seed else {}
        found = null.matched_sets(chosen, heads, wanted, alpha, **more)
        assert (found.sets, found.radius) == slow_matched(chosen, heads, wanted, alpha, seed)
        assert found.p_min == 1 / (1 + len(found.sets))


def slow_disjoint(chosen, heads, wanted, seed, without):
    best, banned = ([], 0), {*chosen, *without}
    for radius in range(max(heads) - min(heads) + 1):
        picks = picks_of(chosen, heads, radius, banned)
        if ways(picks) <= 20_000:
            found = listed(picks)
            if len(found) > 31:
                found = Raw(seed, "disjoint").shuffled(found, wanted)
        else:
            found = drawn(picks, seed, "disjoint", (), wanted)
        if len(found) >= (7 if radius else 3):
            return found, radius
        if len(found) > len(best[0]):
            best = found, radius
    return best


DISJOINT = {
    "two others": ([(1, 0)], {0: 3, 1: 3, 2: 3}, []),
    "three others": ([(1, 0)], {0: 3, 1: 4, 2: 3}, []),
    "six near": ([(1, 0)], {0: 2, 1: 3, 2: 2, 3: 9}, []),
    "seven near": ([(1, 0)], {0: 2, 1: 3, 2: 3, 3: 9}, []),
    "as many near as far": ([(0, 0)], {0: 3, 1: 2, 2: 0}, []),
    "31 others": ([(0, 0)], {0: 32}, []),
    "32 others": ([(0, 0)], {0: 33}, []),
    "32 without one": ([(0, 0)], {0: 33}, [(0, 5)]),
    "20,000 sets": (ACROSS, {0: 21, 1: 41, 2: 26}, []),
    "20,001 sets": (ACROSS, {0: 4, 1: 60, 2: 114}, []),
    "no other": ([(0, 0), (0, 1)], {0: 3}, []),
    "far": ([(2, 0)], {2: 2, 3: 2, 5: 9}, [(3, 1)]),
}


@pytest.mark.parametrize("name", DISJOINT)
def test_disjoint_sets_are_those_of_slow_lists_and_draws(name):
    chosen, heads, without = DISJOINT[name]
    for seed in (0, 3):
        more = {"seed": seed, "without": without} if seed else {}
        found = null.disjoint_sets(chosen, heads, 5, **more)
        expected = slow_disjoint(chosen, heads, 5, seed, without if seed else [])
        assert (found.sets, found.radius) == expected


def test_sets_of_any_layer_are_listed_or_drawn_until_there_are_enough():
    heads, chosen = {1: 4, 0: 3}, [(1, 1), (0, 2)]
    pool = [(0, 0), (0, 1), (1, 0), (1, 2), (1, 3)]
    every = list(combinations(pool, 2))
    assert null.uniform_sets(chosen, heads, 10) == every
    assert null.uniform_sets(chosen, heads, 99) == every
    for seed in (0, 2):
        more = {"seed": seed} if seed else {}
        draws = (Raw(seed, "null", 10**6 + i).shuffled(pool, 2) for i in count())
        several = list(islice(dict.fromkeys(tuple(sorted(some)) for some in
                                            islice(draws, 200)), 9))  # fmt: skip
        assert null.uniform_sets(chosen, heads, 9, **more) == several
    assert null.uniform_sets([(0, 0), (0, 1)], {0: 4}, 5) == [((0, 2), (0, 3))]
    assert null.uniform_sets([(0, 0), (0, 1)], {0: 3}, 5) == []


@pytest.mark.parametrize("draws", [2, 3])
def test_draws_that_give_nothing_new_end_after_50_each(monkeypatch, draws):
    asked = []
    for found in (None, ((0, 5), (0, 6))):
        monkeypatch.setattr(null, "ENUMERABLE", 0)
        monkeypatch.setattr(null, "_draw_one", lambda *_, found=found: asked.append(1) or found)
        for make in (null.matched_sets, null.disjoint_sets):
            asked.clear()
            alpha = {"alpha": 1.0} if make is null.matched_sets else {}
            sets = make([(0, 1), (0, 2)], {0: 12}, draws, **alpha).sets
            assert (sets, len(asked)) == ([found] if found else [], 50 * draws)
