"""Random choices made from NumPy's raw bits in the obvious way."""

from __future__ import annotations

import numpy as np

NAMES = "select test control varied heldout null heads orders pilots"
NUMBERS = {
    **{name: number for number, name in enumerate(NAMES.split())},
    **{"fewshot": 20, "fewshot_heldout": 21, "vectors_clean": 22, "vectors_shuffled": 23},
    **{"example": 24, "gradual": 30, "retest": 45, "order": 46},
    **{"varied_test": 47, "varied_order": 48, "disjoint": 49, "mutation": 50},
}


class Raw:
    """A stream of raw numbers, and what is made of them in the obvious way."""

    def __init__(self, seed, stream, index=0):
        self.bits = np.random.PCG64(np.random.SeedSequence([seed, NUMBERS[stream], index]))

    def below(self, bound):
        while True:
            value = int(self.bits.random_raw())
            if value < 2**64 // bound * bound:  # else the last numbers would come less often
                return value % bound

    def shuffled(self, items, count):
        """Swap each place with a later one or itself; the first `count`."""
        items = list(items)
        for place in range(count):
            other = place + self.below(len(items) - place)
            items[place], items[other] = items[other], items[place]
        return items[:count]

    def deranged(self, size):
        while True:
            order = self.shuffled(range(size), size)
            if all(order[place] != place for place in range(size)):
                return order

    def reordered(self, size):
        while True:
            order = self.deranged(size)
            if size == 3 or all(order[i + 1] != order[i] + 1 for i in range(size - 1)):
                return order
