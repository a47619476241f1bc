"""Each of these mistakes must be noticed, not measured."""

from __future__ import annotations

from dataclasses import replace

import families
import pytest
import torch

import icl_bench
from icl_bench.errors import ModelError, UnsupportedModel
from icl_bench.measures.tokens import Pairs, RepeatedTokens, draw_repeated, induction_pairs
from icl_bench.models.attention import attention, paths
from icl_bench.models.attention.ablation import Ablation
from icl_bench.models.attention.forward_hooks import ForwardHooks
from icl_bench.models.attention.kernels import KernelMisfit
from icl_bench.reference.handwired import handwired


@pytest.mark.parametrize("family", families.WINDOWED)
def test_targets_outside_a_sliding_window_score_nothing(family):
    """The window is 8, the period 12: leaving the mask out would give scores far above 1."""
    model = icl_bench.wrap(families.build(family))
    tokens = draw_repeated(model.vocabulary, sequences=2, period=12, bos=model.bos)
    layers = getattr(model.model.config, "layer_types", None) or ["sliding_attention"] * 3
    frame = icl_bench.head_scores(model, tokens)
    for layer, kind in enumerate(layers):
        highest = frame[frame["layer"] == layer]["induction"].max()
        assert (highest == 0) == (kind == "sliding_attention")


def test_a_kernel_without_the_mask_is_refused(monkeypatch):
    """The self-check sees the missing window and takes another path instead."""
    whole = attention.attend

    def forget_mask(call):
        return whole(replace(call, mask=None, causal=True))

    monkeypatch.setattr(attention, "attend", forget_mask)
    model = icl_bench.wrap(families.build("mistral"))
    assert model.attention == "chunked"
    assert "differ" in model.attention_note


def test_a_window_longer_than_the_tiny_batch_is_looked_beyond(monkeypatch):
    """With a window of 40 tokens nothing is wrong on 12 of them."""
    whole = attention.attend

    def forget_mask(call):
        return whole(replace(call, mask=None, causal=True))

    monkeypatch.setattr(attention, "attend", forget_mask)
    model = icl_bench.wrap(families.build("mistral", sliding_window=40))
    assert model.attention == "chunked"
    assert "differ" in model.attention_note


def test_a_mask_left_out_of_the_scores_alone_is_noticed(monkeypatch):
    """Output right, scores without mask: the pairs outside the window exceed 1 and stop the run."""
    model = icl_bench.wrap(families.build("mistral"))
    right = attention.probe_pairs

    def forget_mask(call, lse, pairs, scratch):
        return right(replace(call, query=call.query * 30, mask=None), lse, pairs)

    monkeypatch.setattr(attention, "probe_pairs", forget_mask)
    tokens = draw_repeated(model.vocabulary, sequences=2, period=12, bos=model.bos)
    with pytest.raises(ModelError, match="attention probabilities"):
        icl_bench.head_scores(model, tokens)


def test_an_off_by_one_in_the_pairs_is_caught_by_the_self_check(monkeypatch):
    right = attention.probe_pairs

    def shifted(call, lse, pairs, scratch):
        return right(call, lse, Pairs(pairs.query, (pairs.key - 1).clamp(min=0)))

    monkeypatch.setattr(attention, "probe_pairs", shifted)
    model = icl_bench.wrap(families.build("llama"))
    assert model.attention == "eager"
    assert "differs from eager attention" in model.attention_note


def test_an_ablation_that_does_not_fire_is_refused(monkeypatch):
    monkeypatch.setattr(Ablation, "apply", lambda self, layer, output: output)
    with pytest.raises(UnsupportedModel, match="the ablation does not act"):
        icl_bench.wrap(families.build("llama"))


def test_an_ablation_that_stops_firing_later_is_an_error(monkeypatch):
    from icl_bench.probes.ablations import ablation
    from icl_bench.probes.design.context import Context

    model = icl_bench.wrap(families.build("llama"))
    monkeypatch.setattr(Ablation, "apply", lambda self, layer, output: output)
    settings = ablation.Settings(heads=[[0, 0]], method="zero", sequences=2, period=8, null_sets=0)
    with pytest.raises(ModelError, match="the ablation in layer 0 did not act"):
        ablation.measure(model, settings, Context())


def test_an_ablation_that_leaks_into_other_rows_is_refused(monkeypatch):
    def leak(self, layer, output):
        self.applied.add(layer)
        off = self.off.get(layer)
        return output if off is None else output.masked_fill(off.any(0)[None, None, :, None], 0)

    monkeypatch.setattr(Ablation, "apply", leak)
    with pytest.raises(UnsupportedModel, match="changed another row"):
        icl_bench.wrap(families.build("llama"))


