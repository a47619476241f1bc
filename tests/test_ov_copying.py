"""OV copying equals whole vocabulary-sized matrices and loops written by hand."""

from __future__ import annotations

import circuit_families as families
import numpy as np
import pytest
import tinyconfigs
import torch
import transformers as tf
from families import GPTJ_HOOKED
from slow_models import SLOW
from slow_weights import Weights

import icl_bench
from icl_bench.errors import NotMeasurable, SettingsError
from icl_bench.measures.eigenvalues import eigenvalue_scores
from icl_bench.measures.tokens import draw_repeated
from icl_bench.models.circuits.ovcircuit import copying_chance
from icl_bench.models.residual.reading import read_layers
from icl_bench.reference.handwired import GAIN, handwired, token_codes
from icl_bench.reference.tokenizer import build_tokenizer

NORMED = ("gemma3", "olmo2", "qwen3")
"""Families with norms over queries and keys."""
FAMILIES = ["gpt2", "llama", "gemma2", "gemma3", "olmo2", "qwen3", "icl_reference"]
PERIOD = 6


def draw(model, sequences=2):
    return draw_repeated(
        model.vocabulary, sequences=sequences, period=PERIOD, seed=5, bos=model.bos
    )


def states_of(module, model):
    """What enters each layer at the last position of BOS and one token, in float64."""
    rows = torch.tensor([[model.bos, token] for token in model.vocabulary])
    module.double()
    with torch.no_grad():
        hidden = module(rows, use_cache=False, output_hidden_states=True).hidden_states
    module.float()
    return [h[:, -1] for h in hidden]


def score_of(matrix):
    values = np.linalg.eigvals(matrix.numpy())
    return values.sum().real / np.abs(values).sum()


@pytest.mark.parametrize("states", ["token", "embedding"])
@pytest.mark.parametrize("name", FAMILIES)
def test_eigenvalues_are_those_of_the_matrix_from_tokens_to_tokens(name, states):
    module = families.build(name)
    model = icl_bench.wrap(module)
    weights, hidden = Weights(module, name), states_of(module, model)
    frame = icl_bench.ov_copying(model, states=states)
    assert list(frame.columns) == ["layer", "head", "ov_eigenvalue"] and len(frame) == 12
    unembed = weights.unembed(model.vocabulary)
    for row in frame.itertuples():
        tokens = weights.normed(hidden[0 if states == "embedding" else min(row.layer, 1)])
        _, _, value, out = weights.head(row.layer, row.head)
        whole = unembed @ out @ value @ tokens.T
        assert whole.shape == (len(model.vocabulary),) * 2
        assert row.ov_eigenvalue == pytest.approx(score_of(whole), abs=2e-5)
    assert frame["ov_eigenvalue"].abs().max() > 0.1


def test_without_bos_a_token_runs_alone():
    module = families.build("llama")
    model = icl_bench.wrap(module)
    with_bos = icl_bench.ov_copying(model)
    model.bos = None
    rows = torch.tensor(model.vocabulary)[:, None]
    with torch.no_grad():
        hidden = module(rows, use_cache=False, output_hidden_states=True).hidden_states[1]
    weights = Weights(module, "llama")
    _, _, value, out = weights.head(2, 3)
    tokens = weights.normed(hidden[:, 0].double())
    expected = score_of(weights.unembed(model.vocabulary) @ out @ value @ tokens.T)
    alone = icl_bench.ov_copying(model)
    assert head_of(alone, 2, 3)["ov_eigenvalue"] == pytest.approx(expected, abs=2e-5)
    assert head_of(with_bos, 2, 3)["ov_eigenvalue"] != pytest.approx(expected, abs=1e-3)


@pytest.mark.skipif(tf.__version__.startswith("4."), reason="with transformers 4 it can be entered")
def test_a_family_that_cannot_be_entered_halfway_is_refused():
    """Its attention layers come after others whose place cannot be taken."""
    torch.manual_seed(0)
    module = tf.AutoModelForCausalLM.from_config(tinyconfigs.make_config("bamba")).eval()
    with pytest.raises(NotMeasurable, match="the model cannot be run from layer 1 on"):
        icl_bench.ov_copying(icl_bench.wrap(module))


