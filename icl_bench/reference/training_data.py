"""The sequences that the trained reference models learn from.

Three quarters of them hold something that only copying from the context can predict; the rest is
a fixed chain of likely successors, which needs no context. All are drawn from a generator of
their own, so the same seed gives the same sequences whatever else draws random numbers.
"""

from __future__ import annotations

import math

import torch

from icl_bench.reference.words import SPECIALS, WORDS

FIRST_WORD = len(SPECIALS)
"""Smallest id that is a word; ids below are special tokens."""

_CHAINED = 0.25
_SUCCESSOR_SHARES = (0.5, 0.25, 0.15, 0.1)
_CHAIN_SEED = 7


class SequenceSource:
    """A stream of training batches.

    Args:
        seed: seed of the stream; the chain of successors is the same for every seed.
    """

    def __init__(self, seed: int) -> None:
        self._generator = torch.Generator().manual_seed(seed)
        chain = torch.Generator().manual_seed(_CHAIN_SEED)
        self._successors = torch.randint(
            FIRST_WORD, len(WORDS), (len(WORDS), len(_SUCCESSOR_SHARES)), generator=chain
        )

    def batch(self, size: int, length: int) -> torch.Tensor:
        """Return token ids, (size, length), `<bos>` included; kinds of sequence take turns."""
        content = length - 1
        makers = (self._periodic, self._gapped, self._quoting)
        chained = round(size * _CHAINED)
        rows = [makers[index % len(makers)](content) for index in range(size - chained)]
        tokens = torch.cat([torch.stack(rows), self._chain(chained, content)])
        return torch.cat([torch.zeros(size, 1, dtype=torch.long), tokens], dim=1)

    def integer(self, low: int, high: int) -> int:
        """Return a random integer from low to high, both included."""
        return int(torch.randint(low, high + 1, (), generator=self._generator))

    def _period(self, low: int, high: int) -> int:
        """Return a random integer from low to high, as often below as above the middle octave."""
        share = float(torch.rand((), generator=self._generator))
        return int(low * math.exp(share * math.log((high + 1) / low)))

    def _words(self, count: int) -> torch.Tensor:
        return torch.randint(FIRST_WORD, len(WORDS), (count,), generator=self._generator)

    def _periodic(self, length: int) -> torch.Tensor:
        """A random block, again and again."""
        block = self._words(self._period(4, min(100, length // 2)))
        return block.repeat(length // len(block) + 1)[:length]

    def _gapped(self, length: int) -> torch.Tensor:
        """A random block, again and again, with a random stretch of other words in between."""
        block = self._words(self._period(3, min(60, length // 2)))
        tokens = block
        while len(tokens) < length:
            tokens = torch.cat([tokens, self._words(self.integer(0, 30)), block])
        return tokens[:length]

    def _quoting(self, length: int) -> torch.Tensor:
        """Random words between short quotations of what came before."""
        tokens = self._words(length)
        position = self.integer(4, 12)
        while position < length:
            quoted = min(self.integer(2, 10), position, length - position)
            # Recent passages are quoted more often, as names are in a text.
            farthest = position if self.integer(0, 1) else min(position, 24)
            start = position - self.integer(quoted, farthest)
            tokens[position : position + quoted] = tokens[start : start + quoted].clone()
            position += quoted + self.integer(0, 6)
        return tokens

    def _chain(self, count: int, length: int) -> torch.Tensor:
        """Words that follow each other by fixed odds, (count, length)."""
        choices = torch.multinomial(
            torch.tensor(_SUCCESSOR_SHARES),
            count * length,
            replacement=True,
            generator=self._generator,
        ).view(count, length)
        tokens = torch.empty(count, length, dtype=torch.long)
        tokens[:, 0] = self._words(count)
        for position in range(1, length):
            tokens[:, position] = self._successors[tokens[:, position - 1], choices[:, position]]
        return tokens
