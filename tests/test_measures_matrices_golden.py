"""Scores of matrices, windows and losses by position against sums written out."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from icl_bench.measures.composition import compose, composition_scores, random_composition
from icl_bench.measures.copying import first_targets, repeated_targets, split_losses
from icl_bench.measures.eigenvalues import eigenvalue_scores
from icl_bench.measures.positions import (
    PositionLosses,
    Windows,
    average_documents,
    average_windows,
    cut_windows,
    previous_pairs,
)
from icl_bench.measures.tokens import RepeatedTokens

RNG = np.random.default_rng(4)


def slow_composition(outer, reads, output, value):
    """||A B|| / (||A|| ||B||), both matrices built."""
    a, b = outer.T @ reads, output @ value
    return float((a @ b).norm() / (a.norm() * b.norm()))


@pytest.mark.parametrize(("small", "other", "large"), [(2, 3, 7), (4, 1, 5), (1, 1, 2)])
def test_composition_is_that_of_the_whole_matrices(small, other, large):
    torch.manual_seed(0)
    outer, reads = torch.randn(2, 3, small, large, dtype=torch.float64) / 100
    output = torch.randn(4, large, other, dtype=torch.float64)
    value = torch.randn(4, other, large, dtype=torch.float64) / 100
    found = composition_scores(outer, reads, output, value)
    for reader in range(3):
        for writer in range(4):
            expected = slow_composition(outer[reader], reads[reader], output[writer], value[writer])
            assert float(found[reader, writer]) == pytest.approx(expected)
    outer[1] = 0
    found = composition_scores(outer, reads, output, value)
    assert found[1].isnan().all() and not found[[0, 2]].isnan().any()
    nothing = torch.zeros(1, 1, 2, 2)
    assert compose(nothing, nothing, nothing).tolist() == [[0]]


@pytest.mark.parametrize("given", [{}, {"seed": 3, "draws": 2}])
def test_the_level_of_composition_is_a_mean_over_random_matrices(given):
    generator = torch.Generator().manual_seed(given.get("seed", 0))
    scores = []
    for _ in range(given.get("draws", 32)):
        outer, reads = torch.randn(2, 1, 3, 8, generator=generator, dtype=torch.float64)[:, 0]
        output, value = torch.randn(2, 1, 2, 8, generator=generator, dtype=torch.float64)[:, 0]
        scores.append(slow_composition(outer, reads, output.T, value))
    assert random_composition((3, 8), 2, **given) == pytest.approx(np.mean(scores))


def test_eigenvalues_are_those_of_the_product_of_each_pair():
    first, second = torch.randn(2, 3, 2, 5), torch.randn(2, 3, 5, 2)
    found = eigenvalue_scores(first, second)
    assert found.shape == (2, 3) and found.dtype == torch.float64
    for i in range(2):
        for j in range(3):
            values = np.linalg.eigvals((first[i, j].double() @ second[i, j].double()).numpy())
            expected = values.real.sum() / np.abs(values).sum()
            assert float(found[i, j]) == pytest.approx(expected)


@pytest.mark.parametrize("scales", [(1, 1), (1e3, 1e3), (1e-4, 1e-4), (1e5, 1e-2)])
@pytest.mark.parametrize(("share", "is_score"), [(0.7e-6, False), (1.4e-6, True)])
def test_eigenvalues_of_a_millionth_of_the_factors_are_rounding(scales, share, is_score):
    """Two factors that nearly miss each other: the eigenvalues are a share of their norms."""
    first = torch.tensor([[1.0, 0.0, 0.0], [0.0, 0.0, 0.0]]).double() * scales[0]
    second = torch.tensor([[share, 0.0], [1.0, 0.0], [0.0, 0.0]]).double() * scales[1]
    found = float(eigenvalue_scores(first, -second))
    assert (found == -1) is is_score and np.isnan(found) is not is_score
    assert np.isnan(float(eigenvalue_scores(0 * first, second)))


@pytest.mark.parametrize(("prefix", "repeats"), [(0, 2), (1, 2), (2, 3)])
def test_targets_of_copies_are_all_but_the_first_of_the_second_and_its_losses_too(prefix, repeats):
    ids = [9] * prefix + [1, 2, 3] * repeats
    tokens = RepeatedTokens(torch.tensor([ids] * 2), 3, repeats, prefix)
    first, later = [1, 2], [4, 5, 6, 7, 8][: 3 * repeats - 4]
    assert first_targets(tokens).tolist() == [prefix + place for place in first]
    assert repeated_targets(tokens).tolist() == [prefix + place for place in later]
    nll = torch.from_numpy(RNG.random((2, 2 + len(later))))
    found = split_losses(tokens, nll, nll > 0.5)
    for row, losses in enumerate(nll.tolist()):
        assert found.first[row] == pytest.approx(sum(losses[:2]) / 2)
        assert found.repeated[row] == pytest.approx(np.mean(losses[2:]))
        assert found.gain[row] == pytest.approx(found.first[row] - found.repeated[row])
        assert found.accuracy[row] == pytest.approx(np.mean([loss > 0.5 for loss in losses[2:]]))


def test_windows_are_cut_and_averaged_by_document():
    windows = cut_windows([range(10), range(20, 24), range(30, 38)], [7], 5, 2)
    assert windows.input_ids.tolist() == [
        *([7, 0, 1, 2, 3], [7, 4, 5, 6, 7], [7, 20, 21, 22, 23]),
        *([7, 30, 31, 32, 33], [7, 34, 35, 36, 37]),
    ]
    assert [windows.of_first(n) for n in (0, 1, 2, 3)] == [0, 2, 3, 5]
    assert cut_windows([range(8)], [], 4, 9).input_ids.shape == (2, 4)
    with pytest.raises(ValueError, match="document 0 is shorter"):
        cut_windows([range(3)], [7], 5, 2)
    values = RNG.random((5, 2))
    expected = np.stack([values[:2].mean(0), values[2], values[3:].mean(0)])
    assert average_documents(windows, values) == pytest.approx(expected)
    assert average_documents(windows, values[:4])[2] == pytest.approx(values[3])
    assert average_documents(windows, values[:3]) == pytest.approx(expected[:2])
    pairs = previous_pairs(windows)
    assert (pairs.query.tolist(), pairs.key.tolist()) == ([2, 3, 4], [1, 2, 3])
    bare = previous_pairs(Windows(windows.input_ids, windows.documents))
    assert (bare.query.tolist(), bare.key.tolist()) == ([1, 2, 3, 4], [0, 1, 2, 3])


@pytest.mark.parametrize(
    ("prefix", "first", "columns"), [(0, 1, [0, 1, 2, 3]), (1, 0, [0, 1, 2, 3]), (2, 0, [1, 2, 3])]
)
def test_losses_begin_at_the_first_token_of_the_text_that_has_one(prefix, first, columns):
    nll = torch.from_numpy(RNG.random((2, 4)))
    windows = Windows(torch.zeros(2, 5, dtype=torch.long), np.array([0, 0]), prefix)
    found = average_windows(windows, nll)
    assert found.losses == pytest.approx(nll.numpy()[:, columns].mean(0, keepdims=True))
    assert (found.first, found.length) == (first, 5)
    assert found.positions.tolist() == [first + i for i in range(len(columns))]
    assert found.mean == pytest.approx(found.losses.mean(1))


@pytest.mark.parametrize("length", [64, 128, 512, 600])
@pytest.mark.parametrize("first", [0, 1])
def test_late_and_early_losses_are_of_fixed_shares_of_a_window(length, first):
    losses = RNG.random((2, length - first))
    found = PositionLosses(losses, first, length)
    for row in range(2):
        loss = {first + i: value for i, value in enumerate(losses[row])}
        late = [loss[k] for k in range(length // 2, length - 1)]
        early = [loss[k] for k in range(length // 16, length // 8)]
        assert found.icl_score_windowed[row] == pytest.approx(np.mean(late) - np.mean(early))
        if length >= 512:
            assert found.icl_score[row] == loss[499] - loss[49]
    assert (found.icl_score is None) is (length < 512)