@pytest.mark.parametrize("name", FAMILIES)
def test_what_heads_read_is_the_weights_with_the_norms_folded_in(name):
    module = families.build(name)
    model, weights = icl_bench.wrap(module), Weights(module, name)
    for layer, reading in read_layers(model, [0, 2]).items():
        assert reading.norm.scales == (name != "olmo2")
        assert reading.norm.centres == weights.layer_norm
        if reading.norm.scales:
            assert reading.norm.epsilon == pytest.approx(weights.eps, rel=1e-2)
        for head in range(4):
            q, k, v, _ = weights.head(layer, head)
            assert torch.allclose(reading.map_of("value")[head], v, atol=1e-5)
            for side, matrix in (("query", q), ("key", k)):
                found = reading.map_of(side)[head]
                if side in reading.scaled:
                    matrix, found = matrix / matrix.norm(), found / found.norm()
                assert torch.allclose(found, matrix, atol=1e-5)
            assert reading.scaled == ({"query", "key"} if name in NORMED else set())


@pytest.mark.parametrize("name", families.EVERY)
def test_values_are_read_in_every_family_or_refused_by_name(name):
    model = icl_bench.wrap(families.build(name))
    refused = {
        "bloom": "does not use transformers' attention interface",
        "mpt": "does not use transformers' attention interface",
        "deepseek_v3": "layer 0: its values are not a linear map of the normed residual stream",
        "bitnet": "layer 0 has a gate or norm between heads and W_O",
    }
    if GPTJ_HOOKED:
        refused["gptj"] = refused["bloom"]
    if name in refused:
        with pytest.raises(NotMeasurable, match=refused[name]):
            icl_bench.ov_copying(model)
    else:
        assert icl_bench.ov_copying(model)["ov_eigenvalue"].between(-1, 1).all()


@pytest.mark.parametrize("name", list(SLOW))
def test_behaviour_equals_loops_written_by_hand(name):
    module = families.build(name)
    model = icl_bench.wrap(module)
    tokens = draw(model)
    frame = icl_bench.ov_copying(model, tokens).set_index(["layer", "head"])
    slow, samples = SLOW[name](module), {}
    for ids in tokens.input_ids:
        slow.run(ids)
        unembed = slow.unembed() - slow.unembed().mean(0)
        content = range(tokens.prefix, len(ids))
        block = {int(ids[i]) for i in content}
        assert len(block) == PERIOD
        for layer in range(3):
            q, k, _ = slow.project(layer, slow.entered[layer])
            for head in range(4):
                pattern = slow.pattern(q[head], k[head])
                logits = slow.freeze_final(slow.written[layer][head]) @ unembed.T
                # A norm's scale at a position weighs that position; it is left out.
                scale = scale_at(slow, layer)
                attended = raised = 0.0
                for i in range(tokens.prefix + PERIOD, len(ids)):
                    effect = {t: max(0.0, float(logits[i, t] / scale[i])) for t in block}
                    raised += sum(effect.values())
                    seen = [j for j in content if j <= i]
                    total = sum(float(pattern[i, j]) for j in seen)
                    attended += sum(
                        float(pattern[i, j]) / total * effect[int(ids[j])] for j in seen
                    )
                samples.setdefault((layer, head), []).append(2 * attended / raised - 1)
    for place, (first, second) in samples.items():
        row = frame.loc[place]
        assert row["ov_behaviour"] == pytest.approx((first + second) / 2, abs=2e-5)
        assert row["ov_behaviour_stderr"] == pytest.approx(abs(first - second) / 2, abs=2e-5)


def scale_at(slow, layer):
    """What the norms after attention and before the unembedding divide each position by."""
    one = torch.zeros_like(slow.last)
    one[:, 0], one[:, 1] = 1, -1  # of mean 0
    plain = slow.freeze_final(one)[:, 0] / slow.freeze_final(one)[0, 0]
    after = slow.freeze(layer, one, slow.summed[layer])[:, 0]
    return plain * after / after[0]


def wired(**options):
    module = handwired(**options)
    return icl_bench.wrap(module, build_tokenizer(module.config.max_position_embeddings))


def head_of(frame, layer, head):
    return frame.set_index(["layer", "head"]).loc[(layer, head)]


