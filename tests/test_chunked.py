"""Attention in chunks equals the formula written out, and never holds the whole matrix."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from icl_bench.measures.tokens import Pairs
from icl_bench.models.attention.call import AttentionCall
from icl_bench.models.attention.chunked import attend_in_chunks
from icl_bench.models.attention.kernels import attend

BATCH, HEADS, LENGTH, WIDTH, SCALE = 2, 4, 37, 16, 0.3


def draw(kv_heads: int = 2, value_width: int = WIDTH, dtype: torch.dtype = torch.float32):
    draws = torch.Generator().manual_seed(0)
    shapes = [(HEADS, WIDTH), (kv_heads, WIDTH), (kv_heads, value_width)]
    return [
        torch.randn(BATCH, heads, LENGTH, width, generator=draws).to(dtype)
        for heads, width in shapes
    ]


def causal(q: Tensor, k: Tensor, v: Tensor, softcap: float | None = None) -> AttentionCall:
    return AttentionCall(q, k, v, None, True, SCALE, softcap)


def spell_out(q: Tensor, k: Tensor, v: Tensor, bias: Tensor, softcap: float | None = None):
    """Output and log-sum-exp by loops over rows, heads and queries, in float64."""
    out = torch.zeros(BATCH, HEADS, LENGTH, v.shape[-1], dtype=torch.float64)
    lse = torch.zeros(BATCH, HEADS, LENGTH, dtype=torch.float64)
    for b in range(BATCH):
        for h in range(HEADS):
            group = h // (HEADS // k.shape[1])
            for i in range(LENGTH):
                scores = k[b, group].double() @ q[b, h, i].double() * SCALE
                if softcap is not None:
                    scores = softcap * torch.tanh(scores / softcap)
                scores = scores + bias[b, h, i].double()
                lse[b, h, i] = torch.logsumexp(scores, 0)
                out[b, h, i] = scores.softmax(0).nan_to_num(0) @ v[b, group].double()
    return out, lse


def causal_bias() -> Tensor:
    later = torch.ones(LENGTH, LENGTH, dtype=torch.bool).triu(1)
    return torch.zeros(BATCH, HEADS, LENGTH, LENGTH).masked_fill(later, float("-inf"))


def check(found: tuple[Tensor, Tensor], expected: tuple[Tensor, Tensor], within: float = 2e-6):
    for a, b in zip(found, expected):
        assert a.shape == b.shape
        assert torch.equal(torch.isinf(a), torch.isinf(b))
        finite = torch.isfinite(b)
        assert (a.double() - b)[finite].abs().max() < within


@pytest.mark.parametrize("chunk", [1, 8, 37, 128])
@pytest.mark.parametrize("kv_heads", [1, 2, 4])
@pytest.mark.parametrize("softcap", [None, 1.5])
def test_causal_attention_equals_the_formula(chunk, kv_heads, softcap):
    q, k, v = draw(kv_heads)
    found = attend_in_chunks(causal(q, k, v, softcap), chunk=chunk)
    check(found, spell_out(q, k, v, causal_bias(), softcap))


@pytest.mark.parametrize("value_width", [5, 40])
def test_values_may_have_a_width_of_their_own(value_width):
    q, k, v = draw(value_width=value_width)
    expected = spell_out(q, k, v, causal_bias())
    check(attend_in_chunks(causal(q, k, v), chunk=8), expected)
    check(attend(causal(q, k, v)), expected)


@pytest.mark.parametrize("shape", [(1, 1), (BATCH, 1), (1, HEADS), (BATCH, HEADS)])
def test_an_additive_mask_is_added_after_the_cap(shape):
    q, k, v = draw()
    bias = torch.randn(*shape, LENGTH, LENGTH, generator=torch.Generator().manual_seed(1))
    expected = spell_out(q, k, v, bias.expand(BATCH, HEADS, -1, -1), 2.0)
    check(attend_in_chunks(AttentionCall(q, k, v, bias, False, SCALE, 2.0), chunk=8), expected)


def test_a_boolean_mask_hides_what_is_false():
    q, k, v = draw()
    window = torch.ones(1, 1, LENGTH, LENGTH, dtype=torch.bool).tril().triu(-7)
    bias = torch.zeros(window.shape).masked_fill(~window, float("-inf"))
    expected = spell_out(q, k, v, bias.expand(BATCH, HEADS, -1, -1))
    check(attend_in_chunks(AttentionCall(q, k, v, window, False, SCALE), chunk=8), expected)


def test_hidden_pairs_get_no_attention_in_any_row():
    q, k, v = draw()
    query, key = torch.tensor([3, 20, 36, 0]), torch.tensor([1, 20, 0, 5])
    bias = causal_bias()
    bias[:, :, query, key] = float("-inf")
    found = attend_in_chunks(causal(q, k, v), hidden=Pairs(query, key), chunk=8)
    check(found, spell_out(q, k, v, bias))


def test_hidden_pairs_may_differ_between_rows():
    q, k, v = draw()
    query, key = torch.tensor([[3, 20], [9, 9]]), torch.tensor([[1, 4], [9, 2]])
    bias = causal_bias()
    for row in range(BATCH):
        bias[row, :, query[row], key[row]] = float("-inf")
    found = attend_in_chunks(causal(q, k, v), hidden=Pairs(query, key), chunk=8)
    check(found, spell_out(q, k, v, bias))


def test_a_query_that_sees_no_key_gets_zeros():
    q, k, v = draw()
    nowhere = Pairs(torch.tensor([0]), torch.tensor([0]))
    output, lse = attend_in_chunks(causal(q, k, v), hidden=nowhere)
    assert bool((output[:, :, 0] == 0).all()) and bool((lse[:, :, 0] == float("-inf")).all())
    assert bool(torch.isfinite(output).all())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_scores_of_half_precision_are_summed_in_float32(dtype):
    q, k, v = draw(dtype=dtype)
    output, lse = attend_in_chunks(causal(q, k, v, 1.5), chunk=8)
    expected, norms = spell_out(q, k, v, causal_bias(), 1.5)
    assert output.dtype == dtype and lse.dtype == torch.float32
    assert (lse - norms).abs().max() < 2e-6
    assert (output.double() - expected).abs().max() < torch.finfo(dtype).eps * 4


class Largest(TorchDispatchMode):
    """The number of entries of the largest tensor that any operation makes."""

    entries = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        if isinstance(result, Tensor):
            self.entries = max(self.entries, result.numel())
        return result


def test_the_whole_matrix_is_never_held():
    length, chunk = 512, 16
    q, k, v = (torch.randn(1, 2, length, 8) for _ in range(3))
    with Largest() as largest:
        attend_in_chunks(causal(q, k, v, 5.0), chunk=chunk)
    assert largest.entries <= 2 * length * chunk
    with Largest() as whole:
        (q @ k.transpose(2, 3)).softmax(-1)
    assert whole.entries == 2 * length * length


def test_a_fused_kernel_takes_tensors_whatever_their_strides():
    """The kernel itself walks rows as if they were contiguous, and gives other numbers."""
    q, k, v = draw()
    q, k, v = (t.transpose(2, 3).contiguous().transpose(2, 3) for t in (q, k, v))
    bias = causal_bias().transpose(2, 3).contiguous().transpose(2, 3)
    assert {t.stride(-1) for t in (q, k, v, bias)} == {LENGTH}
    check(attend(AttentionCall(q, k, v, bias, False, SCALE)), spell_out(q, k, v, causal_bias()))
