"""What the arguments of an attention call add to its mask.

Sparse attention families choose keys with an indexer. They hand the choice on in the mask when
they run the implementations they know, and as an argument to every other one.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from icl_bench.models.kernels import KernelMisfit

NARROWING = ("indices", "block_indices", "position_bias")
"""Arguments that are understood here."""


def complete_mask(
    module: nn.Module, mask: Tensor | None, causal: bool, scores: tuple[int, ...],
    arguments: dict[str, Any], like: Tensor,
) -> Tensor | None:  # fmt: skip
    """Return the additive mask with everything in it that the arguments say, or None for none.

    Args:
        module: the attention module of the call.
        mask: additive, broadcastable to `scores`, or None.
        causal: whether keys after the query are hidden; only without a mask.
        scores: (batch, heads, length, length).
        arguments: of the call: `indices`, the keys that each query sees, (batch, length, count);
            `block_indices`, the same in blocks of keys for each group of heads, (batch, groups,
            length, count), -1 for none; `position_bias`, added to the scores.
        like: a tensor with the type and device of the mask.

    Raises:
        KernelMisfit: the size of the blocks is not known.
    """
    parts = [] if mask is None else [mask]
    given = {name: arguments[name] for name in NARROWING if arguments.get(name) is not None}
    if mask is None and causal and given:
        later = torch.ones(scores[2:], dtype=torch.bool, device=like.device).triu(1)
        parts.append(_forbid(later, like))
    if "indices" in given:
        seen = torch.zeros(scores[0], *scores[2:], dtype=torch.bool, device=like.device)
        seen.scatter_(-1, given["indices"].long(), True)
        parts.append(_forbid(~seen[:, None], like))
    if "block_indices" in given:
        size = getattr(getattr(module, "indexer", None), "block_size", None)
        if not isinstance(size, int):
            raise KernelMisfit("the attention call names blocks of keys of unknown size")
        parts.append(_forbid(~_spread_blocks(given["block_indices"], size, scores), like))
    if "position_bias" in given:
        parts.append(given["position_bias"].to(like.dtype))
    if not parts:
        return None
    total = parts[0]
    for part in parts[1:]:
        total = total + part
    return total


def _forbid(hidden: Tensor, like: Tensor) -> Tensor:
    numbers = torch.zeros(hidden.shape, dtype=like.dtype, device=like.device)
    return numbers.masked_fill_(hidden, float("-inf"))


def _spread_blocks(blocks: Tensor, size: int, scores: tuple[int, ...]) -> Tensor:
    """Return which keys (batch, heads, length, length) the chosen blocks hold."""
    batch, groups, length, _ = blocks.shape
    count = -(-scores[3] // size)
    # Unused places are -1; they go to a column that is cut off.
    seen = torch.zeros(batch, groups, length, count + 1, dtype=torch.bool, device=blocks.device)
    seen.scatter_(-1, blocks.masked_fill(blocks < 0, count), True)
    keys = seen[..., :count].repeat_interleave(size, dim=-1)[..., : scores[3]]
    return keys.repeat_interleave(scores[1] // groups, dim=1)
