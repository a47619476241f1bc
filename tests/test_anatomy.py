"""What writes into the residual stream is found, or refused by name; never guessed."""

from __future__ import annotations

import circuit_families as families
import pytest
import torch
import transformers as tf

import icl_bench
from icl_bench.errors import NotMeasurable
from icl_bench.measures.tokens import draw_repeated
from icl_bench.models.circuits.components import ComponentAblation, switched_off
from icl_bench.models.circuits.interventions import switch_off
from icl_bench.models.clean_run import run_base

MLP = {
    "opt": ["fc2"],
    "biogpt": ["fc2"],
    "bloom": ["mlp.dense_4h_to_h"],
    "mpt": ["ffn.down_proj"],
    "icl_reference": [],
    "gemma2": ["post_feedforward_layernorm"],
    "gemma3": ["post_feedforward_layernorm"],
    "olmo2": ["post_feedforward_layernorm"],
    "granitemoeshared": ["block_sparse_moe", "shared_mlp"],
}
FACTOR = {"granite": 0.22, "granitemoeshared": 0.3}


def draw(model):
    return draw_repeated(model.vocabulary, sequences=2, period=6, seed=5, bos=model.bos)


@pytest.mark.parametrize("name", families.EVERY)
def test_projection_norm_mlp_and_factor_are_found(name):
    model = icl_bench.wrap(families.build(name))
    anatomy = model.anatomy
    for index, layer in enumerate(anatomy.layers):
        module = families.layer_of(model.model, index)
        names = {part: path for path, part in module.named_modules()}
        assert (layer.problem, layer.mlp_problem) == (None, None)
        assert names[layer.projection] == families.OUT.get(name, "self_attn.o_proj")
        norm = None if layer.norm_module is None else names[layer.norm_module]
        after = "post_attention_layernorm" if name in ("gemma2", "gemma3", "olmo2") else None
        assert norm == after
        if name != "mixtral":
            assert [names[part] for part in layer.mlps] == MLP.get(name, ["mlp"])
        assert len(layer.mlps) == len(MLP.get(name, ["mlp"]))
        assert layer.multiplier == FACTOR.get(name, 1.0)
        assert set(layer.mlp_multipliers) <= {FACTOR.get(name, 1.0)}
        assert layer.plain == (name != "bitnet")
    assert anatomy.problem is None
    assert (anatomy.require_unembedding().cap is not None) == (name == "gemma2")


def change_layer(module, change, index=1):
    layer = families.layer_of(module, index)
    own = layer.forward
    layer.forward = lambda hidden_states, *args, **kwargs: change(
        hidden_states, own(hidden_states, *args, **kwargs)
    )
    return module


def test_a_layer_that_adds_something_else_is_refused_by_name():
    module = change_layer(families.build("llama"), lambda x, y: y + 0.02 * torch.tanh(x))
    model = icl_bench.wrap(module)
    with pytest.raises(NotMeasurable, match="layer 1: what it adds"):
        icl_bench.logit_attribution(model, draw(model))
    with pytest.raises(NotMeasurable, match="layer 1: what it adds"):
        icl_bench.path_patching(model, draw(model), [(2, 0)])
    # Layers that do not need it are measured.
    assert len(icl_bench.path_patching(model, draw(model), [(1, 0)])) == 4
    with pytest.raises(NotMeasurable, match="layer 1: what it adds"):
        icl_bench.token_losses(model, draw(model).input_ids, [("mlp", 1)])


def test_a_norm_of_the_residual_stream_itself_is_refused():
    config = families.families.CONFIGS["opt"]()
    config.do_layer_norm_before = False
    torch.manual_seed(0)
    model = icl_bench.wrap(tf.AutoModelForCausalLM.from_config(config).eval())
    with pytest.raises(NotMeasurable, match="layer 0: what it adds"):
        icl_bench.logit_attribution(model, draw(model))


def test_mixed_heads_are_refused():
    """A projection that gets the heads in another order does not belong to them one by one."""
    module = families.build("llama")
    projection = families.layer_of(module, 1).self_attn.o_proj
    projection.register_forward_pre_hook(lambda part, args: (args[0].flip(-1),))
    model = icl_bench.wrap(module)
    with pytest.raises(NotMeasurable, match="layer 1: something mixes its heads"):
        icl_bench.logit_attribution(model, draw(model))