def test_a_model_whose_heads_write_nothing_yet_is_not_refused():
    """Some trainings start from output projections of zeros; step 0 must be measurable."""
    model = families.build("llama")
    with torch.no_grad():
        for layer in model.model.layers:
            layer.self_attn.o_proj.weight.zero_()
    assert icl_bench.wrap(model).attention == "fused"


def test_a_kernel_misfit_falls_back_to_chunks_and_then_to_eager(monkeypatch):
    def refuse(*arguments):
        raise KernelMisfit("no kernel today")

    monkeypatch.setattr(attention, "attend", refuse)
    model = icl_bench.wrap(families.build("llama"))
    assert (model.attention, model.attention_note) == ("chunked", "fused: no kernel today")
    monkeypatch.setattr(attention, "attend_in_chunks", refuse)
    model = icl_bench.wrap(families.build("llama"))
    assert model.attention == "eager"
    assert model.attention_note == "fused, chunked, direct: no kernel today"


def test_a_model_that_no_path_fits_is_refused_with_every_reason(monkeypatch):
    def fail(runner, input_ids, hooks, keep, need_logits):
        raise ModelError("not this way")

    for name, (label, _) in paths.PATHS.items():
        monkeypatch.setitem(paths.PATHS, name, (label, fail))
    reasons = "fused, chunked, direct, eager, hooked: not this way"
    with pytest.raises(UnsupportedModel, match=reasons):
        icl_bench.wrap(families.build("llama"))


def test_a_head_fixed_by_position_scores_high_and_its_control_does_too():
    """A head that always looks back period - 1 places is no induction head."""
    model = icl_bench.wrap(handwired(positional_offset=19))
    tokens = draw_repeated(model.vocabulary, sequences=4, period=20, bos=model.bos)
    frame = icl_bench.head_scores(model, tokens).set_index(["layer", "head"])
    assert frame.loc[(1, 0), "induction"] > 0.99
    from icl_bench.probes.design.context import Context
    from icl_bench.probes.heads import induction

    found = induction.measure(model, induction.Settings(sequences=4, period=20), Context())
    row = next(r for r in found.heads if (r["layer"], r["head"]) == (1, 0))
    assert row["induction_control"] > 0.99
    assert row["induction_excess"] < 0.01
    assert row["induction_varied"] < 0.01
    assert found.metrics["induction_excess_max"].value < 0.2


def test_a_sink_head_does_not_score_by_the_diagonal_that_is_one_too_long():
    """With n + 1 entries the last query of copy 1 would look at the first position."""
    tokens = RepeatedTokens(torch.arange(10).repeat(1, 2), period=10, prefix=0)
    pairs = induction_pairs(tokens)
    assert len(pairs.query) == 10
    assert pairs.query.tolist() == list(range(10, 20))
    assert pairs.key.tolist() == list(range(1, 11))


def test_probabilities_far_outside_their_range_stop_the_run():
    hooks = ForwardHooks(pairs={"x": Pairs(torch.tensor([1]), torch.tensor([0]))})
    with pytest.raises(ModelError, match="reach from 0 to 98"):
        hooks.take_scores(3, "x", torch.tensor([[[0.0, 98.0]]]))
    with pytest.raises(ModelError, match="not finite"):
        hooks.take_scores(3, "x", torch.tensor([[[float("nan")]]]))


def test_weights_that_are_not_numbers_are_refused():
    model = families.build("llama")
    with torch.no_grad():
        model.model.layers[1].self_attn.q_proj.weight[0, 0] = float("nan")
    with pytest.raises(ModelError, match="not finite"):
        icl_bench.wrap(model)


def test_a_head_that_gives_nan_on_long_sequences_only_is_named(monkeypatch):
    """Finite on the few tokens of the self-check, NaN later, in one head of four."""
    model = icl_bench.wrap(families.build("llama"))
    right = attention.attend

    def overflow(call):
        output, lse = right(call)
        if call.query.shape[2] > 30:
            lse[:, 2, 30:] = float("nan")
        return output, lse

    monkeypatch.setattr(attention, "attend", overflow)
    tokens = draw_repeated(model.vocabulary, sequences=2, period=20, bos=model.bos)
    with pytest.raises(ModelError, match="layer 0, head 2 of 4: .* not finite numbers"):
        icl_bench.head_scores(model, tokens)