def turn(module, factor):
    with torch.no_grad():
        module.model.layers[1].self_attn.o_proj.weight.mul_(factor)


def test_the_induction_head_copies_and_its_opposite_does_the_opposite():
    model = wired()
    for states in ("token", "embedding"):
        frame = icl_bench.ov_copying(model, states=states)
        assert head_of(frame, 1, 0)["ov_eigenvalue"] == pytest.approx(1, abs=1e-6)
        # The previous-token head writes where no logit is read; the others have no weights.
        assert frame["ov_eigenvalue"].notna().sum() == 1
    tokens = draw(model)
    turn(model.model, -1)
    frame = icl_bench.ov_copying(model, tokens)
    assert head_of(frame, 1, 0)["ov_eigenvalue"] == pytest.approx(-1, abs=1e-6)
    assert head_of(frame, 1, 0)["ov_behaviour"] == pytest.approx(-1, abs=1e-6)
    turn(model.model, 0)
    frame = icl_bench.ov_copying(model, tokens)
    assert frame["ov_eigenvalue"].isna().all() and frame["ov_behaviour"].isna().all()


def test_behaviour_of_the_hand_wired_head_is_known():
    """It attends to the successor y of the current token x and writes code(y) - code(x)."""
    model = wired()
    tokens = draw(model)
    codes = token_codes().double()
    centred = GAIN * (codes - codes.mean(0))
    scores = []
    for ids in tokens.input_ids:
        block = ids[1 : PERIOD + 1].tolist()
        attended = raised = 0.0
        for place in range(PERIOD):
            x, y = block[place], block[(place + 1) % PERIOD]
            if place == PERIOD - 1:
                # The block's last token is followed by its first one, the second time.
                y = block[0]
            effect = (centred[block] @ (codes[y] - codes[x])).clamp_min(0)
            attended += float(effect[block.index(y)])
            raised += float(effect.sum())
        scores.append(2 * attended / raised - 1)
    row = head_of(icl_bench.ov_copying(model, tokens), 1, 0)
    assert row["ov_behaviour"] == pytest.approx(sum(scores) / 2, abs=1e-4)
    assert row["ov_behaviour"] > copying_chance(tokens) + 0.2


def test_a_head_that_writes_at_random_is_at_chance():
    model = icl_bench.wrap(families.build("llama"))
    tokens = draw_repeated(model.vocabulary, sequences=40, period=8, seed=1, bos=model.bos)
    frame = icl_bench.ov_copying(model, tokens)
    assert copying_chance(tokens) == 2 / 8 - 1
    off = (frame["ov_behaviour"] - copying_chance(tokens)) / frame["ov_behaviour_stderr"]
    # Tokens' own directions are in random weights as well, so heads differ from chance a little.
    assert frame["ov_behaviour"].mean() == pytest.approx(copying_chance(tokens), abs=0.05)
    assert off.abs().median() < 6


def test_scores_of_small_matrices_are_known():
    turn_right = torch.tensor([[0.0, -1.0], [1.0, 0.0]])
    eye = torch.eye(2)
    matrices = torch.stack([eye, -eye, turn_right, torch.tensor([[3.0, 0], [0, -1]]), 0 * eye])
    scores = eigenvalue_scores(matrices, eye.expand_as(matrices))
    assert scores[:4].tolist() == pytest.approx([1, -1, 0, 0.5])
    assert scores[4].isnan()


def test_wrong_arguments_get_one_clear_message():
    with pytest.raises(SettingsError, match="unknown states 'tokens'; did you mean 'token'"):
        icl_bench.ov_copying(wired(), states="tokens")


def test_the_module_is_left_as_it_was():
    module = families.build("llama")
    model = icl_bench.wrap(module)
    module.train()
    before = [len(m._forward_hooks) + len(m._forward_pre_hooks) for m in module.modules()]
    random = torch.get_rng_state()
    icl_bench.ov_copying(model, draw(model))
    assert [len(m._forward_hooks) + len(m._forward_pre_hooks) for m in module.modules()] == before
    assert all(m.training and "forward" not in vars(m) for m in module.modules())
    assert torch.equal(torch.get_rng_state(), random)
