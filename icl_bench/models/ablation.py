"""Which heads are switched off in which row of a batch, and what stands in for them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

Head = tuple[int, int]
"""(layer, head), both 0-based."""


@dataclass
class Ablation:
    """Heads to switch off, per row of the batch.

    Args:
        off: layer -> which heads are off, boolean, shape (rows, heads).
        values: layer -> what stands in for a head's output, shape (heads, width); None for zeros.

    After a pass:
        applied: the layers in which it was applied.
    """

    off: dict[int, Tensor]
    values: dict[int, Tensor] | None = None
    applied: set[int] = field(default_factory=set)

    @classmethod
    def build(
        cls,
        rows: Sequence[Iterable[Head]],
        heads_per_layer: dict[int, int],
        values: dict[int, Tensor] | None = None,
    ) -> Ablation:
        """Make an ablation from one set of heads per row.

        Args:
            rows: for each row of the batch, the heads that are off in it.
            heads_per_layer: layer -> number of its heads.
            values: stand-ins as in the class.
        """
        off: dict[int, Tensor] = {}
        for row, heads in enumerate(rows):
            for layer, head in heads:
                if layer not in off:
                    off[layer] = torch.zeros(len(rows), heads_per_layer[layer], dtype=torch.bool)
                off[layer][row, head] = True
        return cls(off, values)

    def apply(self, layer: int, output: Tensor) -> Tensor:
        """Return head outputs (rows, length, heads, width) with those that are off replaced."""
        off = self.off.get(layer)
        if off is None:
            return output
        self.applied.add(layer)
        mask = off.to(output.device)[:, None, :, None]
        if self.values is None:
            return output.masked_fill(mask, 0)
        return torch.where(mask, self.values[layer].to(output), output)

    @property
    def missed(self) -> set[int]:
        """Layers with a head off in which no attention call has applied it yet."""
        return self.off.keys() - self.applied
