"""Attention to sink logits is what is missing from a row of the attention matrix to one."""

from __future__ import annotations

import circuit_families
import families
import numpy as np
import pytest
import torch

import icl_bench
from icl_bench.measures.tokens import draw_repeated
from icl_bench.models.attention.forward_hooks import SINK_LOGIT
from icl_bench.probes.design.context import Context
from icl_bench.probes.heads import induction


@pytest.fixture(scope="module")
def model():
    module = circuit_families.build("gpt_oss")
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            if name.endswith("sinks"):
                parameter.normal_(1, 2)
    return icl_bench.wrap(module)


@pytest.fixture(scope="module")
def tokens(model):
    return draw_repeated(model.vocabulary, sequences=3, period=6, seed=3, bos=model.bos)


def test_it_is_one_minus_the_sum_of_each_row(model, tokens):
    frame = icl_bench.head_scores(model, tokens)
    before = model.model.config._attn_implementation
    model.model.config._attn_implementation = "eager"
    with torch.no_grad():
        attentions = model.model(tokens.input_ids, output_attentions=True).attentions
    model.model.config._attn_implementation = before
    seen = []
    for row in frame.itertuples():
        sums = attentions[row.layer][:, row.head, 1:].sum(-1)
        assert row.sink_logit == pytest.approx(1 - float(sums.mean()), abs=1e-5)
        assert row.sink_logit_stderr == pytest.approx(
            float((1 - sums.mean(1)).std(correction=1)) / np.sqrt(3), abs=1e-5
        )
        seen.append(row.sink_logit)
    assert max(seen) > 0.2 and min(seen) < 0.05  # heads differ, so the order of heads is tested


def test_layers_without_sinks_give_nothing_to_them(model, tokens):
    attention = model.model.model.layers[0].self_attn
    sinks, attention.sinks = attention.sinks, None
    query = torch.arange(1, tokens.input_ids.shape[1])
    try:
        found = model.head_scores(tokens.input_ids, {}, sink_queries=query)
    finally:
        attention.sinks = sinks
    assert found[SINK_LOGIT][0].abs().max() == 0 and found[SINK_LOGIT][1].min() > 0


def test_the_probe_reports_it_beside_the_first_token(model):
    settings = induction.Settings(sequences=3, period=6)
    rows = induction.measure(model, settings, Context()).heads
    assert all(0 < row["sink_logit"] < 1 and "first_token" in row for row in rows)


def test_other_families_have_no_such_column():
    llama = icl_bench.wrap(families.build("llama"))
    repeated = icl_bench.repeated_tokens(llama, sequences=2, period=6)
    assert "sink_logit" not in icl_bench.head_scores(llama, repeated)
