"""Logits -> losses of chosen targets."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from icl_bench.errors import ModelError


@dataclass
class TokenLosses:
    """Losses of chosen targets.

    Args:
        nll: cross-entropy in nats, shape (rows, targets), float32; (rows, targets, choices)
            where several answers to each target were asked for.
        correct: whether the target was ranked first, same shape.
    """

    nll: Tensor
    correct: Tensor

    @classmethod
    def none(cls) -> TokenLosses:
        """Losses of nothing, before anything has been run."""
        return cls(torch.empty(0, 0), torch.empty(0, 0, dtype=torch.bool))


def score_targets(logits: Tensor | None, answer: Tensor) -> TokenLosses:
    """Losses of `answer` (rows, targets) under logits (rows, targets, vocabulary).

    Of several answers to each target, shape (rows, targets, choices), every one gets its loss.
    The logits are overwritten: a second tensor of their size would cost more time than the sums.
    Where several logits are the largest, the one with the lowest id is ranked first.
    """
    assert logits is not None
    answer = answer.to(logits.device)
    logits = logits.float()
    choices = answer.reshape(*logits.shape[:2], -1)
    picked = logits.gather(-1, choices)
    first = logits.argmax(-1, keepdim=True)
    largest = logits.gather(-1, first)
    total = logits.sub_(largest).exp_().sum(-1, keepdim=True)
    nll = (total.log() - (picked - largest)).reshape(answer.shape).cpu()
    if not bool(torch.isfinite(nll).all()):
        raise ModelError("a loss is not a finite number")
    return TokenLosses(nll, (first == choices).reshape(answer.shape).cpu())


def join_losses(parts: Sequence[TokenLosses], dim: int = 0) -> TokenLosses:
    """Put the losses of consecutive batches together, along the dimension of their rows."""
    nll, correct = [part.nll for part in parts], [part.correct for part in parts]
    return TokenLosses(torch.cat(nll, dim), torch.cat(correct, dim))
