"""Numbers do not depend on batch size, order, padding, other checks, or what ran before."""

from __future__ import annotations

import families
import pytest
import torch

import icl_bench
from icl_bench.measures.tokens import RepeatedTokens, draw_repeated, induction_pairs
from icl_bench.models.circuits.interventions import switch_off
from icl_bench.models.clean_run import run_base

EVERY = ("gpt2", "llama", "gemma3", "gemma2", "gptj", "bloom")


@pytest.fixture(scope="module", params=EVERY)
def model(request):
    return icl_bench.wrap(families.build(request.param))


@pytest.fixture(scope="module")
def tokens(model):
    return draw_repeated(model.vocabulary, sequences=5, period=10, seed=1, bos=model.bos)


def per_sequence(model, ids, tokens):
    """Scores (sequences, layers, heads) and losses, clean and ablated, of each sequence."""
    found = model.head_scores(ids, {"induction": induction_pairs(tokens)})["induction"]
    scores = torch.stack([found[layer] for layer in sorted(found)], 1)
    run = run_base(model, ids, torch.arange(1, ids.shape[1]))
    means = switch_off(model, run, [[(0, 1)], [(2, 2), (1, 0)]]).nll
    return scores, run.losses.nll, means.transpose(0, 1)


@pytest.mark.parametrize("rows", [1, 2, 4])
def test_batch_size(model, tokens, rows):
    expected = per_sequence(model, tokens.input_ids, tokens)
    model.batch_size = rows
    try:
        found = per_sequence(model, tokens.input_ids, tokens)
    finally:
        model.batch_size = None
    for one, other in zip(found, expected):
        assert torch.allclose(one, other, atol=1e-5)


def test_order(model, tokens):
    order = torch.tensor([3, 0, 4, 2, 1])
    expected = per_sequence(model, tokens.input_ids, tokens)
    found = per_sequence(model, tokens.input_ids[order], tokens)
    for one, other in zip(found, expected):
        assert torch.allclose(one, other[order], atol=1e-5)


def test_company(model, tokens):
    """A sequence has the same numbers alone as beside others."""
    expected = per_sequence(model, tokens.input_ids, tokens)
    found = per_sequence(model, tokens.input_ids[2:3], tokens)
    for one, other in zip(found, expected):
        assert torch.allclose(one, other[2:3], atol=1e-5)


def test_padding_to_the_right(model, tokens):
    short = tokens.input_ids[:, :14]
    filler = torch.full((len(short), 9), model.vocabulary[0])
    padded = torch.cat([short, filler], 1)
    expected = icl_bench.token_losses(model, short)
    assert torch.allclose(icl_bench.token_losses(model, padded)[:, :13], expected, atol=1e-5)


def test_what_ran_before(model, tokens):
    expected = per_sequence(model, tokens.input_ids, tokens)
    torch.manual_seed(99)
    torch.rand(7)
    other = draw_repeated(model.vocabulary, sequences=2, period=5, seed=9, bos=model.bos)
    icl_bench.head_scores(model, other)
    icl_bench.token_losses(model, other.input_ids, [(1, 1)], "mean")
    found = per_sequence(model, tokens.input_ids, tokens)
    assert all(torch.equal(one, other) for one, other in zip(found, expected))


def test_weights_changed_between_calls_are_seen(tokens):
    """Nothing of a former call is kept: a model in training is measured as it is now."""
    model = icl_bench.wrap(families.build("llama"))
    ids = draw_repeated(model.vocabulary, sequences=2, period=10, bos=model.bos).input_ids
    before = icl_bench.token_losses(model, ids, [(1, 0)])
    model.model.model.layers[0].mlp.down_proj.weight.data.mul_(0.5)
    after = icl_bench.token_losses(model, ids, [(1, 0)])
    fresh = icl_bench.token_losses(icl_bench.wrap(model.model), ids, [(1, 0)])
    assert torch.equal(after, fresh)
    assert not torch.allclose(after, before, atol=1e-4)


SUITE = """\
icl_suite: 1
name: {name}
defaults: {{sequences: 4, period: 8, null_draws: 5}}
measure:
  repeats: {{probe: induction}}
{more}
  collapse: {{probe: ablation, heads: {{from: repeats, top: 2}}, method: mean, seed: 3}}
checks:
  - {{id: one, on: repeats, metric: induction_max, above: 0.1}}
  - {{id: two, on: collapse, metric: loss_ratio, above: 1}}
"""
MORE = """\
  zeroed: {probe: ablation, heads: {from: repeats, top: 3}, method: zero, seed: 3}
  others: {probe: ablation, heads: [[0, 1]], method: resample, seed: 4}
  swept: {probe: sweep, exact: false, top: 2, seed: 3}"""


def test_other_measurements_of_the_run(tmp_path):
    (tmp_path / "few.yaml").write_text(SUITE.format(name="few", more=""))
    (tmp_path / "many.yaml").write_text(SUITE.format(name="many", more=MORE))
    few = icl_bench.run([tmp_path / "few.yaml"], model="builtin:induction-2l")
    many = icl_bench.run([tmp_path / "many.yaml"], model="builtin:induction-2l")
    for name in ("repeats", "collapse"):
        a, b = few.measurements[f"few/{name}"], many.measurements[f"many/{name}"]
        assert a.tokens_sha256 == b.tokens_sha256
        assert a.metrics.keys() == b.metrics.keys()
        for metric in a.metrics:
            assert a.metrics[metric].value == pytest.approx(b.metrics[metric].value, abs=1e-5)
            assert a.metrics[metric].stderr == pytest.approx(b.metrics[metric].stderr, abs=1e-5)


def test_tokens_built_by_hand(model, tokens):
    same = RepeatedTokens(tokens.input_ids.tolist(), tokens.period, 2, tokens.prefix)
    a, b = icl_bench.head_scores(model, same), icl_bench.head_scores(model, tokens)
    assert (a - b).abs().max().max() < 1e-6
