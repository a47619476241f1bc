"""Scores, losses and ablations equal what the original implementation gives, in every family.

Everything is compared with `output_attentions=True` under eager attention, read with loops, and
with surgery on the weights.
"""

from __future__ import annotations

import ablating
import families
import pytest
import torch

import icl_bench
from icl_bench.measures.tokens import draw_repeated
from icl_bench.models.circuits.interventions import switch_off
from icl_bench.models.clean_run import run_base

PERIOD, SEQUENCES = 12, 3
EVERY = list(families.CONFIGS)


@pytest.fixture(scope="module", params=EVERY)
def family(request):
    return request.param


@pytest.fixture(scope="module")
def model(family):
    return icl_bench.wrap(families.build(family))


@pytest.fixture(scope="module")
def tokens(model):
    return draw_repeated(
        model.vocabulary, sequences=SEQUENCES, period=PERIOD, seed=3, bos=model.bos
    )


@pytest.fixture(scope="module")
def eager(model, tokens):
    """Attention matrices, a list of (sequences, heads, length, length), and logits."""
    module = model.model
    before = module.config._attn_implementation
    module.config._attn_implementation = "eager"
    with torch.no_grad():
        output = module(tokens.input_ids, output_attentions=True, use_cache=False)
    module.config._attn_implementation = before
    return output.attentions, output.logits


def test_the_expected_path_is_taken(family, model):
    expected = "fused" if family in families.FUSED else "eager"
    assert model.attention == ("chunked" if family in families.CHUNKED else expected)


def test_scores_equal_eager_attention_read_with_loops(model, tokens, eager):
    frame = icl_bench.head_scores(model, tokens)
    attentions, _ = eager
    n, p = tokens.period, tokens.prefix
    for row in frame.itertuples():
        matrices = attentions[row.layer][:, row.head]
        sums = {"induction": [], "previous_token": [], "duplicate_token": [], "first_token": []}
        for matrix in matrices.tolist():
            for i in range(2 * n):
                if i >= n:
                    sums["induction"].append(matrix[p + i][p + i - n + 1])
                    sums["duplicate_token"].append(matrix[p + i][p + i - n])
                if i >= 1:
                    sums["previous_token"].append(matrix[p + i][p + i - 1])
            sums["first_token"] += [matrix[q][0] for q in range(1, 2 * n + p)]
        for name, values in sums.items():
            assert getattr(row, name) == pytest.approx(sum(values) / len(values), abs=1e-5)


def test_a_planted_off_by_one_is_caught(model, tokens, eager):
    """The comparison above must be able to fail: the neighbouring diagonal is another number."""
    frame = icl_bench.head_scores(model, tokens)
    query = torch.arange(2, 2 * tokens.period) + tokens.prefix
    wrong = [
        float(eager[0][row.layer][:, row.head, query, query - 2].mean())
        for row in frame.itertuples()
    ]
    assert (frame["previous_token"] - wrong).abs().max() > 1e-3


def test_losses_equal_cross_entropy_of_the_eager_logits(model, tokens, eager):
    logits = eager[1][:, :-1].float()
    expected = torch.nn.functional.cross_entropy(
        logits.transpose(1, 2), tokens.input_ids[:, 1:], reduction="none"
    )
    assert torch.allclose(icl_bench.token_losses(model, tokens.input_ids), expected, atol=1e-4)


@pytest.mark.parametrize("head", [(0, 1), (2, 3)])
def test_zero_ablation_equals_surgery_on_the_weights(family, model, tokens, head):
    cut = families.build(family)
    families.cut_head(cut, family, *head)
    with torch.no_grad():
        logits = cut(tokens.input_ids, use_cache=False).logits[:, :-1].float()
    expected = torch.nn.functional.cross_entropy(
        logits.transpose(1, 2), tokens.input_ids[:, 1:], reduction="none"
    )
    clean = icl_bench.token_losses(model, tokens.input_ids)
    ablated = icl_bench.token_losses(model, tokens.input_ids, ablate=[head])
    assert torch.allclose(ablated, expected, atol=1e-4)
    assert not torch.allclose(ablated, clean, atol=1e-4)


def test_rows_of_one_batch_are_ablated_apart(model, tokens):
    sets = [[(0, 1)], [], [(1, 0), (2, 2)]]
    together = ablating.losses(model, tokens.input_ids, sets)
    for row, heads in enumerate(sets):
        alone = icl_bench.token_losses(model, tokens.input_ids[row : row + 1], ablate=heads)
        assert torch.allclose(together[row], alone[0], atol=1e-5)


def test_shared_lower_layers_change_no_loss(model, tokens):
    sets = [[(1, 0)], [(2, 3)], []]
    targets = torch.arange(2, 2 * PERIOD)
    shared = switch_off(model, run_base(model, tokens.input_ids, targets), sets).nll
    for index, heads in enumerate(sets):
        plain = ablating.losses(model, tokens.input_ids, [heads] * SEQUENCES, targets)
        assert torch.allclose(shared[index], plain, atol=1e-5)


def test_mean_ablation_puts_the_mean_output_in_place(model, tokens):
    means = model.mean_outputs(tokens.input_ids, tokens.prefix)
    heads = [(layer, head) for layer, count in model.heads.items() for head in range(count)]
    silent = ablating.losses(model, tokens.input_ids, [heads] * SEQUENCES, values=means)
    zeroed = ablating.losses(model, tokens.input_ids, [heads] * SEQUENCES)
    assert not torch.allclose(silent, zeroed, atol=1e-4)
    # With every output constant, only the token itself and its place are left: a change of an
    # earlier token changes nothing later.
    other = tokens.input_ids.clone()
    other[:, tokens.prefix] = other[:, tokens.prefix + 1]
    changed = ablating.losses(model, other, [heads] * SEQUENCES, values=means)
    assert torch.allclose(
        changed[:, tokens.prefix + 1 :], silent[:, tokens.prefix + 1 :], atol=1e-4
    )


def count_hooks(module):
    """transformers itself leaves hooks behind when it is asked for attentions; we add none."""
    return sum(len(m._forward_pre_hooks) + len(m._forward_hooks) for m in module.modules())


def test_the_module_is_left_as_it_was(model, tokens):
    module = model.model
    before = (module.config._attn_implementation, module.training)
    parameters = {name: p.clone() for name, p in module.named_parameters()}
    generator = torch.get_rng_state()
    hooks = count_hooks(module)
    replaced = [m for m in module.modules() if "forward" in vars(m)]
    module.train()
    icl_bench.head_scores(model, tokens)
    icl_bench.token_losses(model, tokens.input_ids, ablate=[(0, 0)])
    switch_off(model, run_base(model, tokens.input_ids, torch.arange(2, 8)), [[(1, 0)]])
    assert all(m.training for m in module.modules())
    module.eval()
    assert (module.config._attn_implementation, module.training) == before
    assert torch.equal(generator, torch.get_rng_state())
    assert all(torch.equal(p, parameters[name]) for name, p in module.named_parameters())
    assert count_hooks(module) == hooks
    assert [m for m in module.modules() if "forward" in vars(m)] == replaced
    assert all(p.grad is None for p in module.parameters())


def test_scores_do_not_depend_on_the_batch(model, tokens):
    whole = icl_bench.head_scores(model, tokens)
    model.batch_size = 1
    try:
        single = icl_bench.head_scores(model, tokens)
    finally:
        model.batch_size = None
    assert (whole - single).abs().max().max() < 1e-5
