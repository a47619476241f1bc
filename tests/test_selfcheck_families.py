"""A family whose code does not do what its heads are measured by is refused when it is loaded."""

from __future__ import annotations

import families
import pytest
import registry
import torch
from torch import nn
from transformers.models.gptj import modeling_gptj
from transformers.models.llama import modeling_llama

import icl_bench
from icl_bench.errors import ModelError, UnsupportedModel
from icl_bench.measures.tokens import draw_repeated
from icl_bench.models.attention.forward_hooks import ForwardHooks
from icl_bench.models.attention.kernels import KernelMisfit
from icl_bench.models.attention.paths import PATHS, Runner

hooked_gptj = pytest.mark.skipif(
    not families.GPTJ_HOOKED, reason="GPT-J has joined transformers' attention interface"
)


def refusal(model) -> str:
    with pytest.raises(UnsupportedModel) as caught:
        icl_bench.wrap(model)
    return str(caught.value)


def test_a_model_that_ignores_the_wish_for_attention_is_refused(monkeypatch):
    right = modeling_gptj.GPTJForCausalLM.forward

    def deaf(self, *args, output_attentions=None, **kwargs):
        return right(self, *args, **kwargs)

    body = modeling_gptj.GPTJModel.forward

    def deaf_body(self, *args, output_attentions=None, **kwargs):
        return body(self, *args, **kwargs)

    monkeypatch.setattr(modeling_gptj.GPTJForCausalLM, "forward", deaf)
    monkeypatch.setattr(modeling_gptj.GPTJModel, "forward", deaf_body)
    assert "hooked: the model returns no attention matrices" in refusal(families.build("gptj"))


@hooked_gptj
def test_attention_that_is_not_what_mixes_the_values_is_refused(monkeypatch):
    right = modeling_gptj.GPTJAttention._attn

    def pretend(self, *args, **kwargs):
        output, weights = right(self, *args, **kwargs)
        return output, weights.detach().roll(1, -1)

    monkeypatch.setattr(modeling_gptj.GPTJAttention, "_attn", pretend)
    message = refusal(families.build("gptj"))
    assert "layer 0: the returned attention is not what mixes the values" in message


@hooked_gptj
def test_attention_that_mixes_only_in_part_is_refused(monkeypatch):
    right = modeling_gptj.GPTJAttention._attn

    def add_more(self, query, key, value, *args, **kwargs):
        output, weights = right(self, query, key, value, *args, **kwargs)
        return output + value, weights

    monkeypatch.setattr(modeling_gptj.GPTJAttention, "_attn", add_more)
    assert "times values, is not what its projection gets" in refusal(families.build("gptj"))


@hooked_gptj
def test_heads_that_do_not_lie_side_by_side_are_refused(monkeypatch):
    """Interleaved heads: switching off a block of columns would cut a slice of every head."""

    def interleave(self, tensor, heads, width):
        return tensor.permute(0, 2, 3, 1).reshape(*tensor.shape[:1], tensor.shape[2], -1)

    monkeypatch.setattr(modeling_gptj.GPTJAttention, "_merge_heads", interleave)
    assert "times values, is not what its projection gets" in refusal(families.build("gptj"))


def test_an_encoder_is_refused_because_later_tokens_change_earlier_logits():
    message = refusal(registry.build("bert"))
    assert "a token changes the logits before it" in message
    assert "is_decoder=False" in message


def test_layers_that_attend_twice_are_refused(monkeypatch):
    right = modeling_llama.LlamaDecoderLayer.forward

    def twice(self, hidden_states, *args, **kwargs):
        return right(self, right(self, hidden_states, *args, **kwargs), *args, **kwargs)

    monkeypatch.setattr(modeling_llama.LlamaDecoderLayer, "forward", twice)
    message = refusal(families.build("llama"))
    assert "fused, chunked, direct, eager: layer 0 calls attention more than once" in message


@pytest.mark.parametrize("path", ["fused", "chunked", "eager"])
def test_an_argument_that_nothing_understands_stops_the_path(path, monkeypatch):
    """The model file's own eager function would swallow it without a word."""
    right = modeling_llama.LlamaAttention.forward

    def ask_for_more(self, *args, **kwargs):
        return right(self, *args, temperature=0.5, **kwargs)

    monkeypatch.setattr(modeling_llama.LlamaAttention, "forward", ask_for_more)
    runner = Runner(families.build("llama"))
    with pytest.raises(KernelMisfit, match="the attention call has temperature"):
        PATHS[path][1](runner, torch.arange(3, 9)[None], ForwardHooks(), None, True)


def test_layers_are_numbered_as_the_decoder_does_it_though_modules_are_shared():
    """Zamba has one attention module for all its attending layers, numbered 0, 1, ... apart."""
    model = icl_bench.wrap(registry.build("zamba"))
    assert sorted(model.heads) == [1, 3]
    tokens = draw_repeated(model.vocabulary, sequences=2, period=8, bos=model.bos)
    clean = icl_bench.token_losses(model, tokens.input_ids)
    first, second = (
        icl_bench.token_losses(model, tokens.input_ids, ablate=[(layer, 0)]) for layer in (1, 3)
    )
    assert not torch.allclose(first, second, atol=1e-5)
    assert not torch.allclose(second, clean, atol=1e-5)


def test_the_list_of_experts_is_not_taken_for_the_decoder_layers():
    model = families.build("llama")
    model.model.layers[0].mlp.experts = nn.ModuleList(nn.Linear(2, 2) for _ in range(9))
    assert icl_bench.wrap(model).runner.layers is model.model.layers


def test_huge_scores_leave_few_digits_and_are_still_read_from_the_fused_kernel():
    """Some models have scores of a thousand and more; rounding grows with them in any kernel."""
    model = families.build("qwen2")
    with torch.no_grad():
        for layer in model.model.layers:
            layer.self_attn.q_proj.weight.mul_(200)
            layer.self_attn.k_proj.weight.mul_(2)
    assert icl_bench.wrap(model).attention == "fused"


HALVES = [torch.bfloat16, torch.float16]


@pytest.mark.parametrize("dtype", HALVES, ids=str)
@pytest.mark.parametrize("family", ["llama", "mistral", "gemma2", "gptj"])
def test_half_precision_gives_the_scores_of_the_same_weights_in_float32(family, dtype):
    """Rounded weights, same numbers: what is left is the rounding of activations."""
    half = families.build(family).to(dtype)
    whole = icl_bench.wrap(families.build(family).to(dtype).to(torch.float32))
    model = icl_bench.wrap(half)
    assert model.attention == whole.attention
    tokens = draw_repeated(model.vocabulary, sequences=4, period=12, bos=model.bos)
    found, expected = icl_bench.head_scores(model, tokens), icl_bench.head_scores(whole, tokens)
    within = {torch.bfloat16: 3e-2, torch.float16: 4e-3}[dtype]
    assert (found - expected).abs().max().max() < within
    losses = [icl_bench.token_losses(m, tokens.input_ids, ablate=[(1, 2)]) for m in (model, whole)]
    assert (losses[0] - losses[1]).abs().max() < 10 * within


def test_overflow_in_float16_is_one_clear_error():
    model = families.build("llama").to(torch.float16)
    with torch.no_grad():
        model.lm_head.weight.mul_(60000)
    message = "not finite numbers in float16; its numbers end at 65,504: use bfloat16 or float32"
    with pytest.raises(ModelError, match=message):
        icl_bench.wrap(model)
