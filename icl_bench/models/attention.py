"""The attention function: reads attention probabilities of chosen pairs and switches heads off.

It is registered with transformers' attention interface under three names. `icl_bench` runs a
fused kernel and recovers A[i, j] = exp(q_i . k_j * scale + mask_ij - lse_i) for just the pairs
asked for, in O(pairs * width). `icl_bench_chunked` does the same a chunk of queries at a time,
for calls that no fused kernel takes (soft-capping, values wider than keys). `icl_bench_eager`
runs the model file's own eager attention, one layer at a time.
What a forward pass should read and change is a `Pass`; without an active one all functions
behave like plain attention.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface
from transformers.masking_utils import AttentionMaskInterface, eager_mask, sdpa_mask

from icl_bench.errors import ModelError
from icl_bench.measures.tokens import Pairs
from icl_bench.models.ablation import Ablation
from icl_bench.models.chunked import attend_in_chunks
from icl_bench.models.edges import Call, Knockout
from icl_bench.models.kernels import KernelMisfit, attend
from icl_bench.models.layers import OUTSIDE, current_layer
from icl_bench.models.masks import HARMLESS, NARROWING, complete_mask, refuse_unknown

FUSED = "icl_bench"
CHUNKED = "icl_bench_chunked"
EAGER = "icl_bench_eager"

TOLERANCE = 1e-5
"""How far a probability may stray outside [0, 1] by rounding, while scores are moderate."""
ROUNDING = 5e-7
"""How much further for each unit of the row's log-sum-exp: a score of 600 has few digits left."""
FAST_EXPONENTIAL = 2e-4
"""How much further from a fused kernel in half precision, which approximates the exponential."""


class Enough(Exception):
    """Ends a forward pass whose rest nobody needs; never leaves the function that runs it."""


Swap = Callable[
    [Tensor, Tensor, Tensor, "Tensor | None"], tuple[Tensor, Tensor, Tensor, "Tensor | None"]
]
"""Stand-ins for what an attention call was given; the batch may grow, for all alike."""