def test_a_gate_on_each_head_is_carried_along():
    module = families.build("llama")
    layer = families.layer_of(module, 1)
    gate = torch.rand(64) + 0.5
    layer.self_attn.o_proj.register_forward_pre_hook(lambda part, args: (args[0] * gate,))
    model = icl_bench.wrap(module)
    plain = icl_bench.wrap(families.build("llama"))
    with torch.no_grad():
        families.layer_of(plain.model, 1).self_attn.o_proj.weight.mul_(gate)
    assert not model.anatomy.layers[1].plain
    ours = icl_bench.logit_attribution(model, draw(model))
    assert (ours - icl_bench.logit_attribution(plain, draw(plain))).abs().max().max() < 1e-6
    with pytest.raises(NotMeasurable, match="layer 1 has a gate or norm between heads and W_O"):
        icl_bench.path_patching(model, draw(model), [(1, 0)], side="value")


def test_logits_that_are_no_multiple_of_the_unembedding_are_refused():
    module = families.build("llama")

    def bend(part, args, output):
        output.logits = output.logits + output.logits.sin()

    module.register_forward_hook(bend)
    model = icl_bench.wrap(module)
    with pytest.raises(NotMeasurable, match="not a multiple of the unembedding's output"):
        icl_bench.logit_attribution(model, draw(model))
    assert len(icl_bench.path_patching(model, draw(model), [(1, 0)])) == 4
    with pytest.raises(NotMeasurable, match="not a multiple of the unembedding's output"):
        icl_bench.path_patching(model, draw(model), [(1, 0)], side="value")


def test_a_model_that_cannot_be_resumed_is_refused():
    """Layer 2 depends on something that only a run of layer 0 provides."""
    module = families.build("llama")
    counted = {"runs": 0}
    families.layer_of(module, 0).register_forward_pre_hook(
        lambda *call: counted.update(runs=counted["runs"] + 1)
    )
    first = families.layer_of(module, 0)
    run = first.self_attn.register_forward_hook(lambda *call: counted.update(seen=True))
    query = families.layer_of(module, 2).self_attn.q_proj

    def depend(part, args, output):
        return output * 2 if counted.pop("seen", False) else output

    query.register_forward_hook(depend)
    model = icl_bench.wrap(module)
    with pytest.raises(NotMeasurable, match="cannot be run from layer 2 on: attention differs"):
        icl_bench.path_patching(model, draw(model), [(2, 0)])
    run.remove()


@pytest.mark.parametrize("name", ["gpt2", "llama", "gemma2", "opt", "bloom", "mixtral", "falcon"])
def test_the_module_is_left_as_it_was(name):
    module = families.build(name)
    model = icl_bench.wrap(module)
    tokens = draw(model)

    def state():
        parts = list(module.modules())
        return (
            [len(m._forward_hooks) + len(m._forward_pre_hooks) for m in parts],
            ["forward" in vars(m) for m in parts],
            [m.training for m in parts],
            module.config._attn_implementation,
            [p.grad for p in module.parameters()],
            torch.get_rng_state().tolist(),
        )

    with torch.no_grad():
        logits = module(tokens.input_ids, use_cache=False).logits
    module.train()
    before = state()
    icl_bench.logit_attribution(model, tokens)
    if model.path != "hooked":
        icl_bench.path_patching(model, tokens, [(2, 0)], side=("query", "key", "value"))
    run = run_base(model, tokens.input_ids, torch.tensor([3]))
    switch_off(model, run, [[("mlp", 1)], [("layer", 2)]])
    with (
        pytest.raises(RuntimeError),
        switched_off(model.anatomy, ComponentAblation.build([[("mlp", 1)]] * 5)),
    ):
        model.run_pass(
            tokens.input_ids, icl_bench.models.attention.forward_hooks.ForwardHooks(), logits=False
        )
    assert state() == before
    module.eval()
    with torch.no_grad():
        assert torch.equal(module(tokens.input_ids, use_cache=False).logits, logits)
