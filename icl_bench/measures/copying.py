"""Losses on the first and on the later copies of a repeated block."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from icl_bench.measures.tokens import RepeatedTokens


def first_targets(tokens: RepeatedTokens) -> Tensor:
    """Physical positions of targets 1..n-1 of copy 1."""
    return torch.arange(1, tokens.period) + tokens.prefix


def repeated_targets(tokens: RepeatedTokens) -> Tensor:
    """Physical positions of the predictable targets: n+1..2n-1, and later copies whole.

    Target n, the first token of copy 2, cannot be predicted: nothing says that the block ends.
    """
    n = tokens.period
    return torch.arange(n + 1, n * tokens.repeats) + tokens.prefix


@dataclass
class CopyLosses:
    """Per-sequence means, each of shape (sequences,), float64.

    Args:
        first: loss on copy 1, nats.
        repeated: loss on the predictable targets of later copies, nats.
        accuracy: share of those targets ranked first.
    """

    first: np.ndarray
    repeated: np.ndarray
    accuracy: np.ndarray

    @property
    def gain(self) -> np.ndarray:
        """first - repeated, nats."""
        return np.asarray(self.first - self.repeated)


def split_losses(tokens: RepeatedTokens, nll: Tensor, correct: Tensor) -> CopyLosses:
    """Average the losses of `first_targets` followed by `repeated_targets`.

    Args:
        tokens: the sequences.
        nll: losses (sequences, first targets + repeated targets), nats.
        correct: whether each target was ranked first, same shape.
    """
    count = tokens.period - 1
    losses = nll.double().numpy()
    return CopyLosses(
        losses[:, :count].mean(1),
        losses[:, count:].mean(1),
        correct[:, count:].double().numpy().mean(1),
    )
