"""An adaptive sweep finds the same largest heads from fewer tokens."""

from __future__ import annotations

import families
import pytest
import torch
import transformers as tf

import icl_bench
from icl_bench.probes.ablations import sweep
from icl_bench.probes.design.context import Context

TOP = 5


@pytest.fixture(scope="module")
def model():
    """96 heads of random weights, of which a few write much more than the others."""
    torch.manual_seed(0)
    config = tf.LlamaConfig(**{**families._COMMON, "num_attention_heads": 16}, head_dim=8)
    config.num_hidden_layers = 6
    module = tf.AutoModelForCausalLM.from_config(config).eval()
    with torch.no_grad():
        for parameter in module.parameters():
            if parameter.ndim == 2:
                parameter.normal_(0, 0.12)
        for layer in module.model.layers:
            sizes = torch.full((16,), 0.1)
            sizes[torch.randperm(16)[:2]] = torch.tensor([2.0, 1.0])
            layer.self_attn.o_proj.weight *= sizes.repeat_interleave(8)
    return icl_bench.wrap(module)


@pytest.fixture(scope="module")
def tokens(model):
    return icl_bench.repeated_tokens(model, sequences=4, period=30, seed=2)


@pytest.fixture(scope="module")
def exact(model, tokens):
    return icl_bench.ablation_sweep(model, tokens)


@pytest.fixture(scope="module")
def adaptive(model, tokens):
    return icl_bench.ablation_sweep(model, tokens, exact=False, top=TOP)


def test_the_largest_heads_are_found_with_their_exact_effects(exact, adaptive):
    largest = exact.nlargest(TOP, "delta").index
    full = adaptive["sequences"] == 4
    assert full[largest].all()
    assert (adaptive["delta"] - exact["delta"])[full].abs().max() < 1e-5
    assert set(adaptive[full].nlargest(TOP, "delta").index) == set(largest)


def test_many_heads_are_not_measured_in_full(exact, adaptive):
    assert set(adaptive["sequences"]) == {0, 2, 4}
    spared = adaptive[adaptive["sequences"] < 4]
    assert len(spared) > 30
    assert (spared["delta_low"] < spared["delta"]).all()
    assert (spared["delta"] < spared["delta_high"]).all()
    screened = adaptive["sequences"] == 0
    assert adaptive["delta_stderr"][screened].isna().all()
    assert adaptive["delta_stderr"][~screened].notna().all()


def test_half_the_sequences_give_the_effect_on_them(model, tokens, adaptive):
    half = icl_bench.RepeatedTokens(tokens.input_ids[:2], tokens.period, 2, tokens.prefix)
    exact = icl_bench.ablation_sweep(model, half)
    on_half = adaptive["sequences"] == 2
    for column in ("delta", "delta_stderr"):
        assert (adaptive[column] - exact[column])[on_half].abs().max() < 1e-5


def test_the_bounds_hold_the_exact_effects(exact, adaptive):
    inside = (adaptive["delta_low"] - 1e-5 <= exact["delta"]) & (
        exact["delta"] <= adaptive["delta_high"] + 1e-5
    )
    assert inside.mean() > 0.9


def test_it_measures_fewer_rows(model):
    settings = sweep.Settings(sequences=4, period=30, exact=False, top=TOP)
    result = sweep.measure(model, settings, Context())
    assert result.metrics["rows"].value < 0.7
    assert result.metrics["rows"].exact
    assert "few tokens" in result.unmeasured["heads_above"]


@pytest.mark.parametrize("options", [{"top": 96}, {"top": 3, "period": 12}])
def test_where_nothing_can_be_saved_everything_is_measured(model, options):
    tokens = icl_bench.repeated_tokens(model, sequences=2, period=options.pop("period", 30))
    frame = icl_bench.ablation_sweep(model, tokens, exact=False, **options)
    assert set(frame["sequences"]) == {2}


def test_stand_ins_of_whole_sequences_serve_the_short_ones(model, tokens):
    frame = icl_bench.ablation_sweep(model, tokens, "resample", exact=False, top=TOP)
    whole = icl_bench.ablation_sweep(model, tokens, "resample")
    full = frame["sequences"] == 4
    assert (frame["delta"] - whole["delta"])[full].abs().max() < 1e-5


def test_the_rows_done_add_up(model, tokens):
    done = []
    icl_bench.ablation_sweep(model, tokens, exact=False, top=TOP, advance=done.append)
    assert sum(done) == 96 * 4
