"""Blocks that come again at distances of their own: where they stand, and what is averaged."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
import torch

from icl_bench.errors import MeasurementError
from icl_bench.measures.varied import draw_varied

VOCABULARY = list(range(10, 300))


@pytest.mark.parametrize("bos", [1, None])
@pytest.mark.parametrize("period", [3, 4, 5, 8, 20, 51])
def test_the_block_comes_again_where_the_sequence_says(period, bos):
    varied = draw_varied(VOCABULARY, sequences=60, period=period, bos=bos)
    n, prefix = max(4, period), int(bos is not None)
    assert varied.input_ids.shape == (60, prefix + 2 * n)
    for row, first, second, block in zip(
        varied.input_ids.tolist(), varied.first, varied.second, varied.block
    ):
        content = row[prefix:]
        assert content[first : first + block] == content[second : second + block]
        assert len(set(content)) == 2 * n - block
        assert max(2, n // 2) <= block <= n - 2
        distance = second - first
        assert block <= distance <= 2 * n - block and abs(distance - n) > 1
        # Without BOS the first token is the sink, and no part of the block.
        assert first >= 1 - prefix


def test_distances_are_uniform_over_what_a_block_allows():
    varied = draw_varied(VOCABULARY, sequences=6000, period=10, bos=1)
    distances = (varied.second - varied.first)[varied.block == 5]
    counts = Counter(distances.tolist())
    assert sorted(counts) == [5, 6, 7, 8, 12, 13, 14, 15]
    expected = len(distances) / 8
    assert all(abs(count - expected) < 5 * expected**0.5 for count in counts.values())


def test_pairs_point_at_the_token_after_the_earlier_occurrence():
    varied = draw_varied(VOCABULARY, sequences=20, period=12, bos=1)
    for offset in (0, 1, 2):
        pairs = varied.pairs(offset)
        for row, query, key, weight, block in zip(
            varied.input_ids.tolist(),
            pairs.query.tolist(),
            pairs.key.tolist(),
            pairs.weight.tolist(),
            varied.block,
        ):
            counted = [(q, k) for q, k, w in zip(query, key, weight) if w]
            assert len(counted) == block
            assert all(row[k - offset] == row[q] and k <= q for q, k in counted)


def test_losses_are_of_the_block_without_its_first_token():
    varied = draw_varied(VOCABULARY, sequences=9, period=8, bos=1)
    nll = torch.arange(9 * 15.0).reshape(9, 15) ** 1.5
    first, second = varied.split(nll, varied.targets)
    later = varied.split(nll[:, varied.second_targets - 2], varied.second_targets)
    for row in range(9):
        for copy, start in ((first, varied.first), (second, varied.second)):
            # Content position i is column i - 1: the first token is no target.
            columns = [start[row] + k - 1 for k in range(1, varied.block[row])]
            assert copy[row] == pytest.approx(nll[row, columns].mean().item())
    assert later[1] == pytest.approx(second)
    # A first copy that starts later than all second ones could be whole among them: rare.
    assert np.isnan(later[0]).sum() > 6


def test_another_order_keeps_no_true_successor():
    varied = draw_varied(VOCABULARY, sequences=40, period=12)
    other = varied.reorder(seed=3)
    for before, after, first, second, block in zip(
        varied.input_ids.tolist(), other.tolist(), varied.first, varied.second, varied.block
    ):
        assert before[:second] == after[:second]
        assert before[second + block :] == after[second + block :]
        old, new = before[first : first + block], after[second : second + block]
        assert sorted(old) == sorted(new)
        assert all(a != b for a, b in zip(old, new))
        assert not set(zip(old, old[1:])) & set(zip(new, new[1:]))


def test_small_vocabularies_get_shorter_sequences_and_windows_nearer_copies():
    small = draw_varied(list(range(16)), sequences=5, period=20)
    assert small.input_ids.shape == (5, 20)  # 2 * 10 - 5 = 15 tokens, with 11 it would be 17
    near = draw_varied(VOCABULARY, sequences=30, period=10, reach=8)
    assert (near.second - near.first).max() == 8  # 9, 10 and 11 are too near the period
    with pytest.raises(MeasurementError, match="within the 3 tokens that heads see"):
        draw_varied(VOCABULARY, sequences=30, period=10, reach=3)
    with pytest.raises(MeasurementError, match="usable vocabulary of 5"):
        draw_varied(list(range(5)), sequences=1, period=20)
