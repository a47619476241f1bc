"""The published numbers of SmolLM2-135M: 30 layers x 9 heads, real weights."""

from __future__ import annotations

import pytest
import torch

import icl_bench
from icl_bench.integrations import Reaches, TrainingGate
from icl_bench.measures.copying import repeated_targets
from icl_bench.measures.tokens import draw_plain, draw_repeated
from icl_bench.models.attention.ablation import Replacement
from icl_bench.models.circuits.interventions import switch_off
from icl_bench.models.circuits.ovcircuit import ov_eigenvalues
from icl_bench.models.clean_run import run_base
from icl_bench.probes.design.context import Context
from icl_bench.probes.heads import attention_attribution, composition, logit_attribution

EIGHT = {(17, 3), (17, 4), (17, 5), (18, 6), (18, 7), (20, 6), (23, 2), (23, 7)}


@pytest.fixture(scope="module")
def model(smollm2):
    return smollm2


@pytest.fixture(scope="module")
def tokens(model):
    return icl_bench.repeated_tokens(model, sequences=8, period=50)


@pytest.fixture(scope="module")
def scores(model, tokens):
    return icl_bench.head_scores(model, tokens).set_index(["layer", "head"])


def test_the_model_is_read_through_the_fused_kernel(model):
    assert (model.attention, model.layers, model.parameters) == ("fused", 30, 134_515_008)
    assert set(model.heads.values()) == {9} and model.bos == 1
    assert len(model.vocabulary) == 49_135


@pytest.mark.long
def test_it_is_measured_in_training_as_it_is_without(model, tmp_path):
    suite = tmp_path / "tiny.yaml"
    suite.write_text(
        "icl_suite: 1\nname: tiny\ndefaults: {sequences: 16, period: 16}\n"
        "measure: {repeats: {probe: induction, control: false}}\n"
        "checks: [{id: some, on: repeats, metric: induction_max, above: 0.4}]\n"
    )
    expected = icl_bench.run([suite], model, cache=False)
    gates = [Reaches("induction_max", above=0.4, by_step=1)]
    try:
        found = TrainingGate(model.model.train(), [suite], gates, tokenizer=model.tokenizer).check(
            1
        )
        assert all(module.training for module in model.model.modules())
    finally:
        model.model.eval()
    metrics = found.record.measurements["tiny/repeats"].metrics
    assert metrics == expected.measurements["tiny/repeats"].metrics
    assert found.record.gates[0].verdict == "pass"
    assert found.record.model.fingerprint == expected.model.fingerprint


def test_eight_heads_are_above_the_bound_and_18_6_is_first(scores):
    assert set(scores.index[scores["induction"] > 0.4]) == EIGHT
    assert scores["induction"].idxmax() == (18, 6)
    assert scores.loc[(18, 6), "induction"] == pytest.approx(0.90, abs=0.03)
    assert scores.loc[(17, 3), "induction"] == pytest.approx(0.79, abs=0.05)
    assert scores["previous_token"].idxmax() == (16, 0)
    assert scores.loc[(16, 0), "previous_token"] == pytest.approx(0.88, abs=0.02)
    assert scores.loc[(11, 1), "previous_token"] == pytest.approx(0.87, abs=0.03)


def test_scores_equal_eager_attention(model, scores, tokens):
    module, n = model.model, tokens.period
    ids = tokens.input_ids[:2]
    before = module.config._attn_implementation
    module.config._attn_implementation = "eager"
    with torch.no_grad():
        attentions = module(ids, output_attentions=True, use_cache=False).attentions
    module.config._attn_implementation = before
    two = icl_bench.RepeatedTokens(ids, n, 2, 1)
    ours = icl_bench.head_scores(model, two).set_index(["layer", "head"])
    for (layer, head), row in ours.iterrows():
        matrix = attentions[layer][:, head]
        induction = torch.stack([matrix[:, 1 + i, 2 + i - n] for i in range(n, 2 * n)]).mean()
        previous = torch.stack([matrix[:, 1 + i, i] for i in range(1, 2 * n)]).mean()
        assert row["induction"] == pytest.approx(float(induction), abs=1e-5)
        assert row["previous_token"] == pytest.approx(float(previous), abs=1e-5)


