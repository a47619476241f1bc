"""The generator of random choices: the same seed gives the same draws on every machine.

Only NumPy's bit streams are used (`SeedSequence` and `PCG64.random_raw`, both kept stable by
NumPy), never its distributions, nor the global generators of Python, NumPy or torch.
"""

from __future__ import annotations

from typing import TypeVar

import numpy as np

STREAMS = {
    "select": 0,  # sequences on which heads are chosen
    "test": 1,  # sequences on which ablations are tested
    "control": 2,  # second copies that are another permutation
    "varied": 3,  # repeats with random gaps and periods
    "heldout": 4,  # non-repeated sequences for mean ablation
    "null": 5,  # random sets of heads
    "heads": 6,  # heads chosen at random
    "orders": 7,  # random orders of all heads
    "pilots": 8,  # heads measured both ways in an adaptive sweep
    "fewshot": 20,  # queries, examples and distractors of few-shot tasks
    "fewshot_heldout": 21,  # prompts that mean outputs are taken on
    "vectors_clean": 22,  # prompts whose mean outputs are put into others
    "vectors_shuffled": 23,  # prompts with shuffled labels
    "example": 24,  # the block that stands for a text where there is no tokenizer
    "retest": 45,  # sequences of what chooses heads by scores that were measured on `test`
    "order": 46,  # random orders of a pool of items or documents
    "varied_test": 47,  # repeats at random distances, on which ablations are tested
    "varied_order": 48,  # their second copies in another order
    "disjoint": 49,  # sets of other heads that an ablation is compared with
    "mutation": 50,  # repeats at random distances, by which edits of a model are judged
    "gradual": 30,  # residuals of gradual curves that a phase change is compared with
}
"""Independent streams of one seed. The numbers are part of every result: never reuse one."""

T = TypeVar("T")


class Draws:
    """Uniform draws from one stream of one seed.

    Args:
        seed: the user's seed, >= 0.
        stream: a name in `STREAMS`.
        index: which sequence or draw of the stream; every index is independent of the others,
            so asking for more sequences never changes the first ones.
    """

    def __init__(self, seed: int, stream: str, index: int = 0) -> None:
        self._bits = np.random.PCG64(np.random.SeedSequence([seed, STREAMS[stream], index]))

    def below(self, bound: int) -> int:
        """Return a uniform integer in [0, bound)."""
        limit = (1 << 64) - (1 << 64) % bound
        while True:
            value = int(self._bits.random_raw())
            if value < limit:
                return value % bound

    def between(self, low: int, high: int) -> int:
        """Return a uniform integer in [low, high]."""
        return low + self.below(high - low + 1)

    def sample(self, population: int, count: int) -> list[int]:
        """Return `count` distinct integers of range(population), in random order.

        Raises:
            ValueError: `count` is larger than `population`.
        """
        if count > population:
            raise ValueError(f"cannot draw {count} distinct values from {population}")
        # Fisher-Yates, keeping only the places that were touched.
        moved: dict[int, int] = {}
        chosen = []
        for place in range(count):
            other = self.between(place, population - 1)
            chosen.append(moved.get(other, other))
            moved[other] = moved.get(place, place)
        return chosen

    def choose(self, items: list[T], count: int) -> list[T]:
        """Return `count` distinct elements of `items`, in random order."""
        return [items[i] for i in self.sample(len(items), count)]

    def derangement(self, size: int) -> list[int]:
        """Return a uniform permutation of range(size) without fixed points; size >= 2."""
        while True:
            order = self.sample(size, size)
            if all(place != value for place, value in enumerate(order)):
                return order

    def reordering(self, size: int) -> list[int]:
        """Return a uniform derangement in which no value follows the one before it; size >= 2.

        Of three values there is none: it is any derangement then.
        """
        while True:
            order = self.derangement(size)
            if size == 3 or all(after != value + 1 for value, after in zip(order, order[1:])):
                return order
