"""The reference architecture behaves as a transformers model does."""

from __future__ import annotations

import inspect

import pytest
import torch
from torch import nn
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM

from icl_bench.errors import ModelError
from icl_bench.reference.architecture import IclReferenceForCausalLM
from icl_bench.reference.configuration import IclReferenceConfig


def make(**changes: object) -> IclReferenceForCausalLM:
    torch.manual_seed(0)
    shape = {"vocab_size": 30, "hidden_size": 20, "num_attention_heads": 3, "head_dim": 8}
    shape |= {"max_position_embeddings": 16, "initializer_range": 0.3}
    return IclReferenceForCausalLM(IclReferenceConfig(**{**shape, **changes})).eval()


@pytest.fixture(scope="module")
def ids() -> torch.Tensor:
    return torch.randint(4, 30, (2, 9), generator=torch.Generator().manual_seed(1))


def compute_by_hand(model: IclReferenceForCausalLM, ids: torch.Tensor) -> torch.Tensor:
    """Logits of one sequence, written out head by head and position by position."""
    config, body = model.config, model.model
    stream = body.embed_tokens.weight[ids] + body.embed_positions.weight[: len(ids)]
    width = config.head_dim
    for layer in body.layers:
        weights = layer.self_attn
        read = layer.input_layernorm(stream)
        added = torch.zeros_like(stream)
        for head in range(config.num_attention_heads):
            own = slice(head * width, (head + 1) * width)
            query, key, value = (
                read @ projection.weight[own].T
                for projection in (weights.q_proj, weights.k_proj, weights.v_proj)
            )
            for i in range(len(ids)):
                pattern = torch.softmax(key[: i + 1] @ query[i] / width**0.5, dim=0)
                added[i] += weights.o_proj.weight[:, own] @ (pattern @ value[: i + 1])
        stream = stream + added
    return body.norm(stream) @ model.lm_head.weight.T


@pytest.mark.parametrize("normalize", [True, False])
@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_logits_are_those_of_the_textbook_formula(ids, normalize, attention):
    model = make(normalize=normalize)
    model.set_attn_implementation(attention)
    with torch.no_grad():
        torch.testing.assert_close(
            model(ids).logits[0], compute_by_hand(model, ids[0]), atol=2e-5, rtol=1e-4
        )


def test_eager_attention_returns_causal_probabilities(ids):
    model = make()
    model.set_attn_implementation("eager")
    attentions = model(ids, output_attentions=True).attentions
    assert [tuple(layer.shape) for layer in attentions] == [(2, 3, 9, 9)] * 2
    for layer in attentions:
        torch.testing.assert_close(layer.sum(-1), torch.ones(2, 3, 9))
        assert layer.triu(1).abs().max() == 0


def test_fused_attention_has_no_probabilities_to_return(ids):
    model = make()
    model.set_attn_implementation("sdpa")
    assert model(ids, output_attentions=True).attentions is None


def test_any_registered_attention_function_is_called_once_per_layer(ids):
    from transformers import AttentionInterface

    seen = []

    def attend(module, query, key, value, mask, scaling, **_):
        seen.append((module.layer_idx, module.num_key_value_groups, module.is_causal, scaling))
        return torch.zeros_like(query).transpose(1, 2), None

    AttentionInterface.register("reference_test", attend)
    model = make()
    model.set_attn_implementation("reference_test")
    logits = model(ids).logits
    assert seen == [(layer, 1, True, 8**-0.5) for layer in (0, 1)]
    body = model.model
    alone = body.norm(body.embed_tokens(ids) + body.embed_positions.weight[:9])
    torch.testing.assert_close(logits, model.lm_head(alone))


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_padding_changes_nothing(ids, side, attention):
    model = make()
    model.set_attn_implementation(attention)
    parts = [torch.full((2, 3), 2), ids]
    masks = [torch.zeros(2, 3, dtype=torch.long), torch.ones(2, 9, dtype=torch.long)]
    if side == "right":
        parts, masks = parts[::-1], masks[::-1]
    padded = model(torch.cat(parts, 1), attention_mask=torch.cat(masks, 1)).logits
    kept = padded[:, 3:] if side == "left" else padded[:, :9]
    torch.testing.assert_close(kept, model(ids).logits, atol=1e-5, rtol=1e-5)


