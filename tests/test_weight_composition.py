"""Composition from weights equals products of whole matrices, and finds the hand-wired circuit."""

from __future__ import annotations

import circuit_families as families
import numpy as np
import pytest
import torch
from slow_weights import Weights

import icl_bench
from icl_bench.errors import NotMeasurable, SettingsError
from icl_bench.measures.composition import random_composition
from icl_bench.models.residual.reading import read_layers
from icl_bench.reference.handwired import handwired
from icl_bench.reference.tokenizer import build_tokenizer

COLUMNS = [
    *("sender_layer", "sender_head", "layer", "head", "side", "composition", "random", "excess")
]


def whole(weights, layer, head):
    """W_QK and W_OV, (width, width)."""
    q, k, v, out = weights.head(layer, head)
    return q.T @ k, out @ v


def share(a, b):
    return float((a @ b).norm() / (a.norm() * b.norm()))


@pytest.mark.parametrize(
    "name", ["gpt2", "llama", "gemma2", "gemma3", "olmo2", "qwen3", "icl_reference"]
)
def test_every_side_equals_products_of_whole_matrices(name):
    module = families.build(name)
    model, weights = icl_bench.wrap(module), Weights(module, name)
    receivers = [(1, 2), (2, 0), (2, 3)]
    frame = icl_bench.weight_composition(model, receivers)
    assert list(frame.columns) == COLUMNS
    assert len(frame) == 3 * (4 + 8 + 8)
    for row in frame.itertuples():
        _, writes = whole(weights, row.sender_layer, row.sender_head)
        pattern, copies = whole(weights, row.layer, row.head)
        reads = {"key": pattern, "query": pattern.T, "value": copies}[row.side]
        assert row.composition == pytest.approx(share(reads, writes), abs=1e-5)
        assert row.excess == pytest.approx(row.composition - row.random, abs=1e-12)


def test_the_random_level_is_that_of_whole_random_matrices():
    draws = np.random.default_rng(7)
    scores = []
    for _ in range(200):
        q, k, v = draws.standard_normal((3, 5, 24))
        out = draws.standard_normal((24, 5))
        scores.append(share(torch.tensor(q.T @ k), torch.tensor(out @ v)))
    error = np.std(scores) / 200**0.5
    assert random_composition((5, 24), 5, draws=200) == pytest.approx(
        np.mean(scores), abs=5 * error
    )
    assert random_composition((5, 24), 5) == random_composition((5, 24), 5)
    assert random_composition((5, 24), 5) != random_composition((5, 24), 5, seed=1)


def test_random_weights_are_at_the_random_level():
    frame = icl_bench.weight_composition(icl_bench.wrap(families.build("llama")), [(2, 1)])
    assert frame["excess"].abs().max() < 0.08
    assert frame["excess"].abs().mean() < 0.03


def wired(**options):
    module = handwired(**options)
    return icl_bench.wrap(module, build_tokenizer(module.config.max_position_embeddings))


def test_the_hand_wired_previous_token_head_feeds_the_key():
    model = wired()
    attention = [layer.self_attn for layer in model.model.model.layers]
    q, k, v = (
        getattr(attention[1], f"{side}_proj").weight[:64].detach().double() for side in "qkv"
    )
    value = attention[0].v_proj.weight[:64].detach().double()
    out = attention[0].o_proj.weight[:, :64].detach().double()
    copies = attention[1].o_proj.weight[:, :64].detach().double() @ v
    expected = {
        "key": share(q.T @ k, out @ value),
        "query": 0.0,  # queries read the current token alone
        "value": share(copies, out @ value),
    }
    frame = icl_bench.weight_composition(model, [(1, 0)])
    assert len(frame) == 24 * 3
    known = frame.dropna().set_index("side")
    assert len(known) == 3 and set(known["sender_head"]) == {0}  # the others have no weights
    for side, score in expected.items():
        assert known.loc[side, "composition"] == pytest.approx(score, abs=1e-6)
    assert known.loc["key", "excess"] > 0.02 and known.loc["query", "excess"] < -0.05


def test_without_the_previous_token_head_nothing_feeds_the_key():
    frame = icl_bench.weight_composition(wired(previous_token=False), [(1, 0)])
    assert frame["composition"].isna().all() and frame["excess"].isna().all()


@pytest.fixture(scope="module")
def trained():
    return icl_bench.load_model("builtin:induction-2l")


def test_the_trained_previous_token_head_is_the_one_that_feeds_both_heads(trained):
    frame = icl_bench.weight_composition(trained, [(1, 0), (1, 4)], side="key")
    ranked = frame.sort_values("excess")["sender_head"].tolist()
    assert ranked[-2:] == [9, 9]
    by = frame.set_index("sender_head")["excess"]
    assert by.loc[9].min() > 0.15
    assert by.drop(9).max() < 0.02
    # Other heads of its layer do not read it so.
    rest = icl_bench.weight_composition(trained, [(1, 5), (1, 10)], [(0, 9)], side="key")
    assert rest["excess"].max() < by.loc[9].min() / 2


def test_with_its_output_turned_at_random_it_is_near_random():
    model = icl_bench.load_model("builtin:induction-2l")
    own = slice(9 * 16, 10 * 16)
    with torch.no_grad():
        weight = model.model.model.layers[0].self_attn.o_proj.weight
        turned = torch.linalg.qr(torch.randn(128, 128, generator=torch.Generator().manual_seed(3)))
        weight[:, own] = turned.Q @ weight[:, own]
    frame = icl_bench.weight_composition(model, [(1, 0), (1, 4)], [(0, 9)], side="key")
    assert frame["excess"].abs().max() < 0.03


def test_a_side_that_is_no_linear_map_is_refused_and_others_are_not():
    module = families.build("llama")
    keys = families.layer_of(module, 2).self_attn.k_proj
    keys.register_forward_hook(lambda part, args, output: output + output.tanh())
    model = icl_bench.wrap(module)
    with pytest.raises(NotMeasurable, match="layer 2: its keys are not a linear map"):
        icl_bench.weight_composition(model, [(2, 0)])
    assert len(icl_bench.weight_composition(model, [(2, 0)], side="value")) == 8
    assert len(icl_bench.weight_composition(model, [(1, 0)])) == 12
    with pytest.raises(NotMeasurable, match="attention interface"):
        icl_bench.weight_composition(icl_bench.wrap(families.build("bloom")), [(2, 0)])


def test_wrong_arguments_get_one_clear_message(trained):
    with pytest.raises(SettingsError, match=r"no head 1\.99"):
        icl_bench.weight_composition(trained, [(1, 99)])
    with pytest.raises(SettingsError, match="unknown side 'keys'; did you mean 'key'"):
        icl_bench.weight_composition(trained, [(1, 0)], side="keys")
    with pytest.raises(SettingsError, match="no head lies below the receivers in layer 0"):
        icl_bench.weight_composition(trained, [(0, 9)])
    with pytest.raises(SettingsError, match=r"sender 1\.0 lies below no receiver"):
        icl_bench.weight_composition(trained, [(1, 4)], [(1, 0)])


def test_a_layer_that_memory_runs_out_in_is_not_one_that_cannot_be_read():
    model = icl_bench.wrap(families.build("llama"))
    whole_passes = iter([model.anatomy])

    def fail(*_):
        if next(whole_passes, None) is None:
            raise torch.OutOfMemoryError("no memory left")

    handle = model.anatomy.modules[1].self_attn.register_forward_pre_hook(fail)
    with pytest.raises(torch.OutOfMemoryError, match="no memory left"):
        read_layers(model, [1])
    handle.remove()
    assert set(read_layers(model, [1])) == {1}
