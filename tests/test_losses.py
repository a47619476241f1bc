"""Losses and ranks of targets from logits."""

from __future__ import annotations

import pytest
import torch

from icl_bench.errors import ModelError
from icl_bench.models.module.losses import score_targets


def test_losses_are_cross_entropies_and_ranks_those_of_the_logits():
    torch.manual_seed(0)
    logits = 8 * torch.randn(3, 5, 40)
    answer = logits.argmax(-1)
    answer[:, ::2] = torch.randint(0, 40, (3, 3))
    expected = torch.nn.functional.cross_entropy(
        logits.flatten(0, 1).double(), answer.flatten(), reduction="none"
    )
    right = [[max(row) == row[a] for row, a in zip(*pair)] for pair in zip(logits.tolist(), answer)]
    found = score_targets(logits.clone(), answer)
    assert torch.allclose(found.nll.flatten().double(), expected, atol=1e-5)
    assert found.correct.tolist() == right


def test_a_target_that_many_others_equal_is_not_ranked_first():
    found = score_targets(torch.zeros(1, 2, 10), torch.tensor([[3, 7]]))
    assert found.nll[0].tolist() == pytest.approx([2.302585, 2.302585])
    assert not found.correct.any()


def test_half_precision_is_summed_in_float32():
    logits = torch.randn(2, 3, 50).bfloat16()
    answer = torch.randint(0, 50, (2, 3))
    found = score_targets(logits.clone(), answer)
    exact = score_targets(logits.float(), answer)
    assert torch.equal(found.nll, exact.nll)


def test_a_loss_that_is_no_number_is_an_error():
    logits = torch.zeros(1, 1, 4)
    logits[0, 0, 2] = float("nan")
    with pytest.raises(ModelError, match="not a finite number"):
        score_targets(logits, torch.tensor([[1]]))
