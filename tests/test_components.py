"""MLPs and layers that are off do what surgery on the weights does, in every family."""

from __future__ import annotations

import circuit_families as families
import pytest
import torch

import icl_bench
from icl_bench.errors import MeasurementError, NotMeasurable
from icl_bench.measures.tokens import draw_plain, draw_repeated
from icl_bench.models.attention.ablation import Ablation, Replacement, mark_heads
from icl_bench.models.attention.forward_hooks import ForwardHooks
from icl_bench.models.circuits.components import (
    ComponentAblation,
    mean_contributions,
    switched_off,
)
from icl_bench.models.circuits.interventions import switch_off
from icl_bench.models.clean_run import run_base
from icl_bench.probes.ablations import ablation
from icl_bench.probes.design.context import Context

PERIOD, SEQUENCES = 10, 3
WITH_MLP = [name for name in families.EVERY if name != "icl_reference"]
BIASED = ["gpt2", "gpt_neox", "opt", "bloom", "gptj"]


@pytest.fixture(scope="module", params=WITH_MLP)
def family(request):
    return request.param


@pytest.fixture(scope="module")
def model(family):
    return icl_bench.wrap(families.build(family))


def draw(model):
    return draw_repeated(
        model.vocabulary, sequences=SEQUENCES, period=PERIOD, seed=3, bos=model.bos
    )


@pytest.fixture(scope="module")
def tokens(model):
    return draw(model)


def plain_losses(module, ids):
    with torch.no_grad():
        logits = module(ids, use_cache=False).logits[:, :-1].float()
    return torch.nn.functional.cross_entropy(logits.transpose(1, 2), ids[:, 1:], reduction="none")


def losses(model, tokens, sets, values=None, heads=None, head_values=None):
    run = run_base(model, tokens.input_ids, torch.arange(1, tokens.input_ids.shape[1]))
    parts = [[*some, *off] for some, off in zip(sets, heads or [[] for _ in sets])]
    how = Replacement(head_values, contributions=values)
    return switch_off(model, run, parts, how).nll


@pytest.mark.parametrize("layer", [0, 2])
def test_an_mlp_that_is_off_equals_surgery_on_the_weights(family, model, tokens, layer):
    cut = families.build(family)
    families.silence_mlp(cut, family, layer)
    expected = plain_losses(cut, tokens.input_ids)
    ours = losses(model, tokens, [[("mlp", layer)]])[0]
    assert torch.allclose(ours, expected, atol=1e-4)
    assert not torch.allclose(ours, plain_losses(model.model, tokens.input_ids), atol=1e-4)


@pytest.mark.parametrize("layer", [0, 1])
def test_a_layer_that_is_off_equals_surgery_on_both_its_halves(family, model, tokens, layer):
    cut = families.build(family)
    families.silence_mlp(cut, family, layer)
    families.silence_attention(cut, family, layer)
    expected = plain_losses(cut, tokens.input_ids)
    assert torch.allclose(losses(model, tokens, [[("layer", layer)]])[0], expected, atol=1e-4)


def test_heads_and_components_are_off_in_one_pass(family, model, tokens):
    cut = families.build(family)
    families.silence_mlp(cut, family, 1)
    cut = icl_bench.wrap(cut)
    expected = icl_bench.token_losses(cut, tokens.input_ids, ablate=[(2, 3)])
    ours = losses(model, tokens, [[("mlp", 1)], [("mlp", 1)]], heads=[[(2, 3)], []])
    assert torch.allclose(ours[0], expected, atol=1e-4)
    assert torch.allclose(ours[1], icl_bench.token_losses(cut, tokens.input_ids), atol=1e-4)


def test_rows_are_switched_apart(model, tokens):
    """A batch whose rows have different components off gives each row what it gives alone."""
    off: list = [[("mlp", 1)], [], [("layer", 2), ("mlp", 0)]]
    ablation = ComponentAblation.build(off)
    assert ablation.missed == {("mlp", 0), ("mlp", 1), ("layer", 2)}
    with switched_off(model.anatomy, ablation):
        together = model.run_pass(tokens.input_ids, ForwardHooks())
    assert not ablation.missed
    for row, components in enumerate(off):
        with switched_off(model.anatomy, ComponentAblation.build([components])):
            alone = model.run_pass(tokens.input_ids[row : row + 1], ForwardHooks())
        assert torch.allclose(together[row], alone[0], atol=1e-4)


def test_a_mean_layer_adds_its_mean_to_what_enters(model, tokens):
    plain = draw_plain(model.vocabulary, sequences=4, length=2 * PERIOD, seed=1, bos=model.bos)
    means = mean_contributions(model, [("layer", 1)], plain, tokens.prefix)

    def watched(ids):
        """What enters layer 1 and what leaves it."""
        seen = []

        def hook(module, args, kwargs, output):
            entered = args[0] if args else kwargs["hidden_states"]
            seen.extend((entered, output[0] if isinstance(output, tuple) else output))

        layer = families.layer_of(model.model, 1)
        handle = layer.register_forward_hook(hook, with_kwargs=True)
        with torch.no_grad():
            model.model(ids, use_cache=False)
        handle.remove()
        return seen

    entered, left = watched(plain)
    mean = (left - entered)[:, tokens.prefix :].double().mean((0, 1)).float()
    assert torch.allclose(means["layer", 1], mean, atol=1e-5)
    off = ComponentAblation.build([[("layer", 1)]] * SEQUENCES, means)
    with switched_off(model.anatomy, off):
        entered, left = watched(tokens.input_ids)
    assert torch.allclose(left, entered + mean, atol=1e-5)


