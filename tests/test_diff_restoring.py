"""Places of B restored from A, against models whose weights were copied by hand."""

from __future__ import annotations

import copy

import circuit_families as families
import pytest
import torch
import transformers

import icl_bench
from icl_bench.diffing.grafting import Texts, answer, keep_inputs, restore
from icl_bench.diffing.places import Cause, Place, Restored, find_cause
from icl_bench.errors import NotMeasurable

FAMILIES = [
    *("gpt2", "gpt_neox", "llama", "gemma2", "granite", "falcon", "mixtral", "deepseek_v3"),
]
LAYER = 1


@pytest.fixture(scope="module", params=FAMILIES)
def family(request):
    return request.param


@pytest.fixture(scope="module")
def modules(family):
    """A, and a B in which everything is another number."""
    a, b = families.build(family, 0), families.build(family, 1)
    return a, mix(b, a)


def mix(b, a):
    """B near A, for losses that differ by little and in every place."""
    with torch.no_grad():
        for mine, theirs in zip(b.parameters(), a.parameters()):
            mine.mul_(0.3).add_(theirs, alpha=0.7)
    return b


@pytest.fixture(scope="module")
def models(modules):
    return [icl_bench.wrap(module) for module in modules]


def texts_for(model):
    ids = torch.tensor(model.vocabulary)
    draws = torch.Generator().manual_seed(5)
    rows = ids[torch.randint(len(ids), (3, 14), generator=draws)]
    return Texts(rows, torch.arange(1, 14))


def plain(module, texts):
    """Losses as transformers gives them."""
    with torch.no_grad():
        logits = module(texts.input_ids, use_cache=False).logits[:, texts.targets - 1].float()
    wanted = texts.input_ids[:, texts.targets]
    return torch.nn.functional.cross_entropy(logits.transpose(1, 2), wanted, reduction="none")


def graft(a, b, places):
    """What B loses with each place restored, and A's own losses on the way."""
    texts = texts_for(a)
    inputs = keep_inputs(b, texts)
    answers = answer(a, inputs)
    return [restore(b, inputs, answers, place) for place in places], inputs, answers


def copied(a, b, names):
    """B with the parameters of A whose names `names` accepts."""
    made, theirs = copy.deepcopy(b), dict(a.named_parameters())
    with torch.no_grad():
        for name, parameter in made.named_parameters():
            if names(name):
                parameter.copy_(theirs[name])
    return made


def in_layer(module, index):
    """Names of the parameters of a decoder layer."""
    layer = families.layer_of(module, index)
    own = {id(parameter) for parameter in layer.parameters()}
    return {name for name, parameter in module.named_parameters() if id(parameter) in own}


def same(ours, theirs):
    torch.testing.assert_close(ours, theirs, rtol=2e-4, atol=2e-4)


def test_every_layer_restored_is_the_model_with_its_weights_copied(modules, models):
    a, b = modules
    places = [Place("layer", index) for index in range(models[0].layers)]
    restored, inputs, answers = graft(*models, places)
    same(inputs.losses, plain(b, inputs.texts))
    same(answers.losses, plain(a, inputs.texts))
    for place, ours in zip(places, restored):
        own = in_layer(b, place.layer)
        theirs = plain(copied(a, b, own.__contains__), inputs.texts)
        same(ours, theirs)
        assert not torch.allclose(ours, inputs.losses, atol=1e-3)


def test_the_ends_restored_are_the_model_with_the_rest_copied(modules, models):
    a, b = modules
    layers = set().union(*(in_layer(b, index) for index in range(models[0].layers)))
    [embedded, read], inputs, _ = graft(*models, [Place("embedding"), Place("unembedding")])
    # What is in A's layers and B's ends is, place by place, the opposite of B with A's ends.
    ends = [name for name, _ in b.named_parameters() if name not in layers]
    first = [name for name in ends if is_embedding(name)]
    if tied(b):
        return  # one matrix at both ends cannot be copied to one of them
    same(embedded, plain(copied(a, b, first.__contains__), inputs.texts))
    last = set(ends) - set(first)
    same(read, plain(copied(a, b, last.__contains__), inputs.texts))


def is_embedding(name):
    words = ("embed", "wte", "wpe")
    return any(word in name for word in words) and not name.startswith("embed_out")


def tied(module):
    head = module.get_output_embeddings()
    return head is None or head.weight is module.get_input_embeddings().weight


def attention_matrices(module):
    """Names of the layer's attention matrices, and of those of its MLP."""
    own = {name for name in in_layer(module, LAYER) if "norm" not in name and "ln_" not in name}
    attention = {name for name in own if "attn" in name or "attention" in name}
    return attention, own - attention


@pytest.mark.parametrize("kind", ["attention", "mlp"])
def test_the_half_of_a_layer_that_was_edited_brings_all_back(family, modules, kind):
    before = modules[0]
    chosen = attention_matrices(before)[kind == "mlp"]
    after = copied(modules[1], before, chosen.__contains__)
    a, b = icl_bench.wrap(before), icl_bench.wrap(after)
    other = "mlp" if kind == "attention" else "attention"
    texts = texts_for(a)
    inputs = keep_inputs(b, texts)
    answers = answer(a, inputs)
    assert not torch.allclose(inputs.losses, answers.losses, atol=1e-3)
    for place in (Place(kind, LAYER), Place("layer", LAYER)):
        try:
            same(restore(b, inputs, answers, place), answers.losses)
        except NotMeasurable:
            assert kind == "mlp" and answers.problems["mlp", LAYER]
    for place in (Place(other, LAYER), Place("layer", 0), Place("embedding"), Place("unembedding")):
        try:
            same(restore(b, inputs, answers, place), inputs.losses)
        except NotMeasurable:
            assert other == "mlp" and answers.problems["mlp", LAYER]


