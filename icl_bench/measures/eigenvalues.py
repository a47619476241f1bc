"""How much a square matrix copies: the sign of its eigenvalues."""

from __future__ import annotations

import torch
from torch import Tensor

NOTHING = 1e-6
"""Eigenvalues whose magnitudes sum to this share of the factors' size are rounding."""


def eigenvalue_scores(first: Tensor, second: Tensor) -> Tensor:
    """Return sum(eigenvalues) / sum(|eigenvalues|) of products of two matrices.

    The products `second @ first`, large and square, have the nonzero eigenvalues of the small
    `first @ second`; only these are built.

    Args:
        first: (..., small, large).
        second: (..., large, small).

    Returns:
        scores in [-1, 1], float64, shape (...); NaN where every eigenvalue is 0.

    Source: Elhage et al. 2021, "Summarizing OV/QK matrices".
    """
    first, second = first.double(), second.double()
    values = torch.linalg.eigvals(first @ second)
    total = values.abs().sum(-1)
    size = first.flatten(-2).norm(dim=-1) * second.flatten(-2).norm(dim=-1)
    score = values.real.sum(-1) / total
    return torch.where(total > NOTHING * size, score.clamp(-1, 1), torch.nan)
