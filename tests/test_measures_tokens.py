"""Probe sequences and the pairs that measures look at."""

from __future__ import annotations

import hashlib
import struct
from collections import Counter

import pytest
import torch

from icl_bench.errors import MeasurementError, SettingsError
from icl_bench.measures import copying
from icl_bench.measures import tokens as tk
from icl_bench.measures.draws import STREAMS, Draws

VOCABULARY = list(range(100, 400))
PINNED = [
    [380, 140, 284, 112, 166, 380, 140, 284, 112, 166],
    [171, 345, 310, 307, 354, 171, 345, 310, 307, 354],
]


def test_a_block_has_no_token_twice_and_repeats_exactly():
    drawn = tk.draw_repeated(VOCABULARY, sequences=5, period=40, repeats=3, bos=7)
    assert drawn.input_ids.shape == (5, 121)
    assert set(drawn.input_ids[:, 0].tolist()) == {7}
    for row in drawn.input_ids[:, 1:].tolist():
        assert row[:40] == row[40:80] == row[80:]
        assert len(set(row[:40])) == 40
        assert set(row) <= set(VOCABULARY)


def test_the_same_seed_gives_the_same_ids_on_every_machine():
    """Pinned: a change of these numbers makes old records incomparable."""
    drawn = tk.draw_repeated(VOCABULARY, sequences=2, period=5, seed=3)
    assert drawn.input_ids.tolist() == PINNED


def test_more_sequences_leave_the_first_ones_unchanged():
    few = tk.draw_repeated(VOCABULARY, sequences=2, period=20, seed=1).input_ids
    many = tk.draw_repeated(VOCABULARY, sequences=6, period=20, seed=1).input_ids
    assert torch.equal(few, many[:2])


def test_seeds_and_streams_differ():
    seen = {
        tuple(tk.draw_repeated(VOCABULARY, sequences=1, period=20, seed=seed, stream=stream)
              .input_ids[0].tolist())
        for seed in range(3)
        for stream in ("select", "test")
    }  # fmt: skip
    assert len(seen) == 6
    assert len(set(STREAMS.values())) == len(STREAMS)


def test_drawing_leaves_the_global_generators_alone():
    import random

    import numpy as np

    states = (random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state())
    tk.draw_repeated(VOCABULARY, sequences=3, period=20)
    assert random.getstate() == states[0]
    assert np.random.get_state()[1].tolist() == states[1]
    assert torch.equal(torch.get_rng_state(), states[2])


def test_draws_are_uniform():
    counts = Counter(Draws(0, "select", i).below(7) for i in range(7000))
    assert max(abs(counts[v] - 1000) for v in range(7)) < 150
    firsts = Counter(Draws(0, "test", i).sample(5, 2)[1] for i in range(5000))
    assert max(abs(firsts[v] - 1000) for v in range(5)) < 150


def test_a_block_larger_than_the_vocabulary_is_refused():
    with pytest.raises(MeasurementError, match="40 different tokens .* vocabulary of 30"):
        tk.draw_repeated(list(range(30)), sequences=1, period=40)


def test_hand_built_tokens_are_checked():
    with pytest.raises(SettingsError, match="do not repeat"):
        tk.RepeatedTokens(torch.arange(8)[None], period=4)
    with pytest.raises(SettingsError, match=r"8 long; .* = 9"):
        tk.RepeatedTokens(torch.arange(4).repeat(1, 2), period=4, prefix=1)
    with pytest.raises(SettingsError, match="integers"):
        tk.RepeatedTokens(torch.zeros(2, 8), period=4)


