"""Every way to switch heads off equals the same edit of attention written out."""

from __future__ import annotations

import families
import pytest
import slow_attention
import torch

import icl_bench
from icl_bench.errors import NotMeasurable, SettingsError
from icl_bench.measures.tokens import draw_plain, draw_repeated, induction_pairs
from icl_bench.models.attention.ablation import Replacement
from icl_bench.models.circuits.interventions import switch_off
from icl_bench.models.clean_run import run_base

EVERY = ("gpt2", "llama", "qwen3", "gemma3", "gpt_neox")
HEADS = [(0, 1), (1, 2), (2, 3)]


@pytest.fixture(scope="module", params=EVERY)
def model(request):
    return icl_bench.wrap(families.build(request.param))


@pytest.fixture(scope="module")
def tokens(model):
    return draw_repeated(model.vocabulary, sequences=3, period=12, seed=3, bos=model.bos)


def cut(layer, output):
    for its_layer, head in HEADS:
        if its_layer == layer:
            output = output.clone()
            output[:, :, head] = 0
    return output


def test_the_written_out_model_is_the_model(model, tokens):
    with slow_attention.written_out(model.model):
        plain = slow_attention.losses(model.model, tokens.input_ids)
    assert torch.allclose(plain, icl_bench.token_losses(model, tokens.input_ids), atol=1e-4)


def test_pattern_preserving_keeps_the_patterns_of_the_clean_run(model, tokens):
    clean = {}

    def keep(layer, pattern):
        clean[layer] = pattern
        return pattern

    with slow_attention.written_out(model.model, edit_pattern=keep):
        slow_attention.losses(model.model, tokens.input_ids)
    with slow_attention.written_out(
        model.model, edit_pattern=lambda layer, _: clean[layer], edit_output=cut
    ):
        expected = slow_attention.losses(model.model, tokens.input_ids)
    ids = tokens.input_ids
    found = icl_bench.token_losses(model, ids, HEADS, "pattern_preserving")
    same = icl_bench.token_losses(model, ids, HEADS, "zero", patterns="frozen")
    free = icl_bench.token_losses(model, ids, HEADS, "zero")
    assert torch.allclose(found, expected, atol=1e-4)
    assert torch.equal(found, same)
    assert not torch.allclose(found, free, atol=1e-3)


def test_resampling_puts_the_output_on_other_tokens_in_place(model, tokens):
    ids, other = tokens.input_ids, {}
    plain = draw_plain(
        model.vocabulary,
        sequences=len(ids),
        length=ids.shape[1] - (model.bos is not None),
        seed=5,
        bos=model.bos,
    )

    def keep(layer, output):
        other[layer] = output.clone()
        return output

    def put(layer, output):
        output = output.clone()
        for its_layer, head in HEADS:
            if its_layer == layer:
                output[:, :, head] = other[layer][:, :, head]
        return output

    with slow_attention.written_out(model.model, edit_output=keep):
        slow_attention.losses(model.model, plain)
    with slow_attention.written_out(model.model, edit_output=put):
        expected = slow_attention.losses(model.model, ids)
    found = icl_bench.token_losses(model, ids, HEADS, "resample", seed=5)
    assert torch.allclose(found, expected, atol=1e-4)


def test_an_edge_knockout_removes_these_edges_alone(model, tokens):
    pairs = induction_pairs(tokens)

    def remove(layer, scores):
        scores = scores.clone()
        for its_layer, head in HEADS:
            if its_layer == layer:
                scores[:, head, pairs.query, pairs.key] = float("-inf")
        return scores

    with slow_attention.written_out(model.model, edit_scores=remove):
        expected = slow_attention.losses(model.model, tokens.input_ids)
    edges = torch.stack([pairs.query, pairs.key], 1).tolist()
    found = icl_bench.token_losses(model, tokens.input_ids, HEADS, "edge_knockout", edges=edges)
    assert torch.allclose(found, expected, atol=1e-4)
    assert not torch.allclose(found, icl_bench.token_losses(model, tokens.input_ids), atol=1e-3)


def test_keeping_a_set_switches_all_others_off(model, tokens):
    every = [(layer, head) for layer in range(3) for head in range(4)]
    others = [head for head in every if head not in HEADS]
    kept = icl_bench.token_losses(model, tokens.input_ids, keep=HEADS)
    assert torch.equal(kept, icl_bench.token_losses(model, tokens.input_ids, others))
    nothing_off = icl_bench.token_losses(model, tokens.input_ids, keep=every)
    assert torch.equal(nothing_off, icl_bench.token_losses(model, tokens.input_ids))


