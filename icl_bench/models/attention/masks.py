"""The arguments of an attention call: what they add to its mask, and which are not known.

Sparse attention families choose keys with an indexer. They hand the choice on in the mask when
they run the implementations they know, and as an argument to every other one.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from icl_bench.models.attention.kernels import KernelMisfit

HARMLESS = {
    "dropout",  # 0 in eval mode
    "is_causal",
    "sliding_window",  # already in the mask
    "output_attentions",
    "output_hidden_states",
    "use_cache",
    "position_ids",
    "cache_position",
    "layer_idx",
    "logits_to_keep",
    "num_items_in_batch",
    "return_dict",
    "attention_mask",
    "position_embeddings",
}
"""Arguments of an attention call that do not change its numbers beyond mask and scaling."""

NARROWING = ("indices", "block_indices", "position_bias")
"""Arguments that become part of the mask."""


def refuse_unknown(arguments: dict[str, object], known: set[str]) -> None:
    """Raise KernelMisfit for an argument of the call that may change numbers and is not known."""
    unknown = [
        name
        for name, given in arguments.items()
        if name not in known and given is not None and given is not False
    ]
    if unknown:
        raise KernelMisfit(f"the attention call has {', '.join(sorted(unknown))}")


def complete_mask(
    module: nn.Module,
    mask: Tensor | None,
    causal: bool,
    scores: tuple[int, ...],
    arguments: dict[str, Any],
    like: Tensor,
) -> Tensor | None:
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