@dataclass
class Pass:
    """What one forward pass reads and changes.

    Args:
        pairs: name -> pairs whose attention is wanted.
        raw: keep every pair's value instead of the mean over pairs.
        ablation: heads to switch off, per row of the batch; None for none.
        knockout: edges to remove, per row of the batch; None for none.
        clean_rows: for each row, the row whose queries and keys it attends with, so that its
            patterns are that row's, shape (rows,); None when every row has its own.
        mean_over: physical positions whose head outputs are summed, or None.
        keep_outputs: layers whose heads' outputs are kept.
        stop_after: layer after whose attention the pass may end, when no logits are wanted.
        swap: gets queries, keys, values and mask of a call and returns those to go on with.

    After the pass:
        scores: name -> layer -> (batch, heads), or (batch, heads, pairs) when raw.
        output_sums: layer -> (batch, heads, width), sums over `mean_over` in float64.
        outputs: layer -> (batch, length, heads, width).
        shapes: layer -> (heads, kv_heads, width of a head's output), in the order of the calls.
        frozen: layers that attended with the queries and keys of `clean_rows`.
    """

    pairs: dict[str, Pairs] = field(default_factory=dict)
    raw: bool = False
    ablation: Ablation | None = None
    knockout: Knockout | None = None
    clean_rows: Tensor | None = None
    mean_over: slice | None = None
    keep_outputs: Collection[int] = ()
    stop_after: int | None = None
    swap: Swap | None = None
    scores: dict[str, dict[int, Tensor]] = field(default_factory=dict)
    output_sums: dict[int, Tensor] = field(default_factory=dict)
    outputs: dict[int, Tensor] = field(default_factory=dict)
    frozen: set[int] = field(default_factory=set)
    shapes: dict[int, tuple[int, int, int]] = field(default_factory=dict)
    _masks: dict[int, tuple[Tensor, Tensor]] = field(default_factory=dict)

    def additive(self, mask: Tensor, dtype: torch.dtype) -> Tensor:
        """Return `mask` as numbers to add; converted once although every layer brings it."""
        if mask.dtype != torch.bool and mask.dtype == dtype:
            return mask
        # The original is kept beside its copy so that its id stays taken.
        if id(mask) not in self._masks:
            if mask.dtype == torch.bool:
                numbers = torch.zeros(mask.shape, dtype=dtype, device=mask.device)
                numbers.masked_fill_(~mask, float("-inf"))
            else:
                numbers = mask.to(dtype)
            self._masks[id(mask)] = (mask, numbers)
        return self._masks[id(mask)][1]

    def take_scores(self, layer: int, name: str, values: Tensor, magnitude: float = 0) -> None:
        """Keep the probabilities (batch, heads, pairs) of `name` in `layer`.

        Args:
            layer: the decoder layer.
            name: which pairs.
            values: their probabilities.
            magnitude: largest score behind them, which bounds the rounding.
        """
        if not bool(torch.isfinite(values).all()):
            raise ModelError(f"layer {layer}: attention probabilities are not finite")
        low, high = float(values.min()), float(values.max())
        slack = TOLERANCE + ROUNDING * magnitude
        if low < -slack or high > 1 + slack:
            raise ModelError(
                f"layer {layer}: attention probabilities of '{name}' reach from {low:.6g} to "
                f"{high:.6g}: the model's mask or scaling is not what the kernel was given"
            )
        values = values.clamp(0, 1)
        if self.raw:
            kept = values
        elif (weight := self.pairs[name].weight) is not None:
            weight = weight.to(values)[:, None, :]
            kept = (values * weight).sum(-1) / weight.sum(-1)
        else:
            kept = values.mean(-1)
        self.scores.setdefault(name, {})[layer] = kept

    def freeze(self, layer: int, query: Tensor, key: Tensor) -> tuple[Tensor, Tensor]:
        """Return the queries and keys (batch, heads, length, width) to attend with in `layer`."""
        if self.clean_rows is None:
            return query, key
        self.frozen.add(layer)
        rows = self.clean_rows.to(query.device)
        return query[rows], key[rows]

    def finish_layer(self, layer: int, output: Tensor) -> Tensor:
        """Read and change the heads' outputs (batch, length, heads, width) of `layer`.

        Raises:
            Enough: nothing after this layer is wanted.
        """
        if self.mean_over is not None:
            self.output_sums[layer] = output[:, self.mean_over].double().sum(1)
        if layer in self.keep_outputs:
            self.outputs[layer] = output.clone()
        if self.stop_after == layer:
            raise Enough
        if self.ablation is not None:
            return self.ablation.apply(layer, output)
        return output

    @property
    def missed(self) -> set[int]:
        """Layers in which something was to be changed and has not been."""
        missed = self.ablation.missed if self.ablation else set()
        if self.knockout:
            missed = missed | self.knockout.missed
        if self.clean_rows is not None:
            missed = missed | (self.shapes.keys() - self.frozen)
        return missed


_active: ContextVar[Pass | None] = ContextVar("icl_bench_pass", default=None)


@contextmanager
def activate(work: Pass) -> Iterator[Pass]:
    """Let the attention functions carry out `work` inside the block."""
    token = _active.set(work)
    try:
        yield work
    finally:
        _active.reset(token)


def number_layer(module: nn.Module, work: Pass) -> int:
    """Return the decoder layer that an attention module is called in.

    Raises:
        KernelMisfit: there is none, or it has attended already in this forward pass.
    """
    layer = current_layer()
    if layer is None:
        index = getattr(module, "layer_idx", None)
        layer = index if isinstance(index, int) else len(work.shapes)
    elif layer == OUTSIDE:
        raise KernelMisfit("attention is called outside the decoder layers")
    if layer in work.shapes:
        raise KernelMisfit(f"layer {layer} calls attention more than once in a forward pass")
    return layer


