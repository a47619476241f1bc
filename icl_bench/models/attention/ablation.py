"""Which heads are switched off in which row of a batch, and what stands in for them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor

from icl_bench.measures.tokens import Pairs

Head = tuple[int, int]
"""(layer, head), both 0-based."""
Kind = Literal["mlp", "layer"]
Component = tuple[Kind, int]
"""("mlp", layer) or ("layer", layer), layers 0-based."""
Part = Head | Component
"""Anything that can be switched off."""


@dataclass(frozen=True)
class Replacement:
    """What becomes of heads that are switched off.

    Args:
        values: layer -> what stands in for their outputs: one vector for every position, shape
            (heads, width), or the outputs on other sequences, shape (sequences, length, heads,
            width), of which sequence i of the input gets number i modulo their count; None for
            zeros.
        contributions: what MLPs and layers that are off add to the residual stream instead, each
            (width,); None for nothing.
        frozen: whether every head, on or off, attends as in the clean run (the queries and keys
            of the clean run are swapped in), so that only what is read along these patterns
            changes. With zeros this is the pattern-preserving ablation of Olsson et al. 2022.
        edges: when given, the heads stay on and only their attention along these pairs is
            removed before the softmax (attention knockout, Geva et al. 2023; Crosbie & Shutova
            2024); the same pairs for all sequences, or each sequence's own.
        at: when given, heads are replaced at one position of each sequence alone: its physical
            position, shape (sequences,), counted as `values` counts sequences.
    """

    values: Mapping[int, Tensor] | None = None
    contributions: Mapping[Component, Tensor] | None = None
    frozen: bool = False
    edges: Pairs | None = None
    at: Tensor | None = None


ZEROS = Replacement()
"""Heads that are off write nothing."""


@dataclass
class Ablation:
    """Heads to switch off, per row of the batch.

    Args:
        off: layer -> which heads are off, boolean, shape (rows, heads), as `mark_heads` makes it.
        values: layer -> what stands in for a head's output, as in `Replacement`; None for zeros.
        sequences: for each row its sequence, which chooses the stand-in where there are several;
            None when row i is sequence i.
        at: for each sequence the one position that is changed, as in `Replacement`; None for all.

    After a pass:
        applied: the layers in which it was applied.
    """

    off: dict[int, Tensor]
    values: Mapping[int, Tensor] | None = None
    sequences: Tensor | None = None
    at: Tensor | None = None
    applied: set[int] = field(default_factory=set)

    def apply(self, layer: int, output: Tensor) -> Tensor:
        """Return head outputs (rows, length, heads, width) with those that are off replaced."""
        off = self.off.get(layer)
        if off is None:
            return output
        self.applied.add(layer)
        mask = off.to(output.device)[:, None, :, None]
        rows = torch.arange(len(output)) if self.sequences is None else self.sequences
        if self.at is not None:
            own = self.at[rows % len(self.at)].to(output.device)
            positions = torch.arange(output.shape[1], device=output.device)
            mask = mask & (positions == own[:, None])[:, :, None, None]
        if self.values is None:
            return output.masked_fill(mask, 0)
        values = self.values[layer]
        if values.ndim == 4:
            # Of longer sequences the first positions stand in.
            values = values[(rows % len(values)).to(values.device), : output.shape[1]]
        return torch.where(mask, values.to(output), output)

    def below(self, layer: int) -> Ablation:
        """Return the part of this ablation that acts in the layers below `layer`."""
        off = {index: heads for index, heads in self.off.items() if index < layer}
        return Ablation(off, self.values, self.sequences, self.at)

    def since(self, layer: int) -> Ablation:
        """Return the part of this ablation that acts in `layer` and above."""
        off = {index: heads for index, heads in self.off.items() if index >= layer}
        return Ablation(off, self.values, self.sequences, self.at)

    @property
    def missed(self) -> set[int]:
        """Layers with a head off in which no attention call has applied it yet."""
        return self.off.keys() - self.applied


def layer_of(part: Part) -> int:
    """Return the layer of a head, an MLP or a layer."""
    return part[1] if isinstance(part[0], str) else part[0]


def split_parts(parts: Iterable[Part]) -> tuple[list[Head], list[Component]]:
    """Return the heads, and the MLPs and layers, among some parts."""
    heads: list[Head] = []
    components: list[Component] = []
    for part in parts:
        if isinstance(part[0], str):
            components.append((part[0], part[1]))
        else:
            heads.append((part[0], part[1]))
    return heads, components


def mark_heads(
    rows: Sequence[Iterable[Head]], heads_per_layer: Mapping[int, int]
) -> dict[int, Tensor]:
    """Turn one set of heads per row into layer -> boolean (rows, heads)."""
    marked: dict[int, Tensor] = {}
    for row, heads in enumerate(rows):
        for layer, head in heads:
            if layer not in marked:
                marked[layer] = torch.zeros(len(rows), heads_per_layer[layer], dtype=torch.bool)
            marked[layer][row, head] = True
    return marked