def test_switching_the_eight_off_breaks_copying_and_nothing_else(model):
    tokens = draw_repeated(
        model.vocabulary, sequences=8, period=50, seed=0, bos=model.bos, stream="test"
    )
    targets = torch.cat([torch.arange(2, 51), repeated_targets(tokens)])

    means = model.mean_outputs(
        draw_plain(model.vocabulary, sequences=8, length=100, bos=model.bos), 1
    )

    def parts(nll):
        return float(nll[:, :49].mean()), float(nll[:, 49:].mean())

    run = run_base(model, tokens.input_ids, targets)
    clean = parts(run.losses.nll)
    zero = parts(switch_off(model, run, [sorted(EIGHT)]).nll[0])
    mean = parts(switch_off(model, run, [sorted(EIGHT)], Replacement(means)).nll[0])
    assert clean[0] == pytest.approx(13.95, abs=0.5) and clean[1] == pytest.approx(2.66, abs=0.5)
    assert zero[1] / clean[1] == pytest.approx(4.7, abs=0.7)
    assert mean[1] / clean[1] == pytest.approx(4.4, abs=0.7)
    assert abs(zero[0] - clean[0]) < 0.5 and abs(mean[0] - clean[0]) < 0.5


@pytest.mark.long
def test_the_previous_token_head_feeds_the_others(model, tokens):
    """Taking 16.0 out does more than any single head above the bound would."""
    ids = tokens.input_ids[:4]
    clean = icl_bench.token_losses(model, ids)[:, 51:].mean()
    without = icl_bench.token_losses(model, ids, ablate=[(16, 0)])[:, 51:].mean()
    strongest = icl_bench.token_losses(model, ids, ablate=[(18, 6)])[:, 51:].mean()
    assert without - clean > 4
    assert without - clean > 2 * (strongest - clean)


@pytest.fixture(scope="module")
def few(tokens):
    return icl_bench.RepeatedTokens(tokens.input_ids[:4], tokens.period, 2, 1)


def test_induction_heads_get_their_keys_from_the_previous_token_head(model, few):
    """Path patching, key side: without 16.0 the heads in layers 17 and 18 find nothing."""
    heads = [(17, 3), (17, 4), (17, 5), (18, 6)]
    senders = [(16, 0), (2, 2), (14, 3)]
    frame = icl_bench.path_patching(model, few, heads, senders)
    frame = frame.set_index(["layer", "head", "sender_layer", "sender_head"])
    for head, clean in zip(heads, (0.75, 0.76, 0.65, 0.88)):
        row = frame.loc[(*head, 16, 0)]
        assert row["clean"] == pytest.approx(clean, abs=0.04)
        assert row["patched"] < 0.005
    assert frame.loc[(17, 3, 2, 2), "drop"] == pytest.approx(0.16, abs=0.04)


def test_one_induction_head_draws_its_query_from_another(model, few):
    """23.2 is no textbook circuit: 18.6 is in its query, and in that of no earlier head."""
    senders = [(16, 0), (16, 2), (18, 6), (18, 7), (8, 0)]
    frame = icl_bench.path_patching(model, few, [(17, 3), (18, 6), (23, 2)], senders, "query")
    frame = frame.set_index(["layer", "head", "sender_layer", "sender_head"])
    assert frame.loc[(23, 2, 18, 6), "drop"] == pytest.approx(0.26, abs=0.03)
    assert frame.loc[(23, 2)]["drop"].idxmax() == (18, 6)
    assert frame.drop(index=23, level="layer")["drop"].max() < 0.2


