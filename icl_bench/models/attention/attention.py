"""The attention function: reads attention probabilities of chosen pairs and switches heads off.

It is registered with transformers' attention interface under three names. `icl_bench` runs a
fused kernel and recovers A[i, j] = exp(q_i . k_j * scale + mask_ij - lse_i) for just the pairs
asked for, in O(pairs * width). `icl_bench_chunked` does the same a chunk of queries at a time,
for calls that no fused kernel takes (soft-capping, values wider than keys). `icl_bench_eager`
runs the model file's own eager attention, one layer at a time.
What a forward pass should read and change stands in `ForwardHooks`; without active ones all
functions behave like plain attention.
"""

from __future__ import annotations

import inspect
import sys
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface
from transformers.masking_utils import AttentionMaskInterface, eager_mask, sdpa_mask

from icl_bench.measures.tokens import Pairs
from icl_bench.models.attention.call import AttentionCall
from icl_bench.models.attention.chunked import attend_in_chunks
from icl_bench.models.attention.forward_hooks import (
    FAST_EXPONENTIAL,
    ROUNDING,
    ForwardHooks,
    Scratch,
    active,
)
from icl_bench.models.attention.kernels import KernelMisfit, attend
from icl_bench.models.attention.layers import OUTSIDE, current_layer
from icl_bench.models.attention.masks import HARMLESS, NARROWING, complete_mask, refuse_unknown

FUSED = "icl_bench"
CHUNKED = "icl_bench_chunked"
EAGER = "icl_bench_eager"


def number_layer(module: nn.Module, hooks: ForwardHooks) -> int:
    """Return the decoder layer that an attention module is called in.

    Raises:
        KernelMisfit: there is none, or it has attended already in this forward pass.
    """
    layer = current_layer()
    if layer is None:
        index = getattr(module, "layer_idx", None)
        layer = index if isinstance(index, int) else len(hooks.shapes)
    elif layer == OUTSIDE:
        raise KernelMisfit("attention is called outside the decoder layers")
    if layer in hooks.shapes:
        raise KernelMisfit(f"layer {layer} calls attention more than once in a forward pass")
    return layer


