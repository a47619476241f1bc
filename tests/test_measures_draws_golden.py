"""Random choices of a seed, made again from NumPy's raw bits: sequences and orders."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from slow_draws import NUMBERS, Raw

from icl_bench.errors import MeasurementError, SettingsError
from icl_bench.measures import tokens as tk
from icl_bench.measures.draws import STREAMS, Draws
from icl_bench.measures.varied import VariedTokens, draw_varied


def test_streams_keep_their_numbers():
    assert STREAMS == NUMBERS


@pytest.mark.parametrize("bound", [1, 2, 7, 2**63 + 1, 3 * 2**62, 2**64 - 1])
def test_numbers_are_the_raw_ones_without_those_that_would_favour_some(bound):
    mine, slow = Draws(3, "orders", 1), Raw(3, "orders", 1)
    assert [mine.below(bound) for _ in range(40)] == [slow.below(bound) for _ in range(40)]


def test_the_first_number_that_would_favour_some_is_drawn_again(monkeypatch):
    values = iter([2**64 - 1, 2**64 - 2])
    draws = Draws(0, "null")
    monkeypatch.setattr(draws, "_bits", SimpleNamespace(random_raw=lambda: next(values)))
    assert draws.below(3) == (2**64 - 2) % 3


@pytest.mark.parametrize("size", [2, 3, 4, 5, 6, 9])
def test_orders_are_those_of_a_shuffled_list(size):
    mine, slow = Draws(5, "control"), Raw(5, "control")
    for count in (0, 1, size):
        assert mine.sample(size, count) == slow.shuffled(range(size), count)
    letters = list("abcdefghi")
    assert mine.choose(letters, size) == slow.shuffled(letters, size)
    assert [mine.between(-2, 3) for _ in range(9)] == [slow.below(6) - 2 for _ in range(9)]
    for _ in range(8):
        assert mine.reordering(size) == slow.reordered(size)
    assert mine.derangement(size) == slow.deranged(size)
    with pytest.raises(ValueError, match=f"{size + 1} distinct values from {size}"):
        mine.sample(size, size + 1)


VOCABULARY = list(range(100, 160))


@pytest.mark.parametrize("bos", [None, 7])
def test_sequences_are_those_of_shuffled_vocabularies(bos):
    start = [] if bos is None else [bos]
    made = tk.draw_repeated(VOCABULARY, sequences=3, period=5, bos=bos)
    blocks = [Raw(0, "select", row).shuffled(VOCABULARY, 5) for row in range(3)]
    assert made.input_ids.tolist() == [start + block * 2 for block in blocks]
    assert (made.prefix, made.repeats, made.period) == (len(start), 2, 5)
    made = tk.draw_repeated(
        VOCABULARY, sequences=2, period=60, repeats=3, seed=4, bos=bos, stream="test"
    )
    rows = [start + Raw(4, "test", row).shuffled(VOCABULARY, 60) * 3 for row in range(2)]
    assert made.input_ids.tolist() == rows
    for given in ({}, {"seed": 6}):
        plain = tk.draw_plain(VOCABULARY, sequences=2, length=130, bos=bos, **given)
        for row, ids in enumerate(plain.tolist()):
            slow = Raw(given.get("seed", 0), "heldout", row)
            assert ids == start + [i for n in (60, 60, 10) for i in slow.shuffled(VOCABULARY, n)]


@pytest.mark.parametrize("given", [{}, {"seed": 2}])
def test_later_copies_are_shuffled_against_the_one_before(given):
    made = tk.draw_repeated(VOCABULARY, sequences=3, period=6, repeats=3, bos=7)
    for row, ids in enumerate(tk.shuffle_copies(made, **given).tolist()):
        slow, block = Raw(given.get("seed", 0), "control", row), made.input_ids[row, 1:7].tolist()
        expected = [7, *block]
        for _ in range(2):
            block = [block[place] for place in slow.reordered(6)]
            expected += block
        assert ids == expected


@pytest.mark.parametrize(
    "wrong",
    [
        {"input_ids": torch.zeros(0, 8, dtype=torch.long), "period": 4},
        {"input_ids": torch.arange(8).reshape(2, 4, 1), "period": 2},
        {"input_ids": torch.tensor([[5, 5]]), "period": 1},
        {"input_ids": torch.tensor([[5, 6]]), "period": 2, "repeats": 1},
        {"input_ids": torch.tensor([[5, 6, 5]]), "period": 2, "prefix": -1},
        {"input_ids": torch.tensor([[5, 6, 5, 6, 5]]), "period": 2},
        {"input_ids": torch.tensor([[5, 6, 5, 6], [5, 6, 5, 7]]), "period": 2},
        {"input_ids": torch.tensor([[5, 6, 5, 6, 6, 6]]), "period": 2, "repeats": 3},
    ],
)
def test_tokens_of_another_shape_are_refused(wrong):
    with pytest.raises(SettingsError):
        tk.RepeatedTokens(**wrong)


def test_tokens_say_their_shape_and_are_cut():
    made = tk.RepeatedTokens([[9, 5, 6, 5, 6], [8, 6, 7, 6, 7]], 2, prefix=1)
    assert repr(made) == "<RepeatedTokens: 2 sequences of 1 + 2 x 2 tokens>"
    bare = tk.RepeatedTokens(torch.arange(4).repeat(3, 3), 4, 3)
    assert repr(bare) == "<RepeatedTokens: 3 sequences of 3 x 4 tokens>"
    cut = bare.cut(2, 3)
    assert cut.input_ids.tolist() == [[0, 1, 2] * 3] * 2 and (cut.period, cut.repeats) == (3, 3)
    cut = tk.RepeatedTokens(torch.tensor([[9, *[1, 2, 3] * 2]]), 3, prefix=1).cut(1, 2)
    assert cut.input_ids.tolist() == [[9, 1, 2, 1, 2]] and cut.prefix == 1
    pairs = tk.Pairs(torch.tensor([[1, 2], [3, 4], [5, 6]]), torch.tensor([[0, 1], [2, 3], [4, 5]]))
    some = pairs.rows(1, 3)
    assert (some.query.tolist(), some.weight) == ([[3, 4], [5, 6]], None)
    assert some.key.tolist() == [[2, 3], [4, 5]]
    weighed = tk.Pairs(pairs.query, pairs.key, torch.eye(3)[:, :2]).of(torch.tensor([1]))
    assert (weighed.query.tolist(), weighed.weight.tolist()) == ([[3, 4]], [[0, 1]])
    shared = tk.Pairs(torch.tensor([1, 2]), torch.tensor([0, 1]))
    assert shared.rows(1, 2) is shared


def slow_varied(vocabulary, row, period, seed, start, stream, reach):
    """One sequence and where its block stands, by writing out all choices."""
    n = max(period, 4)
    while n > 4 and 2 * n - n // 2 > len(vocabulary):
        n -= 1
    slow, before = Raw(seed, stream, row), 0 if start else 1
    blocks = range(n // 2, n - 1)
    block = blocks[slow.below(len(blocks))]
    places = [
        (one, two)
        for one in range(before, 2 * n)
        for two in range(one + block, 2 * n - block + 1)
        if two - one not in (n - 1, n, n + 1) and (reach is None or two - one <= reach + 1)
    ]
    distances = sorted({two - one for one, two in places})
    distance = distances[slow.below(len(distances))]
    firsts = sorted({one for one, two in places if two - one == distance})
    first = firsts[slow.below(len(firsts))]
    filler = slow.shuffled(vocabulary, 2 * n - block)
    second = first + distance
    filler[second:second] = filler[first : first + block]
    return start + filler, first, second, block


@pytest.mark.parametrize(
    ("period", "size", "given"),
    [(9, 60, {}), (3, 60, {"seed": 2, "bos": 7}), (4, 6, {"bos": 7}), (20, 27, {"reach": 15}),
     (12, 60, {"reach": 12, "stream": "varied_test"}), (20, 16, {}), (5, 8, {}), (4, 6, {})],
)  # fmt: skip
def test_repeats_at_random_distances_are_drawn_from_all_places(period, size, given):
    made = draw_varied(VOCABULARY[:size], sequences=12, period=period, **given)
    start = [given["bos"]] if "bos" in given else []
    more = given.get("seed", 0), start, given.get("stream", "varied"), given.get("reach")
    rows = [slow_varied(VOCABULARY[:size], row, period, *more) for row in range(12)]
    for found, expected in zip((made.input_ids, made.first, made.second, made.block), zip(*rows)):
        assert found.tolist() == list(expected)
    assert made.prefix == len(start)
    assert made.targets.tolist() == list(range(len(start) + 1, len(rows[0][0])))
    inside = {
        len(start) + place for _, _, two, block in rows for place in range(two + 1, two + block)
    }
    assert inside <= set(targets := made.second_targets.tolist())
    assert (targets[0], targets[-1]) == (min(inside), max(inside))
    for seed in (0, 3):
        other = made.reorder(seed) if seed else made.reorder()
        for row, ((ids, _, two, block), got) in enumerate(zip(rows, other.tolist())):
            order = Raw(seed, "varied_order", row).reordered(block)
            two += len(start)
            ids[two : two + block] = [ids[two + place] for place in order]
            assert got == ids
            ids[two : two + block] = made.input_ids[row, two : two + block].tolist()


def test_pairs_and_losses_of_two_blocks_written_out():
    made = VariedTokens(
        torch.tensor([[9, 1, 2, 3, 1, 2], [9, 4, 5, 6, 5, 6]]),
        *(1, np.array([0, 1]), np.array([3, 3]), np.array([2, 2])),
    )
    for offset, keys in ((1, [[2, 3], [3, 4]]), (0, [[1, 2], [2, 3]])):
        pairs = made.pairs(offset)
        assert pairs.query.tolist() == [[4, 5], [4, 5]] and pairs.key.tolist() == keys
        assert pairs.weight.tolist() == [[1, 1], [1, 1]]
    assert made.pairs().key.tolist() == made.pairs(1).key.tolist()
    # Keys before the content and after the query do not count, and point at its first token.
    assert made.pairs(-1).weight.tolist() == [[0, 1], [1, 1]]
    assert made.pairs(-1).key.tolist() == [[1, 1], [1, 2]]
    assert made.pairs(3).weight.tolist() == [[1, 1], [0, 0]]
    assert made.pairs(3).query.tolist() == [[4, 5], [1, 1]]
    first, second = made.split(torch.tensor([[1.0, 2, 3, 4], [5, 6, 7, 8]]), torch.arange(2, 6))
    assert (first.tolist(), second.tolist()) == ([1, 6], [4, 8])
    first, second = made.split(torch.tensor([[3.0, 4], [7, 8]]), torch.arange(3, 5))
    assert np.isnan(first[0]) and first[1] == 7 and np.isnan(second).all()
    part = made.rows(1, 2)
    assert (part.input_ids.tolist(), part.first.tolist()) == ([[9, 4, 5, 6, 5, 6]], [1])
    assert (part.second.tolist(), part.block.tolist(), part.prefix) == ([3], [2], 1)
    with pytest.raises(MeasurementError, match="within the 1 tokens"):
        draw_varied(VOCABULARY, sequences=1, period=5, reach=1)