def test_attending_is_not_copying(model, few, scores):
    """17.3 to 17.5 attend to the right token and write almost nothing; 29.1 writes most."""
    frame = icl_bench.logit_attribution(model, few).set_index(["layer", "head"])["logit"]
    assert frame.idxmax() == (29, 1) and frame.max() == pytest.approx(2.2, abs=0.3)
    for head in [(17, 3), (17, 4), (17, 5)]:
        assert scores.loc[head, "induction"] > 0.6
        assert abs(frame[head]) < 0.05


def test_the_probes_find_the_circuit_of_layers_16_to_18(model):
    """16.0 feeds the keys, and what the receivers write does not need it."""
    settings = composition.Settings(
        heads=[[17, 3], [17, 4], [17, 5], [18, 6]],
        senders=[[16, 0], [2, 2], [14, 3]],
        sides=["key"],
        sequences=4,
    )
    found = composition.measure(model, settings, Context()).metrics
    assert found["key_drop"].value == pytest.approx(0.998, abs=0.003)
    assert found["key_drop_previous_token"].value == found["key_drop"].value
    assert found["key_collapsed"].value == 4
    assert found["key_sender_previous_token"].value == pytest.approx(0.89, abs=0.02)


def test_what_makes_17_3_attend_was_written_by_16_0(model):
    """On the query side it is no raw embedding, but what MLPs made of it; 23.2 differs."""
    settings = attention_attribution.Settings(heads=[[17, 3], [23, 2]], sequences=2)
    tables = attention_attribution.measure(model, settings, Context()).tables
    first = tables["attention_attribution"][0]
    assert (first["layer"], first["key"], first["query"]) == (17, "16.0", "mlp 0")
    sides = {
        (row["layer"], row["side"], row["component"]): row["value"]
        for row in tables["attention_sides"]
    }

    def largest(layer, side):
        return max((k for k in sides if k[:2] == (layer, side)), key=sides.__getitem__)[2]

    def whole(layer, side):
        return sum(value for key, value in sides.items() if key[:2] == (layer, side))

    assert largest(17, "key") == "16.0" and largest(17, "query") == "mlp 0"
    assert sides[17, "key", "16.0"] / whole(17, "key") == pytest.approx(0.95, abs=0.07)
    assert abs(sides[17, "query", "embedding"]) < 0.05 * whole(17, "query")
    assert largest(23, "query") == "18.6"
    assert sides[23, "key", "16.0"] < 0.3 * whole(23, "key")


def test_three_of_the_eight_heads_are_silent(model):
    settings = logit_attribution.Settings(heads=sorted(map(list, EIGHT)), sequences=4)
    result = logit_attribution.measure(model, settings, Context())
    assert result.metrics["selected_silent"].value == 3
    assert 0.15 < result.metrics["selected_share"].value < 0.45
    best = max(result.heads, key=lambda row: row["logit"])
    assert (best["layer"], best["head"]) == (29, 1)


def test_the_ov_circuit_of_23_2_copies_by_token_states_and_not_by_embeddings(model, monkeypatch):
    """On a sixteenth of the vocabulary; all of it gives .975 and -.18."""
    monkeypatch.setattr(model, "vocabulary", model.vocabulary[::16])
    assert float(ov_eigenvalues(model, "token", [23])[23][2]) > 0.95
    assert float(ov_eigenvalues(model, "embedding", [23])[23][2]) < 0


def test_weights_of_layer_17_read_the_previous_token_head_by_key(model):
    heads = [(17, 3), (17, 4), (17, 5)]
    senders = [(layer, head) for layer in (13, 14, 15, 16) for head in range(9)]
    frame = icl_bench.weight_composition(model, heads, senders, side="key")
    for _, own in frame.groupby("head"):
        best = own.loc[own["excess"].idxmax()]
        assert (best["sender_layer"], best["sender_head"]) == (16, 0)
        assert 0.1 < best["excess"] < 0.14