@pytest.mark.parametrize("name", BIASED)
def test_a_mean_mlp_equals_a_bias_of_that_size(name):
    model = icl_bench.wrap(families.build(name))
    tokens = draw(model)
    plain = draw_plain(model.vocabulary, sequences=4, length=2 * PERIOD, seed=1, bos=model.bos)
    written = []
    path = families.DOWN[name][0]
    writer = families.layer_of(model.model, 1).get_submodule(path)
    handle = writer.register_forward_hook(lambda m, a, output: written.append(output))
    with torch.no_grad():
        model.model(plain, use_cache=False)
    handle.remove()
    mean = written[0].reshape(len(plain), plain.shape[1], -1)[:, tokens.prefix :].mean((0, 1))

    cut = families.build(name)
    target = families.layer_of(cut, 1).get_submodule(path)
    families.silence(target)
    target.bias.data.copy_(mean)
    values = mean_contributions(model, [("mlp", 1)], plain, tokens.prefix)
    ours = losses(model, tokens, [[("mlp", 1)]], values=values)[0]
    assert torch.allclose(values["mlp", 1], mean, atol=1e-5)
    assert torch.allclose(ours, plain_losses(cut, tokens.input_ids), atol=1e-4)


def test_layers_below_the_first_one_named_run_once():
    model = icl_bench.wrap(families.build("llama"))
    tokens = draw(model)
    model.batch_size = SEQUENCES
    losses(model, tokens, [[("mlp", 2)]])
    calls = []
    lower = families.layer_of(model.model, 0).self_attn
    handle = lower.register_forward_hook(lambda *call: calls.append(1))
    sets = [[("mlp", 2)], [("layer", 2)], [("mlp", 1)], [("layer", 1)]]
    shared = losses(model, tokens, sets[:2])
    # The clean run, and the one that keeps what enters layer 2; none for the sets themselves.
    assert len(calls) == 2
    handle.remove()
    for index, components in enumerate(sets[:2]):
        with switched_off(model.anatomy, ComponentAblation.build([components] * SEQUENCES)):
            logits = model.run_pass(tokens.input_ids, ForwardHooks())[:, :-1]
        whole = torch.nn.functional.cross_entropy(
            logits.transpose(1, 2), tokens.input_ids[:, 1:], reduction="none"
        )
        assert torch.allclose(shared[index], whole, atol=1e-5)


def test_a_head_that_is_off_below_a_component_is_not_skipped():
    """Sharing starts below the earliest of both kinds."""
    model = icl_bench.wrap(families.build("llama"))
    tokens = draw(model)
    both = losses(model, tokens, [[("mlp", 2)]], heads=[[(1, 0)]])[0]
    ablation = ComponentAblation.build([[("mlp", 2)]] * SEQUENCES)
    heads = Ablation(mark_heads([[(1, 0)]] * SEQUENCES, model.heads))
    with switched_off(model.anatomy, ablation):
        logits = model.run_pass(tokens.input_ids, ForwardHooks(ablation=heads))[:, :-1]
    whole = torch.nn.functional.cross_entropy(
        logits.transpose(1, 2), tokens.input_ids[:, 1:], reduction="none"
    )
    assert torch.allclose(both, whole, atol=1e-5)


def test_what_is_not_there_is_named():
    model = icl_bench.wrap(families.build("icl_reference"))
    tokens = draw(model)
    with pytest.raises(NotMeasurable, match="layer 1: it has no MLP"):
        losses(model, tokens, [[("mlp", 1)]])
    with pytest.raises(MeasurementError, match="no layer 7; it has 3"):
        losses(model, tokens, [[("layer", 7)]])
    llama = icl_bench.wrap(families.build("llama"))
    with pytest.raises(MeasurementError, match="nothing is given to stand in for mlp 1"):
        losses(llama, tokens, [[("mlp", 1)]], values={("layer", 1): torch.zeros(64)})


def test_the_probe_counts_layers_from_the_last_one_too():
    model = icl_bench.wrap(families.build("llama"))
    small = {"sequences": 2, "period": 8, "null_sets": 0}

    def measure(**off):
        return ablation.measure(model, ablation.Settings(**off, **small), Context())

    last = model.layers - 1
    for mlps, layers in (([-1, 0], []), ([], [-2]), ([-1], [-1])):
        found = measure(mlps=mlps, layers=layers)
        same = measure(
            mlps=[last if n == -1 else n for n in mlps],
            layers=[last + 1 + n for n in layers],
        )
        assert found.metrics == same.metrics
        assert found.settings == same.settings
    with pytest.raises(NotMeasurable, match=f"the model has {last + 1} layers, the suite means"):
        measure(mlps=[-last - 2])
    with pytest.raises(MeasurementError, match="no layer 99"):
        measure(mlps=[99])


def test_a_model_without_mlps_says_so():
    model = icl_bench.load_model("builtin:induction-2l")
    settings = ablation.Settings(mlps=[-1], sequences=2, period=8, null_sets=0)
    with pytest.raises(NotMeasurable, match="it has no MLP"):
        ablation.measure(model, settings, Context())