def probe_pairs(
    call: AttentionCall, lse: Tensor, pairs: Pairs, scratch: Scratch | None = None
) -> Tensor:
    """Return attention probabilities of the pairs, shape (batch, heads, pairs), in float32.

    Args:
        call: what the attention was computed with, its mask additive.
        lse: log-sum-exp of each row of scores (batch, heads, length).
        pairs: which (query, key) positions.
        scratch: memory for products, used again from call to call.
    """
    scratch = scratch or Scratch()
    q, k, mask = call.query, call.key, call.mask
    batch, heads, _, width = q.shape
    kv_heads = k.shape[1]
    qi, kj = pairs.query.to(q.device), pairs.key.to(q.device)
    if qi.ndim == 1:
        rows = _select(q, qi).float().reshape(batch, kv_heads, heads // kv_heads, len(qi), width)
        columns = _select(k, kj).float()[:, :, None]
        dots = scratch.dot(rows, columns).reshape(batch, heads, len(qi))
        norm = _select(lse, qi)
        bias = None if mask is None else mask[..., qi, kj].float()
    else:
        own = torch.arange(batch, device=q.device)[:, None]
        rows = q[own, :, qi].float().reshape(batch, -1, kv_heads, heads // kv_heads, width)
        columns = k[own, :, kj].float()[:, :, :, None]
        dots = scratch.dot(rows, columns).movedim(1, -1).reshape(batch, heads, -1)
        norm = lse.gather(2, qi[:, None, :].expand(-1, heads, -1))
        bias = None
        if mask is not None:
            full = mask.expand(batch, -1, -1, -1)
            bias = full[own, :, qi, kj].float().transpose(1, 2)
    scores = dots * call.scale
    if call.softcap is not None:
        scores = call.softcap * torch.tanh(scores / call.softcap)
    if bias is not None:
        scores = scores + bias
    return torch.exp(scores - norm.float())


def _select(tensor: Tensor, index: Tensor) -> Tensor:
    """Take positions along dimension 2, without copying where they follow each other."""
    first, count = int(index[0]), len(index)
    if count == 1 or bool((index[1:] - index[:-1] == 1).all()):
        return tensor.narrow(2, first, count)
    if bool((index == first).all()):
        position = tensor.narrow(2, first, 1)
        return position.expand(*position.shape[:2], count, *position.shape[3:])
    return tensor.index_select(2, index)


def fused_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """Attention by a fused kernel, in the signature of transformers' attention interface.

    Args:
        module: the attention module that calls.
        query: (batch, heads, length, width).
        key: (batch, kv_heads, length, width).
        value: (batch, kv_heads, length, value_width).
        attention_mask: additive or boolean (True where a key is seen), or None.
        scaling: factor of q.k; None for 1 / sqrt(width).
        kwargs: whatever else the family passes on; `in_chunks` is ours, to take the queries a
            chunk at a time instead of a fused kernel.

    Raises:
        KernelMisfit: the call asks for something that cannot be reproduced so.
    """
    in_chunks = bool(kwargs.pop("in_chunks", False))
    cap = kwargs.pop("softcap", None) if in_chunks else None
    softcap = None if cap is None else float(cap)
    scale = query.shape[-1] ** -0.5 if scaling is None else float(scaling)
    call = AttentionCall(query, key, value, attention_mask, False, scale, softcap)
    return _attend_with_hooks(module, call, kwargs, in_chunks), None


def _attend_with_hooks(
    module: nn.Module, call: AttentionCall, arguments: dict[str, Any], in_chunks: bool
) -> Tensor:
    """Answer a call, read and changed by the active hooks, with (batch, length, heads, width)."""
    hooks = active.get() or ForwardHooks()
    if hooks.swap is not None:
        query, key, value, given = hooks.swap(call.query, call.key, call.value, call.mask)
        call = replace(call, query=query, key=key, value=value, mask=given)
    sinks = arguments.pop("s_aux", None)
    sinks = arguments.pop("sinks", None) if sinks is None else sinks
    refuse_unknown(arguments, {*HARMLESS, *NARROWING})
    call = _complete_mask(hooks, module, call, arguments)
    layer = number_layer(module, hooks)
    query, key = hooks.freeze(layer, call.query, call.key)
    call = replace(call, query=query, key=key)
    hooks.see_call(layer, call)
    output, lse = attend_in_chunks(call) if in_chunks else attend(call)
    if hooks.knockout is not None:
        output, lse = hooks.knockout.apply(layer, output, lse, call)
    if isinstance(sinks, Tensor):
        # Sinks join the softmax's denominator: out and lse are corrected for them.
        sinks = _shape_sinks(sinks)
        total = torch.logaddexp(lse, sinks)
        hooks.take_sinks(layer, torch.exp(sinks - total))
        output = output * torch.exp(lse - total)[..., None].to(output.dtype)
        lse = total

    hooks.shapes[layer] = (query.shape[1], key.shape[1], output.shape[-1])
    magnitude = float(lse.abs().max()) if hooks.pairs else 0.0
    if query.dtype in (torch.bfloat16, torch.float16) and not in_chunks:
        magnitude += FAST_EXPONENTIAL / ROUNDING
    for name, pairs in hooks.pairs.items():
        values = probe_pairs(call, lse, pairs, hooks.scratch)
        hooks.take_scores(layer, name, values, magnitude)
    return hooks.finish_layer(layer, output.transpose(1, 2))


def _complete_mask(
    hooks: ForwardHooks, module: nn.Module, call: AttentionCall, arguments: dict[str, Any]
) -> AttentionCall:
    """Return the call with one additive mask for all that hides keys, or causal without one."""
    query, length = call.query, call.query.shape[2]
    if length != call.key.shape[2]:
        raise KernelMisfit("queries and keys differ in number")
    mask, causal = None, False
    if call.mask is not None:
        mask = hooks.additive(call.mask, query.dtype)[..., :length]
    else:
        asked = arguments.get("is_causal")
        causal = bool(getattr(module, "is_causal", True) if asked is None else asked)
    mask = complete_mask(module, mask, causal, (*query.shape[:3], length), arguments, query)
    return replace(call, mask=mask, causal=causal and mask is None)


def _shape_sinks(sinks: Tensor) -> Tensor:
    """Return sinks, one a head or one a head and query, as (batch, heads, queries)."""
    return (sinks.reshape(1, -1, 1) if sinks.ndim == 1 else sinks.squeeze(-1)).float()


def eager_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    **kwargs: object,
) -> tuple[Tensor, None]:
    """The model file's own eager attention, one layer's matrix at a time.

    Raises:
        KernelMisfit: the family has no such function, or it ignores an argument of the call.
    """
    hooks = active.get() or ForwardHooks()
    if hooks.swap is not None:
        query, key, value, attention_mask = hooks.swap(query, key, value, attention_mask)
    own = getattr(sys.modules[type(module).__module__], "eager_attention_forward", None)
    if own is None:
        raise KernelMisfit(f"{type(module).__module__} has no eager attention function")
    refuse_unknown(kwargs, {*HARMLESS, *inspect.signature(own).parameters})
    if query.shape[2] != key.shape[2]:
        raise KernelMisfit("queries and keys differ in number")
    if hooks.knockout is not None:
        raise KernelMisfit("single edges cannot be removed from the model's own eager attention")
    layer = number_layer(module, hooks)
    query, key = hooks.freeze(layer, query, key)
    output, weights = own(module, query, key, value, attention_mask, scaling=scaling, **kwargs)
    hooks.shapes[layer] = (query.shape[1], key.shape[1], output.shape[-1])
    read_matrix(hooks, layer, weights)
    return hooks.finish_layer(layer, output), None


def read_matrix(hooks: ForwardHooks, layer: int, weights: Tensor) -> None:
    """Take the wanted pairs out of attention matrices (batch, heads, length, length)."""
    for name, pairs in hooks.pairs.items():
        qi, kj = pairs.query.to(weights.device), pairs.key.to(weights.device)
        if qi.ndim == 1:
            values = weights[:, :, qi, kj]
        else:
            own_row = torch.arange(len(weights), device=weights.device)[:, None]
            values = weights[own_row, :, qi, kj].transpose(1, 2)
        hooks.take_scores(layer, name, values.float())


AttentionInterface.register(FUSED, fused_attention)
AttentionInterface.register(CHUNKED, partial(fused_attention, in_chunks=True))
AttentionInterface.register(EAGER, eager_attention)
AttentionMaskInterface.register(FUSED, sdpa_mask)
AttentionMaskInterface.register(CHUNKED, sdpa_mask)
AttentionMaskInterface.register(EAGER, eager_mask)