@pytest.mark.parametrize("method", ["zero", "mean", "resample", "pattern_preserving"])
def test_many_sets_at_once_equal_each_alone(model, tokens, method):
    """Prefix reuse, shared batches and sorting by layer change nothing."""
    sets = [[(2, 3)], [], [(0, 1), (2, 0)], [(1, 2)], [(2, 1)]]
    ids = tokens.input_ids
    run = run_base(model, ids, torch.arange(1, ids.shape[1]))
    values = None
    if method == "mean":
        values = model.mean_outputs(ids, tokens.prefix)
    elif method == "resample":
        values = model.head_outputs(ids.flip(0), [0, 1, 2])
    how = Replacement(values, frozen=method == "pattern_preserving")
    together = switch_off(model, run, sets, how).nll
    model.batch_size = 2
    try:
        by_twos = switch_off(model, run, sets, how).nll
    finally:
        model.batch_size = None
    model.resumes = dict.fromkeys(range(3), False)
    try:
        alone = torch.stack([switch_off(model, run, [one], how).nll[0] for one in sets])
    finally:
        model.resumes = {}
    assert torch.allclose(together, alone, atol=1e-5)
    assert torch.allclose(by_twos, alone, atol=1e-5)


def test_every_head_off_is_a_defined_result(model, tokens):
    found = icl_bench.token_losses(model, tokens.input_ids, keep=[])
    assert torch.isfinite(found).all()
    # Nothing moves between positions any more: only the token itself decides.
    other = tokens.input_ids.clone()
    other[:, tokens.prefix] = other[:, tokens.prefix + 1]
    after = tokens.prefix + 1
    assert torch.allclose(
        icl_bench.token_losses(model, other, keep=[])[:, after:], found[:, after:], atol=1e-4
    )


def test_freezing_that_does_not_fire_is_an_error(model, tokens, monkeypatch):
    from icl_bench.errors import ModelError
    from icl_bench.models.attention.forward_hooks import ForwardHooks

    monkeypatch.setattr(ForwardHooks, "freeze", lambda self, layer, query, key: (query, key))
    with pytest.raises(ModelError, match="did not act"):
        icl_bench.token_losses(model, tokens.input_ids, HEADS, "pattern_preserving")


def test_families_that_keep_queries_to_themselves_say_so():
    model = icl_bench.wrap(families.build("bloom"))
    ids = draw_repeated(model.vocabulary, sequences=1, period=6, bos=model.bos).input_ids
    with pytest.raises(NotMeasurable, match="patterns cannot be frozen"):
        icl_bench.token_losses(model, ids, [(0, 0)], "pattern_preserving")
    with pytest.raises(NotMeasurable, match="edges cannot be removed"):
        icl_bench.token_losses(model, ids, [(0, 0)], "edge_knockout", edges=[(3, 1)])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"method": "edge_knockout"}, "needs edges"),
        ({"method": "edge_knockout", "edges": [(1, 3)]}, "earlier key"),
        ({"method": "edge_knockout", "edges": [(99, 3)]}, "earlier key"),
        ({"method": "edge_knockout", "edges": [(3, 1)], "patterns": "frozen"}, "frozen"),
        ({"method": "zeros"}, "did you mean 'zero'"),
        ({"patterns": "fixed"}, "unknown patterns"),
        ({"keep": [(0, 0)]}, "either 'ablate' or 'keep'"),
    ],
)
def test_what_cannot_be_asked_is_refused_in_one_sentence(options, message):
    model = icl_bench.wrap(families.build("llama"))
    ids = draw_repeated(model.vocabulary, sequences=1, period=6, bos=model.bos).input_ids
    with pytest.raises(SettingsError, match=message):
        icl_bench.token_losses(model, ids, [(0, 0)], **options)


def test_heads_are_two_whole_numbers():
    model = icl_bench.wrap(families.build("llama"))
    ids = draw_repeated(model.vocabulary, sequences=1, period=6, bos=model.bos).input_ids
    for wrong in ([(0, -1)], [(9, 0)], [(0, 4)]):
        with pytest.raises(SettingsError, match="has no head"):
            icl_bench.token_losses(model, ids, wrong)
    with pytest.raises(SettingsError, match=r"given as \(layer, head\)"):
        icl_bench.token_losses(model, ids, [3])
