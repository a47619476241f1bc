"""Fused attention kernels that return the row's log-sum-exp beside the output.

A new device is one function and one row of `KERNELS`.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import torch
from torch import Tensor, nn

from icl_bench.models.attention.call import AttentionCall
from icl_bench.models.module.memory import ran_out_of_memory

Kernel = Callable[[Tensor, Tensor, Tensor, "Tensor | None", bool, float], tuple[Tensor, Tensor]]


class KernelMisfit(Exception):
    """No fused kernel takes these tensors; the message says why."""


def expand_groups(tensor: Tensor, heads: int) -> Tensor:
    """Repeat key/value heads (batch, kv_heads, length, width) so that every query head has one."""
    groups = heads // tensor.shape[1]
    return tensor if groups == 1 else tensor.repeat_interleave(groups, dim=1)


@cache
def _cpu_kernel_groups() -> bool:
    """Whether this torch's CPU kernel takes fewer key/value heads than query heads."""
    draws = torch.Generator().manual_seed(0)
    q = torch.randn(1, 4, 5, 8, generator=draws)
    kv = torch.randn(1, 2, 5, 8, generator=draws)
    kernel = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
    try:
        grouped = kernel(q, kv, kv, 0.0, True)
    except RuntimeError:
        return False
    full = expand_groups(kv, 4)
    expected = kernel(q, full, full, 0.0, True)
    return all(torch.allclose(a, b, atol=1e-6) for a, b in zip(grouped[:2], expected[:2]))


def _cpu(
    q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, causal: bool, scale: float
) -> tuple[Tensor, Tensor]:
    if k.shape[1] != q.shape[1] and not _cpu_kernel_groups():
        k, v = expand_groups(k, q.shape[1]), expand_groups(v, q.shape[1])
    out, lse = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(
        q, k, v, 0.0, causal, attn_mask=mask, scale=scale
    )
    return out, lse


def _cuda(
    q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, causal: bool, scale: float
) -> tuple[Tensor, Tensor]:
    k, v = expand_groups(k, q.shape[1]), expand_groups(v, q.shape[1])
    if mask is None and q.dtype in (torch.float16, torch.bfloat16) and q.shape[-1] % 8 == 0:
        flash = torch.ops.aten._scaled_dot_product_flash_attention
        result = flash(q, k, v, 0.0, causal, False, scale=scale)
        return result[0], result[1]
    if mask is not None:
        # The memory-efficient kernel wants a bias for every head, its rows aligned to 16 bytes.
        length = q.shape[2]
        padded = torch.zeros(*mask.shape[:-1], -(-length // 8) * 8, dtype=q.dtype, device=q.device)
        padded[..., :length] = mask
        mask = padded[..., :length].expand(q.shape[0], q.shape[1], -1, -1)
    efficient = torch.ops.aten._scaled_dot_product_efficient_attention
    result = efficient(q, k, v, mask, True, 0.0, causal, scale=scale)
    return result[0], result[1][..., : q.shape[2]]


KERNELS: dict[str, Kernel] = {"cpu": _cpu, "cuda": _cuda}


def attend(call: AttentionCall) -> tuple[Tensor, Tensor]:
    """Return attention output and log-sum-exp of every row's scores.

    Args:
        call: what to compute with; causal only without a mask.

    Returns:
        output (batch, heads, length, value_width), and log-sum-exp (batch, heads, length) in
        float32.

    Raises:
        KernelMisfit: no fused kernel takes these tensors.
    """
    q, k, v, mask = call.query, call.key, call.value, call.mask
    kernel = KERNELS.get(q.device.type)
    if kernel is None:
        raise KernelMisfit(f"no fused kernel for device {q.device.type}")
    width, value_width = q.shape[-1], v.shape[-1]
    # The kernels want one width for all. Zeros change neither q.k nor the values' own columns.
    if value_width < width:
        v = nn.functional.pad(v, (0, width - value_width))
    elif value_width > width:
        q, k = (nn.functional.pad(t, (0, value_width - width)) for t in (q, k))
    # The kernels step through a row one number at a time, whatever its stride.
    q, k, v = (t if t.stride(-1) == 1 else t.contiguous() for t in (q, k, v))
    if mask is not None and mask.stride(-1) != 1:
        mask = mask.contiguous()
    try:
        output, lse = kernel(q, k, v, mask, call.causal, call.scale)
        return output[..., :value_width], lse
    except (RuntimeError, NotImplementedError) as error:
        if ran_out_of_memory(error):
            raise
        raise KernelMisfit(f"the fused kernel refused: {error}") from None