@pytest.mark.parametrize("prefix", [0, 1])
@pytest.mark.parametrize("repeats", [2, 3])
def test_pairs_are_those_of_the_definition(prefix, repeats):
    n = 6
    ids = torch.arange(n).repeat(1, repeats)
    if prefix:
        ids = torch.cat([torch.tensor([[99]]), ids], dim=1)
    tokens = tk.RepeatedTokens(ids, n, repeats, prefix)
    row = ids[0].tolist()

    def content(pairs):
        return [(q - prefix, k - prefix) for q, k in zip(pairs.query.tolist(), pairs.key.tolist())]

    later = range(n, repeats * n)
    assert content(tk.induction_pairs(tokens)) == [(i, i - n + 1) for i in later]
    assert content(tk.duplicate_token_pairs(tokens)) == [(i, i - n) for i in later]
    assert content(tk.previous_token_pairs(tokens)) == [(i, i - 1) for i in range(1, repeats * n)]
    first = tk.first_token_pairs(tokens)
    assert first.query.tolist() == list(range(1, len(row)))
    assert set(first.key.tolist()) == {0}
    # What the definition is about: the key follows the previous occurrence of the query's token.
    pairs = tk.induction_pairs(tokens)
    for query, key in zip(pairs.query.tolist(), pairs.key.tolist()):
        assert row[key - 1] == row[query]
        assert row[query] not in row[key:query]
    level = [1 / (q + 1) for q in tk.induction_pairs(tokens).query.tolist()]
    assert tk.uniform_level(tokens) == pytest.approx(sum(level) / len(level))


def test_pairs_of_other_offsets_stay_inside_the_content_and_the_past():
    tokens = tk.RepeatedTokens(torch.arange(5).repeat(1, 2), 5)
    for offset in range(-4, 6):
        pairs = tk.induction_pairs(tokens, offset)
        assert (pairs.key >= 0).all() and (pairs.key <= pairs.query).all()
        assert (pairs.query - pairs.key == 5 - offset).all()


def test_shuffled_copies_hold_the_same_tokens_at_other_places():
    tokens = tk.draw_repeated(VOCABULARY, sequences=6, period=15, repeats=3, bos=1)
    shuffled = tk.shuffle_copies(tokens)
    for row in shuffled[:, 1:].tolist():
        copies = [row[:15], row[15:30], row[30:]]
        assert copies[0] == tokens.input_ids[shuffled[:, 1:].tolist().index(row), 1:16].tolist()
        for before, after in zip(copies, copies[1:]):
            assert set(before) == set(after)
            # The usual offset never points at a true target.
            assert all(before[k] != after[k] for k in range(15))
            # Nor does a token follow the one that it followed before.
            assert not set(zip(before, before[1:])) & set(zip(after, after[1:]))


def test_held_out_sequences_do_not_repeat():
    plain = tk.draw_plain(VOCABULARY, sequences=3, length=200, bos=1)
    assert plain.shape == (3, 201)
    assert all(len(set(row)) == 201 for row in plain.tolist())
    assert tk.draw_plain(list(range(10)), sequences=1, length=25).shape == (1, 25)


def test_targets_leave_out_what_cannot_be_predicted():
    tokens = tk.RepeatedTokens(torch.arange(4).repeat(1, 3), 4, 3)
    assert copying.first_targets(tokens).tolist() == [1, 2, 3]
    assert copying.repeated_targets(tokens).tolist() == [5, 6, 7, 8, 9, 10, 11]
    losses = torch.arange(10.0).repeat(2, 1)
    split = copying.split_losses(tokens, losses, losses > 4)
    assert split.first.tolist() == [1, 1]
    assert split.repeated.tolist() == [6, 6]
    assert split.accuracy == pytest.approx([5 / 7] * 2)
    assert split.gain.tolist() == [-5, -5]


def test_the_digest_is_over_shapes_and_little_endian_ids():
    batch = torch.tensor([[1, 2], [3, 4]])
    expected = hashlib.sha256(b"(2, 2)" + struct.pack("<4q", 1, 2, 3, 4)).hexdigest()
    assert tk.digest_tokens(batch) == expected
    assert tk.digest_tokens(batch) != tk.digest_tokens(batch.T)


@pytest.mark.parametrize("prefix", [0, 1])
@pytest.mark.parametrize("repeats", [2, 4])
def test_successors_of_all_earlier_occurrences(prefix, repeats):
    block = [7, 3, 9, 5]
    row = [1] * prefix + block * repeats
    tokens = tk.RepeatedTokens(torch.tensor([row]), len(block), repeats, prefix)
    later = range(prefix + len(block), len(row))
    expected = {(i, j + 1) for i in later for j in range(prefix, i) if row[j] == row[i]}
    pairs = tk.successor_pairs(tokens)
    found = list(zip(pairs.query.tolist(), pairs.key.tolist()))
    assert len(found) == len(set(found)) and set(found) == expected
