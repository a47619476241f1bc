"""Repeats at random distances: what copies by content finds its place there, what counts does not.

"Any distance" means half a period to one and a half. A sequence is filler, a block, filler, the
block again, filler; all tokens but the block's second copy differ from one another.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from icl_bench.errors import MeasurementError
from icl_bench.measures.draws import Draws
from icl_bench.measures.tokens import Pairs, draw_block

SHORTEST = 4
"""The smallest period that leaves distances to choose from."""


@dataclass
class VariedTokens:
    """Sequences in which a block comes twice, at distances of their own.

    Args:
        input_ids: token ids, shape (sequences, prefix + length).
        prefix: tokens before the content: 1 with BOS, else 0.
        first: content position of the block's first copy, shape (sequences,).
        second: that of its second copy.
        block: tokens of the block.
    """

    input_ids: Tensor
    prefix: int
    first: np.ndarray
    second: np.ndarray
    block: np.ndarray

    @property
    def targets(self) -> Tensor:
        """Physical positions of all content tokens but the first, shape (targets,)."""
        return torch.arange(self.prefix + 1, self.input_ids.shape[1])

    @property
    def second_targets(self) -> Tensor:
        """Physical positions that are in some sequence a target of the second copy."""
        start, stop = int(self.second.min()) + 1, int((self.second + self.block).max())
        return torch.arange(start, stop) + self.prefix

    def rows(self, start: int, stop: int) -> VariedTokens:
        """Return sequences start..stop-1."""
        chosen = slice(start, stop)
        ids, first, second = self.input_ids[chosen], self.first[chosen], self.second[chosen]
        return VariedTokens(ids, self.prefix, first, second, self.block[chosen])

    def pairs(self, offset: int = 1) -> Pairs:
        """Return the pairs of (query in the second copy, key at `offset` from its own token).

        Args:
            offset: 1 for the token after the earlier occurrence, the induction target.
        """
        steps = torch.arange(int(self.block.max()))
        inside = steps < torch.tensor(self.block)[:, None]
        key = torch.tensor(self.first)[:, None] + steps + offset
        query = torch.tensor(self.second)[:, None] + steps
        inside &= (key >= 0) & (key <= query)
        place = [torch.where(inside, some, 0) + self.prefix for some in (query, key)]
        return Pairs(place[0], place[1], inside.float())

    def split(self, nll: Tensor, targets: Tensor) -> tuple[np.ndarray, np.ndarray]:
        """Average losses over each copy of the block, its first token left out.

        Nothing foretells that the block comes again, so its first token cannot be predicted.

        Args:
            nll: losses, nats, shape (sequences, targets).
            targets: their physical positions.

        Returns:
            of the first and of the second copy, each (sequences,); NaN where not all its targets
            are among them.
        """
        losses, places = nll.double().numpy(), targets.numpy() - self.prefix

        def average(start: np.ndarray) -> np.ndarray:
            after = places > start[:, None]
            inside = after & (places < (start + self.block)[:, None])
            whole = inside.sum(axis=1) == self.block - 1
            sums = np.where(inside, losses, 0).sum(axis=1)
            return np.where(whole, sums / (self.block - 1), np.nan)

        return average(self.first), average(self.second)

    def reorder(self, seed: int = 0) -> Tensor:
        """Return the sequences with the tokens of each second copy in another order.

        Args:
            seed: seed of the orders.
        """
        ids = self.input_ids.clone()
        for row, (second, block) in enumerate(zip(self.second, self.block)):
            order = torch.tensor(Draws(seed, "varied_order", row).reordering(int(block)))
            start = self.prefix + int(second)
            ids[row, start : start + int(block)] = self.input_ids[row, start + order]
        return ids


def draw_varied(
    vocabulary: Sequence[int],
    *,
    sequences: int,
    period: int,
    seed: int = 0,
    bos: int | None = None,
    stream: str = "varied",
    reach: int | None = None,
) -> VariedTokens:
    """Draw sequences of 2 n tokens in which a block comes again at a random distance.

    The block has n/2 to n - 2 tokens. The distance of its copies is uniform over [block,
    2 n - block], without n and n +- 1, so that a head that looks back a fixed period - 1 misses,
    with one token to spare. n is `period`, or less where the vocabulary has not enough tokens.

    Args:
        vocabulary: usable ids.
        sequences: number of sequences.
        period: the fixed period that is avoided, in tokens.
        seed: seed of the draws.
        bos: id put first, or None; without it at least one token stands before the block.
        stream: which stream of the seed (`icl_bench.measures.draws.STREAMS`).
        reach: how many tokens back heads see; None for all.

    Raises:
        MeasurementError: the vocabulary is too small, or heads do not see so far.
    """
    n = max(period, SHORTEST)
    while n > SHORTEST and 2 * n - max(2, n // 2) > len(vocabulary):
        n -= 1
    before = int(bos is None)
    prefix = 0 if bos is None else 1
    rows, places = [], []
    for index in range(sequences):
        draws = Draws(seed, stream, index)
        block = draws.between(max(2, n // 2), n - 2)
        distances = [
            distance
            for distance in range(block, 2 * n - block - before + 1)
            if abs(distance - n) > 1 and (reach is None or distance - 1 <= reach)
        ]
        if not distances:
            raise MeasurementError(
                f"no block of {block} tokens can come again within the {reach} tokens that heads "
                "see; lower the period"
            )
        distance = distances[draws.below(len(distances))]
        first = draws.between(before, 2 * n - block - distance)
        distinct = draw_block(draws, vocabulary, 2 * n - block)
        second = first + distance
        content = distinct[:second] + distinct[first : first + block] + distinct[second:]
        rows.append(([] if bos is None else [bos]) + content)
        places.append((first, second, block))
    first_at, second_at, blocks = np.array(places).T
    return VariedTokens(torch.tensor(rows), prefix, first_at, second_at, blocks)
