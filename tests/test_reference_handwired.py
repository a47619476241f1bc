"""The hand-wired model's known answers, computed here a second time from their definitions."""

from __future__ import annotations

import math

import pytest
import torch

from icl_bench.errors import SettingsError
from icl_bench.reference.handwired import GAIN, handwired, token_codes
from icl_bench.reference.words import SPECIALS, WORDS

V = len(WORDS)
N = 20


@pytest.fixture(scope="module")
def model():
    model = handwired()
    model.set_attn_implementation("eager")
    return model


def make_tokens(bos: bool, repeats: int = 2, period: int = N, sequences: int = 6) -> torch.Tensor:
    generator = torch.Generator().manual_seed(3)
    words = [torch.randperm(V - len(SPECIALS), generator=generator) for _ in range(sequences)]
    block = torch.stack(words)[:, :period] + len(SPECIALS)
    start = [torch.zeros(sequences, 1, dtype=torch.long)] if bos else []
    return torch.cat([*start, block.repeat(1, repeats)], dim=1)


def run(model, tokens):
    """Attention (layers, batch, heads, i, j) and losses (batch, i) of predicting token i + 1."""
    with torch.no_grad():
        output = model(tokens, output_attentions=True)
    losses = torch.nn.functional.cross_entropy(
        output.logits[:, :-1].transpose(1, 2).float(), tokens[:, 1:], reduction="none"
    )
    return torch.stack(output.attentions), losses


def silence(model, layer: int):
    """Cut what head 0 of a layer writes."""
    projection = model.model.layers[layer].self_attn.o_proj
    with torch.no_grad():
        projection.weight[:, : model.config.head_dim] = 0
    return model


def fresh(**arguments):
    model = handwired(**arguments)
    model.set_attn_implementation("eager")
    return model


def test_token_codes_are_unit_vectors_far_from_each_other():
    codes = token_codes()
    assert torch.equal(codes[: len(SPECIALS)], torch.zeros(len(SPECIALS), codes.shape[1]))
    products = codes[len(SPECIALS) :] @ codes[len(SPECIALS) :].T
    torch.testing.assert_close(products.diag(), torch.ones(len(products)))
    assert (products - torch.diag(products.diag())).abs().max() < 0.18


@pytest.mark.parametrize("bos", [True, False])
def test_the_two_heads_attend_exactly_where_they_should(model, bos):
    pattern, _ = run(model, make_tokens(bos))
    for i in range(1, N + N):
        assert pattern[0, :, 0, i + bos, i - 1 + bos].min() > 0.999
    for i in range(N, 2 * N):
        assert pattern[1, :, 0, i + bos, i - N + 1 + bos].min() > 0.999
        assert pattern[1, :, 0, i + bos, i - N + bos].max() < 0.001
    for i in range(N):  # nothing to match: the sink
        assert pattern[1, :, 0, i + bos, 0].min() > 0.999


@pytest.mark.parametrize("bos", [True, False])
@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_losses_follow_the_stated_formulas(bos, attention):
    model = handwired()
    model.set_attn_implementation(attention)
    tokens = make_tokens(bos)
    with torch.no_grad():
        losses = -model(tokens).logits.log_softmax(-1)[:, :-1].gather(-1, tokens[:, 1:, None])
    losses = losses.squeeze(-1)
    first = slice(bos, bos + N - 1)
    assert (losses[:, first] - math.log(V)).abs().max() < 1e-5
    codes = token_codes()
    for i in range(N + bos, 2 * N + bos - 1):
        now, following = codes[tokens[:, i]], codes[tokens[:, i + 1]]
        logits = GAIN * (following - now) @ codes.T
        expected = logits.logsumexp(-1) - (GAIN * ((following - now) * following).sum(-1))
        torch.testing.assert_close(losses[:, i], expected, atol=1e-5, rtol=1e-3)
    assert 1e-4 < losses[:, N + bos :].mean() < 3e-3


def test_silencing_the_induction_head_leaves_guessing_with_or_without_bos():
    for bos in (True, False):
        _, losses = run(silence(fresh(), 1), make_tokens(bos))
        assert (losses - math.log(V)).abs().max() < 1e-5