def test_the_head_whose_columns_were_edited_brings_all_back_and_no_other(family, modules):
    before, after = modules[0], copy.deepcopy(modules[0])
    projection = families.layer_of(after, LAYER).get_submodule(
        families.OUT.get(family, "self_attn.o_proj")
    )
    a = icl_bench.wrap(before)
    width, head = a.anatomy.layers[LAYER].width, 2
    matrix = projection.weight.T if family == "gpt2" else projection.weight
    with torch.no_grad():
        matrix[:, head * width : (head + 1) * width] *= -0.5
    b = icl_bench.wrap(after)
    places = [Place("head", LAYER, number) for number in range(a.heads[LAYER])]
    restored, inputs, answers = graft(a, b, places)
    assert not torch.allclose(inputs.losses, answers.losses, atol=1e-3)
    for number, ours in enumerate(restored):
        same(ours, answers.losses if number == head else inputs.losses)


def test_a_head_whose_queries_keys_and_values_differ_too_is_restored_with_them():
    a = icl_bench.load_model("builtin:induction-2l")
    other = copy.deepcopy(a.model)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.02)
    b = icl_bench.wrap(other)
    width = a.anatomy.layers[LAYER].width
    made = copy.deepcopy(other)
    theirs, own = a.model.model.layers[LAYER], made.model.layers[LAYER]
    rows = slice(4 * width, 5 * width)
    with torch.no_grad():
        for name in ("q_proj", "k_proj", "v_proj"):
            getattr(own.self_attn, name).weight[rows] = getattr(theirs.self_attn, name).weight[rows]
        own.self_attn.o_proj.weight[:, rows] = theirs.self_attn.o_proj.weight[:, rows]
    # Its norm is A's as well; other heads read B's.
    with torch.no_grad():
        for name in ("weight", "bias"):
            ours = getattr(other.model.layers[LAYER].input_layernorm, name)
            getattr(theirs.input_layernorm, name).copy_(ours)
    [restored], inputs, _ = graft(a, b, [Place("head", LAYER, 4)])
    same(restored, plain(made, inputs.texts))


def test_what_a_model_lacks_cannot_be_restored():
    a = icl_bench.load_model("builtin:induction-2l")
    texts = texts_for(a)
    inputs = keep_inputs(a, texts)
    with pytest.raises(NotMeasurable, match="the MLP of layer 0 cannot be restored: it has no MLP"):
        restore(a, inputs, answer(a, inputs), Place("mlp", 0))


def restored(kind, layer, head, share, differs=True, width=0.01):
    place = Place(kind, layer, head)
    return Restored(place, share, share - width, share + width, 16, differs)


def test_the_narrowest_place_that_holds_all_that_differs_is_named():
    layer = [restored("layer", 1, None, 0.99), restored("layer", 0, None, 0.4)]
    head = restored("head", 1, 4, 0.98)
    others = [restored("head", 1, 0, 0.0, False), restored("mlp", 1, None, 0.0, False)]
    assert find_cause([*layer, head, *others]) == Cause(head)
    moved = [restored("head", 1, 0, 0.05)]
    assert find_cause([*layer, head, *moved]) == Cause(layer[0], head)
    weak = restored("head", 1, 4, 0.5)
    assert find_cause([*layer, weak, *others]) == Cause(layer[0])
    mlp = restored("mlp", 1, None, 0.99)
    assert find_cause([*layer, mlp, restored("head", 1, 4, 0.0, False)]) == Cause(mlp)
    attention = restored("attention", 1, None, 0.99)
    assert find_cause([*layer, attention, head, *others]) == Cause(head)
    assert find_cause([restored("layer", 0, None, 0.01, width=0.1)]) is None
    assert find_cause([]) is None
    ends = restored("embedding", None, None, 0.9)
    assert find_cause([ends, restored("layer", 0, None, 0.1)]) == Cause(ends)


def test_layers_without_attention_are_restored_too():
    torch.manual_seed(0)
    config = transformers.MambaConfig(
        vocab_size=96, hidden_size=32, num_hidden_layers=3, state_size=8
    )
    before = transformers.MambaForCausalLM(config).eval()
    after = copy.deepcopy(before)
    with torch.no_grad():
        for parameter in after.backbone.layers[LAYER].parameters():
            parameter.add_(torch.randn_like(parameter) * 0.3)
    a, b = icl_bench.wrap(before), icl_bench.wrap(after)
    restored, inputs, answers = graft(a, b, [Place("layer", index) for index in range(3)])
    for index, ours in enumerate(restored):
        same(ours, answers.losses if index == LAYER else inputs.losses)
    with pytest.raises(NotMeasurable, match="it has no attention heads"):
        restore(b, inputs, answers, Place("head", LAYER, 0))