def test_position_ids_choose_the_position_embeddings(ids):
    model = make()
    plain = model(ids).logits
    given = torch.arange(9).repeat(2, 1)
    torch.testing.assert_close(model(ids, position_ids=given).logits, plain)
    assert (model(ids, position_ids=given + 5).logits - plain).abs().max() > 0.01


def test_logits_to_keep_and_hidden_states(ids):
    model = make()
    full = model(ids, output_hidden_states=True, use_cache=True, return_dict=True)
    torch.testing.assert_close(model(ids, logits_to_keep=2).logits, full.logits[:, -2:])
    some = torch.tensor([1, 4])
    torch.testing.assert_close(model(ids, logits_to_keep=some).logits, full.logits[:, some])
    assert len(full.hidden_states) == 3
    torch.testing.assert_close(model.lm_head(full.hidden_states[-1]), full.logits)


def test_the_loss_is_that_of_the_next_token(ids):
    model = make()
    output = model(ids, labels=ids)
    losses = -output.logits.log_softmax(-1)[:, :-1].gather(-1, ids[:, 1:, None])
    torch.testing.assert_close(output.loss, losses.mean())


def test_embeddings_can_be_given_instead_of_ids(ids):
    model = make()
    assert model.get_input_embeddings() is model.model.embed_tokens
    assert model.get_output_embeddings() is model.lm_head
    embeds = model.get_input_embeddings()(ids)
    torch.testing.assert_close(model(inputs_embeds=embeds).logits, model(ids).logits)


def test_a_saved_model_comes_back_through_the_auto_classes(ids, tmp_path):
    model = make()
    model.save_pretrained(tmp_path)
    again = AutoModelForCausalLM.from_pretrained(tmp_path).eval()
    assert type(again) is IclReferenceForCausalLM
    assert torch.equal(again(ids).logits, model(ids).logits)
    assert AutoConfig.from_pretrained(tmp_path).head_dim == 8
    body = AutoModel.from_pretrained(tmp_path).eval()
    torch.testing.assert_close(body(ids).last_hidden_state, model.model(ids).last_hidden_state)


def test_there_are_no_biases_no_mlp_and_no_tied_weights():
    model = make()
    linear = [m for m in model.modules() if isinstance(m, nn.Linear)]
    assert len(linear) == 2 * 4 + 1 and all(m.bias is None for m in linear)
    assert model.lm_head.weight.data_ptr() != model.model.embed_tokens.weight.data_ptr()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"input_ids": torch.ones(1, 17).long()}, "17 tokens is longer than .* context of 16"),
        ({}, "give either input_ids or inputs_embeds"),
        ({"input_ids": torch.ones(1, 2).long(), "past_key_values": object()}, "no key/value cache"),
    ],
)
def test_what_it_cannot_run_is_said(arguments, message):
    with pytest.raises(ModelError, match=message):
        make()(**arguments)


def _mask_457(config, input_embeds, attention_mask, cache_position, past_key_values): ...
def _mask_50(config, inputs_embeds, attention_mask, past_key_values, position_ids=None): ...
def _mask_524(config, inputs_embeds, attention_mask, cache, position_ids=None): ...


@pytest.mark.parametrize("made_by", [_mask_457, _mask_50, _mask_524])
def test_the_mask_is_asked_for_by_the_names_of_each_transformers(made_by, monkeypatch):
    from icl_bench.reference import architecture

    names = frozenset(inspect.signature(made_by).parameters)
    monkeypatch.setattr(architecture, "_MASK_ARGUMENTS", names)
    given = {}
    monkeypatch.setattr(architecture, "create_causal_mask", lambda **rest: given.update(rest))
    architecture._causal_mask(IclReferenceConfig(), torch.zeros(1, 3, 4), None)
    assert set(given) == names - {"position_ids"}


def test_nothing_warns(recwarn):
    model = IclReferenceForCausalLM(IclReferenceConfig(num_hidden_layers=1)).eval()
    model(torch.arange(6)[None], attention_mask=torch.tensor([[0, 1, 1, 1, 1, 1]]))
    assert [str(one.message) for one in recwarn] == []