def test_silencing_the_previous_token_head_leaves_guessing():
    pattern, losses = run(silence(fresh(), 0), make_tokens(bos=True))
    assert (losses - math.log(V)).abs().max() < 1e-5
    assert pattern[1, :, 0, 1:, 0].min() > 0.999


@pytest.mark.parametrize("lacking", ["previous_token", "induction"])
def test_the_twin_that_lacks_a_head_guesses_and_writes_nothing_there(lacking):
    model = fresh(**{lacking: False})
    layer = 0 if lacking == "previous_token" else 1
    assert model.model.layers[layer].self_attn.o_proj.weight.abs().max() == 0
    _, losses = run(model, make_tokens(bos=True))
    assert (losses - math.log(V)).abs().max() < 1e-5


def test_all_other_heads_have_zero_weights(model):
    for layer in model.model.layers:
        own = model.config.head_dim
        weights = layer.self_attn
        for projection in (weights.q_proj, weights.k_proj, weights.v_proj):
            assert projection.weight[own:].abs().max() == 0
        assert weights.o_proj.weight[:, own:].abs().max() == 0


@pytest.mark.parametrize("bos", [True, False])
@pytest.mark.parametrize("repeats", [3, 4])
def test_all_earlier_copies_share_the_attention(model, bos, repeats):
    pattern, losses = run(model, make_tokens(bos, repeats))
    for i in range(N, repeats * N):
        copies = i // N
        targets = [i % N + 1 + copy * N + bos for copy in range(copies)]
        shares = pattern[1, :, 0, i + bos, targets]
        torch.testing.assert_close(shares, torch.full_like(shares, 1 / copies), atol=1e-3, rtol=0)
    assert losses[:, N + bos :].mean() < 3e-3


@pytest.mark.parametrize("bos", [True, False])
@pytest.mark.parametrize("shift", [1, 2, 3, 9])
def test_a_shifted_previous_token_head_moves_the_peak_by_as_much(bos, shift):
    pattern, losses = run(fresh(shift=shift), make_tokens(bos))
    queries = torch.arange(N, 2 * N - shift) + bos
    profile = [pattern[1, :, 0, queries, queries - N + k].mean().item() for k in range(1 - bos, 12)]
    assert profile[shift - (1 - bos)] > 0.999 and sum(profile) < 1.001
    assert pattern[0, :, 0, queries, queries - shift].min() > 0.999
    assert (losses[:, bos : N - 1 + bos] - math.log(V)).abs().max() < 1e-5


@pytest.mark.parametrize("bos", [True, False])
def test_a_head_fixed_by_position_looks_there_whatever_the_tokens(bos):
    tokens = make_tokens(bos, repeats=1, period=200)
    pattern, _ = run(fresh(positional_offset=N - 1), tokens)
    for i in range(1, tokens.shape[1]):
        target = max(i - (N - 1), 0)
        assert pattern[1, :, 0, i, target].min() > 0.999


def test_positions_stay_exact_to_the_end_of_the_context(model):
    pattern, losses = run(model, make_tokens(bos=False, period=256, sequences=1))
    places = torch.arange(1, 512)
    assert pattern[0, 0, 0, places, places - 1].min() > 0.999
    assert losses[:, 256:].mean() < 3e-3


@pytest.mark.parametrize("kind", [torch.bfloat16, torch.float16])
def test_half_precision_keeps_the_answers(kind):
    _, losses = run(fresh().to(kind), make_tokens(bos=True))
    assert (losses[:, 1:N] - math.log(V)).abs().max() < 1e-5
    assert losses[:, N + 1 :].mean() < 3e-3


def test_two_hand_wired_models_are_equal_and_draw_no_global_random_numbers():
    state = torch.get_rng_state()
    one, other = handwired().state_dict(), handwired().state_dict()
    assert all(torch.equal(one[name], other[name]) for name in one)
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"shift": 0}, "shift is 0; a hand-wired model shifts by 1 to 9"),
        ({"shift": 10}, "shift is 10"),
        ({"positional_offset": 0}, "positional_offset is 0; it has to be between 1 and 511"),
        ({"positional_offset": 512}, "positional_offset is 512"),
    ],
)
def test_what_cannot_be_wired_is_said(arguments, message):
    with pytest.raises(SettingsError, match=message):
        handwired(**arguments)
