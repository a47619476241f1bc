"""Families that call torch's `scaled_dot_product_attention` themselves, without the interface.

Each call that a decoder layer makes is answered by the attention function instead, so these
families are measured like all others, fused, without attention matrices.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from icl_bench.models.attention.attention import fused_attention
from icl_bench.models.attention.kernels import KernelMisfit, expand_groups
from icl_bench.models.attention.layers import OUTSIDE, current_layer

Answer = Callable[[Tensor, Tensor, Tensor, "Tensor | None", bool, "float | None"], Tensor]

_CALLER = nn.Module()
"""Stands for the attention module, which such a call does not name."""


class _Interception(TorchFunctionMode):
    def __init__(self, answer: Answer) -> None:
        super().__init__()
        self.answer = answer

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        if func is not nn.functional.scaled_dot_product_attention:
            return func(*args, **kwargs)
        if current_layer() in (None, OUTSIDE):
            return func(*args, **kwargs)
        return self._take(*args, **kwargs)

    def _take(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attn_mask: Tensor | None = None,
        dropout_p: float = 0.0,
        is_causal: bool = False,
        scale: float | None = None,
        enable_gqa: bool = False,
    ) -> Tensor:
        if query.ndim != 4 or query.shape[1] % key.shape[1]:
            raise KernelMisfit(f"attention is called with queries of shape {tuple(query.shape)}")
        return self.answer(query, key, value, attn_mask, is_causal, scale)


def _measure(
    q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, causal: bool, scale: float | None
) -> Tensor:
    return fused_attention(_CALLER, q, k, v, mask, scale, is_causal=causal)[0].transpose(1, 2)


@contextmanager
def calls_answered() -> Iterator[None]:
    """Let the attention function answer every call from a decoder layer inside the block."""
    with _Interception(_measure):
        yield


@contextmanager
def calls_read(matrices: dict[int, Tensor]) -> Iterator[None]:
    """Answer every call by an explicit softmax, and keep its matrices.

    Args:
        matrices: filled with layer -> attention (batch, heads, length, length).
    """

    def spell_out(
        q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, causal: bool, scale: float | None
    ) -> Tensor:
        k, v = expand_groups(k, q.shape[1]), expand_groups(v, q.shape[1])
        scores = q @ k.transpose(2, 3) * (q.shape[-1] ** -0.5 if scale is None else scale)
        if mask is not None and mask.dtype == torch.bool:
            scores = scores.masked_fill(~mask, float("-inf"))
        elif mask is not None:
            scores = scores + mask
        if causal:
            later = torch.ones(scores.shape[2:], dtype=torch.bool, device=q.device).triu(1)
            scores = scores.masked_fill(later, float("-inf"))
        weights = scores.softmax(-1)
        layer = current_layer()
        assert layer is not None
        matrices[layer] = weights
        return weights @ v

    with _Interception(spell_out):
        yield
