"""How much of what one matrix writes another one reads, from products of small factors."""

from __future__ import annotations

import torch
from torch import Tensor

DRAWS = 32
"""Random pairs of matrices whose mean is the level to compare with."""


def compose(reads: Tensor, middle: Tensor, writes: Tensor) -> Tensor:
    """Return the Frobenius norms of products L^T X R, of which only the small X is built.

    ||L^T X R||^2 = sum((X^T (L L^T) X) * (R R^T)).

    Args:
        reads: L L^T, (readers, 1, small, small).
        middle: X, (readers, writers, small, small).
        writes: R R^T, (1, writers, small, small).

    Returns:
        norms, (readers, writers).
    """
    inner = middle.transpose(-1, -2) @ reads @ middle
    return (inner * writes).sum((-1, -2)).clamp_min(0).sqrt()


def composition_scores(outer: Tensor, reads: Tensor, output: Tensor, value: Tensor) -> Tensor:
    """Return ||A B|| / (||A|| ||B||) for every A = outer^T reads and B = output value.

    Args:
        outer: (readers, small, large): W_Q for composition on the key side, W_K on the query
            side, W_O transposed on the value side.
        reads: (readers, small, large): W_K, W_Q, W_V.
        output: (writers, large, other small): W_O of the earlier heads.
        value: (writers, other small, large): W_V of the earlier heads.

    Returns:
        (readers, writers), in [0, 1]; NaN where a matrix is 0.

    Source: Elhage et al. 2021, "Two-layer attention-only transformers".
    """
    identity = torch.eye(outer.shape[1], dtype=outer.dtype)[None, None]
    inner_identity = torch.eye(output.shape[2], dtype=outer.dtype)[None, None]
    far, near = _gram(outer)[:, None], _gram(reads)[:, None]
    ends, starts = _gram(value)[None], _gram(output.transpose(1, 2))[None]
    # ||A||^2 = tr(outer outer^T reads reads^T): the product with X the unit matrix.
    own = compose(far, identity, near)
    others = compose(starts, inner_identity, ends)
    middle = reads[:, None] @ output[None]
    return compose(far, middle, ends) / (own * others)


def random_composition(
    reader: tuple[int, int], writer: int, seed: int = 0, draws: int = DRAWS
) -> float:
    """Return the mean score of random Gaussian factors of the same shapes.

    Args:
        reader: width of the reading head, width of the residual stream.
        writer: width of the writing head.
        seed: seed of the draws.
        draws: number of pairs of matrices.
    """
    small, large = reader
    generator = torch.Generator().manual_seed(seed)
    total = 0.0
    for _ in range(draws):
        outer, reads = torch.randn(2, 1, small, large, generator=generator, dtype=torch.float64)
        output, value = torch.randn(2, 1, writer, large, generator=generator, dtype=torch.float64)
        total += float(composition_scores(outer, reads, output.transpose(1, 2), value))
    return total / draws


def _gram(rows: Tensor) -> Tensor:
    return rows @ rows.transpose(-1, -2)