def probe_pairs(
    q: Tensor,
    k: Tensor,
    lse: Tensor,
    mask: Tensor | None,
    scale: float,
    pairs: Pairs,
    softcap: float | None = None,
) -> Tensor:
    """Return attention probabilities of the pairs, shape (batch, heads, pairs), in float32.

    Args:
        q: queries (batch, heads, length, width).
        k: keys (batch, kv_heads, length, width).
        lse: log-sum-exp of each row of scores (batch, heads, length).
        mask: additive mask, or None.
        scale: factor of q.k.
        pairs: which (query, key) positions.
        softcap: scores become softcap * tanh(score / softcap) before the mask; None for no cap.
    """
    batch, heads, _, width = q.shape
    kv_heads = k.shape[1]
    qi, kj = pairs.query.to(q.device), pairs.key.to(q.device)
    if qi.ndim == 1:
        rows = _select(q, qi).float().reshape(batch, kv_heads, heads // kv_heads, len(qi), width)
        columns = _select(k, kj).float()[:, :, None]
        dots = torch.einsum("bkgpd,bkgpd->bkgp", rows, columns.expand_as(rows))
        dots = dots.reshape(batch, heads, len(qi))
        norm = _select(lse, qi)
        bias = None if mask is None else mask[..., qi, kj].float()
    else:
        own = torch.arange(batch, device=q.device)[:, None]
        rows = q[own, :, qi].float().reshape(batch, -1, kv_heads, heads // kv_heads, width)
        columns = k[own, :, kj].float()[:, :, :, None]
        dots = torch.einsum("bpkgd,bpkgd->bkgp", rows, columns.expand_as(rows))
        dots = dots.reshape(batch, heads, -1)
        norm = lse.gather(2, qi[:, None, :].expand(-1, heads, -1))
        bias = None
        if mask is not None:
            full = mask.expand(batch, -1, -1, -1)
            bias = full[own, :, qi, kj].float().transpose(1, 2)
    scores = dots * scale
    if softcap is not None:
        scores = softcap * torch.tanh(scores / softcap)
    if bias is not None:
        scores = scores + bias
    return torch.exp(scores - norm.float())


def _select(tensor: Tensor, index: Tensor) -> Tensor:
    """Take positions along dimension 2, without copying where they follow each other."""
    first, count = int(index[0]), len(index)
    if count == 1 or bool((index[1:] - index[:-1] == 1).all()):
        return tensor.narrow(2, first, count)
    if bool((index == first).all()):
        one = tensor.narrow(2, first, 1)
        return one.expand(*one.shape[:2], count, *one.shape[3:])
    return tensor.index_select(2, index)


def fused_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    in_chunks: bool = False,
    **kwargs: object,
) -> tuple[Tensor, None]:
    """Attention by a fused kernel, in the signature of transformers' attention interface.

    Args:
        module: the attention module that calls.
        query: (batch, heads, length, width).
        key: (batch, kv_heads, length, width).
        value: (batch, kv_heads, length, value_width).
        attention_mask: additive or boolean (True where a key is seen), or None.
        scaling: factor of q.k; None for 1 / sqrt(width).
        in_chunks: take the queries a chunk at a time instead of a fused kernel.
        kwargs: whatever else the family passes on.

    Raises:
        KernelMisfit: the call asks for something that cannot be reproduced so.
    """
    work = _active.get() or Pass()
    if work.swap is not None:
        query, key, value, attention_mask = work.swap(query, key, value, attention_mask)
    # Sinks join the softmax's denominator: out and lse are corrected for them below.
    sinks = kwargs.pop("s_aux", None)
    sinks = kwargs.pop("sinks", None) if sinks is None else sinks
    cap: Any = kwargs.pop("softcap", None) if in_chunks else None
    softcap = None if cap is None else float(cap)
    refuse_unknown(kwargs, {*HARMLESS, *NARROWING})
    scale = query.shape[-1] ** -0.5 if scaling is None else float(scaling)
    length = query.shape[2]
    if length != key.shape[2]:
        raise KernelMisfit("queries and keys differ in number")
    if attention_mask is not None:
        mask: Tensor | None = work.additive(attention_mask, query.dtype)[..., :length]
        causal = False
    else:
        mask = None
        asked = kwargs.get("is_causal")
        causal = bool(getattr(module, "is_causal", True) if asked is None else asked)
    mask = complete_mask(module, mask, causal, (*query.shape[:3], length), kwargs, query)
    causal = causal and mask is None
    layer = number_layer(module, work)
    query, key = work.freeze(layer, query, key)
    if in_chunks:
        output, lse = attend_in_chunks(query, key, value, mask, causal, scale, softcap)
    else:
        output, lse = attend(query, key, value, mask, causal, scale)
    if work.knockout is not None:
        call = Call(query, key, value, mask, causal, scale, softcap)
        output, lse = work.knockout.apply(layer, output, lse, call)
    if isinstance(sinks, Tensor):
        total = torch.logaddexp(lse, _shape_sinks(sinks))
        output = output * torch.exp(lse - total)[..., None].to(output.dtype)
        lse = total

    work.shapes[layer] = (query.shape[1], key.shape[1], output.shape[-1])
    magnitude = float(lse.abs().max()) if work.pairs else 0.0
    if query.dtype in (torch.bfloat16, torch.float16) and not in_chunks:
        magnitude += FAST_EXPONENTIAL / ROUNDING
    for name, pairs in work.pairs.items():
        values = probe_pairs(query, key, lse, mask, scale, pairs, softcap)
        work.take_scores(layer, name, values, magnitude)
    return work.finish_layer(layer, output.transpose(1, 2)), None


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
    work = _active.get() or Pass()
    if work.swap is not None:
        query, key, value, attention_mask = work.swap(query, key, value, attention_mask)
    own = getattr(sys.modules[type(module).__module__], "eager_attention_forward", None)
    if own is None:
        raise KernelMisfit(f"{type(module).__module__} has no eager attention function")
    refuse_unknown(kwargs, {*HARMLESS, *inspect.signature(own).parameters})
    if query.shape[2] != key.shape[2]:
        raise KernelMisfit("queries and keys differ in number")
    if work.knockout is not None:
        raise KernelMisfit("single edges cannot be removed from the model's own eager attention")
    layer = number_layer(module, work)
    query, key = work.freeze(layer, query, key)
    output, weights = own(module, query, key, value, attention_mask, scaling=scaling, **kwargs)
    work.shapes[layer] = (query.shape[1], key.shape[1], output.shape[-1])
    read_matrix(work, layer, weights)
    return work.finish_layer(layer, output), None


def read_matrix(work: Pass, layer: int, weights: Tensor) -> None:
    """Take the wanted pairs out of attention matrices (batch, heads, length, length)."""
    for name, pairs in work.pairs.items():
        qi, kj = pairs.query.to(weights.device), pairs.key.to(weights.device)
        if qi.ndim == 1:
            values = weights[:, :, qi, kj]
        else:
            own_row = torch.arange(len(weights), device=weights.device)[:, None]
            values = weights[own_row, :, qi, kj].transpose(1, 2)
        work.take_scores(layer, name, values.float())


AttentionInterface.register(FUSED, fused_attention)
AttentionInterface.register(CHUNKED, partial(fused_attention, in_chunks=True))
AttentionInterface.register(EAGER, eager_attention)
AttentionMaskInterface.register(FUSED, sdpa_mask)
AttentionMaskInterface.register(CHUNKED, sdpa_mask)
AttentionMaskInterface.register(EAGER, eager_mask)
