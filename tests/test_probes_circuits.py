"""Circuits as probes: known answers on the hand-wired model, none on models that lack them."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from circuit_probes import ABOVE, BEST, PERIOD, RECEIVER, held_out, run, scores, value

import icl_bench
from icl_bench.errors import MeasurementError, NotMeasurable, SuiteError
from icl_bench.probes.ablations import ablation
from icl_bench.probes.design.context import Context
from icl_bench.probes.heads import (
    attention_attribution,
    composition,
    logit_attribution,
    offset_profile,
)
from icl_bench.reference.handwired import GAIN, SHARPNESS, handwired, token_codes
from icl_bench.reference.words import WORDS


@pytest.fixture(scope="module")
def model():
    return icl_bench.load_model("builtin:handwired")


@pytest.fixture(scope="module")
def blind():
    """The twin without a previous-token head."""
    return icl_bench.wrap(handwired(previous_token=False))


@pytest.fixture(scope="module")
def positional():
    """The twin whose head 1.0 finds the target by its distance alone."""
    return icl_bench.wrap(handwired(positional_offset=PERIOD - 1))


@pytest.fixture(scope="module")
def trained():
    return icl_bench.load_model("builtin:induction-2l")


@pytest.fixture(scope="module")
def control():
    return icl_bench.load_model("builtin:control-1l")


# logit attribution


def test_the_hand_wired_head_writes_all_of_the_logit(model):
    found = run(logit_attribution, model, heads=RECEIVER)
    codes = token_codes().double()
    expected = []
    for ids in held_out(model):
        for at in range(PERIOD + 1, 2 * PERIOD):  # BOS in front: the positions that predict
            current, right = codes[ids[at]], codes[ids[at + 1]]
            expected.append(float(GAIN * (right - codes.mean(0)) @ (right - current)))
    assert len(WORDS) == len(codes)
    for name in ("logit", "heads_logit", "logit_max", "selected_logit", "selected_max"):
        assert value(found, name) == pytest.approx(np.mean(expected), rel=1e-4)
    assert value(found, "selected_share") == pytest.approx(1)
    assert (value(found, "selected"), value(found, "selected_silent")) == (1, 0)
    assert value(found, "mlps_logit") == 0
    assert len(found.heads) == 48
    written = {(row["layer"], row["head"]): row["logit"] for row in found.heads}
    assert max(abs(v) for head, v in written.items() if head != (1, 0)) < 1e-6


def test_heads_that_write_nothing_are_silent(model):
    found = run(logit_attribution, model, heads=[[0, 3], [1, 0], [1, 7]])
    assert value(found, "selected_silent") == 2
    assert value(found, "selected_silent_share") == pytest.approx(2 / 3)


def test_without_the_circuit_no_logit_is_written(blind, control):
    found = run(logit_attribution, blind, heads=RECEIVER)
    assert value(found, "selected_logit") == pytest.approx(0, abs=1e-3)
    assert value(found, "selected_silent") == 1
    assert "not surely above 0" in found.unmeasured["selected_share"]
    none = run(logit_attribution, control, scores(control), heads=ABOVE)
    assert none.reason == "no head has induction above 0.4"
    assert value(none, "selected_logit") == 0 and "selected_share" in none.unmeasured
    assert value(none, "logit_max") < 1


def test_the_trained_heads_write_the_token(trained):
    found = run(logit_attribution, trained, scores(trained), heads=ABOVE)
    assert value(found, "selected_share") > 0.5
    assert value(found, "selected_silent") == 0
    tokens = icl_bench.RepeatedTokens(held_out(trained), PERIOD, 2, 1)
    frame = icl_bench.logit_attribution(trained, tokens)
    for row, (_, expected) in zip(found.heads, frame.iterrows()):
        assert row["logit"] == pytest.approx(expected["logit"])
        assert row["logit_stderr"] == pytest.approx(expected["logit_stderr"])
    both = frame[(frame["layer"] == 1) & frame["head"].isin([0, 4])]["logit"].sum()
    assert value(found, "selected_logit") == pytest.approx(both)
    assert value(found, "selected_share") == pytest.approx(both / frame["logit"].sum())


# offset profile


@pytest.mark.parametrize("shift", [1, 2, 4])
def test_the_peak_lies_where_the_previous_token_head_looks(shift):
    shifted = icl_bench.load_model(f"builtin:handwired-shift-{shift}")
    found = run(offset_profile, shifted, sequences=16)
    peak = found.metrics["offset_peak"]
    assert (peak.value, peak.ci_low, peak.ci_high) == (shift, shift, shift)
    assert value(found, "peak_height") > 0.99 and value(found, "peak_margin") > 0.9
    assert (value(found, "height_at_one") > 0.99) == (shift == 1)
    assert found.tables["profile_heads"] == [{"layer": 1, "head": 0}]


def test_the_profile_equals_sums_over_attention_matrices(trained):
    found = run(offset_profile, trained, heads=[[1, 4]], offsets=[3, -2, 0, 1])
    assert found.settings["offsets"] == [-2, 0, 1, 3]
    ids = held_out(trained)
    trained.model.config._attn_implementation = "eager"
    with torch.no_grad():
        matrix = trained.model(ids, output_attentions=True).attentions[1][:, 4]
    rows = {
        r["offset"]: r for r in found.tables["offset_profile"] if (r["layer"], r["head"]) == (1, 4)
    }
    for offset, row in rows.items():
        each = []
        for attention in matrix:
            terms = [
                float(attention[1 + i, 1 + i - PERIOD + offset])
                for i in range(PERIOD, 2 * PERIOD)
                if i - PERIOD + offset >= 0
            ]
            each.append(sum(terms) / len(terms))
        assert row["attention"] == pytest.approx(np.mean(each), abs=1e-5)
        assert row["attention_stderr"] == pytest.approx(np.std(each, ddof=1) / 2, abs=1e-5)
    assert value(found, "height_at_one") == pytest.approx(rows[1]["attention"])
    assert value(found, "offset_peak") == 1
    assert value(found, "peak_margin") == pytest.approx(
        rows[1]["attention"] - max(rows[k]["attention"] for k in (-2, 0, 3))
    )


def test_the_control_has_no_peak(control, trained):
    assert value(run(offset_profile, control), "peak_height") < 0.2
    assert value(run(offset_profile, trained), "peak_height") > 0.5
    none = run(offset_profile, control, scores(control), heads=ABOVE)
    assert none.reason == "no head has induction above 0.4" and not none.metrics
    assert len(none.tables["offset_profile"]) == 12 * 9


def test_the_peak_has_a_range_where_offsets_tie():
    draws = np.random.default_rng(0)
    profile = draws.normal(0.1, 0.05, (32, 5))
    profile[:, [1, 3]] += 0.4
    peak = offset_profile.locate_peak(profile, [-1, 0, 1, 2, 3])
    assert (peak.ci_low, peak.ci_high) == (0, 2) and peak.value in (0, 2)
    profile[:, 3] += 0.4
    peak = offset_profile.locate_peak(profile, [-1, 0, 1, 2, 3])
    assert (peak.value, peak.ci_low, peak.ci_high) == (2, 2, 2)
    alone = offset_profile.locate_peak(profile[:1], [-1, 0, 1, 2, 3])
    assert alone.value == 2 and alone.ci_low is None


def test_offsets_have_to_fit_the_block(model):
    with pytest.raises(MeasurementError, match="offset 20 lies outside a block of 20 tokens"):
        run(offset_profile, model, offsets=[1, 20])
    with pytest.raises(ValueError, match="listed twice"):
        offset_profile.Settings(offsets=[1, 1])


# attention attribution


def test_the_hand_wired_match_is_token_against_previous_token(model):
    """Query side: embedding. Key side: head 0.0, and a little of the embedding's own token."""
    found = run(attention_attribution, model, heads=RECEIVER)
    codes = token_codes().double()
    previous, embedding = [], []
    for ids in held_out(model):
        for at in range(PERIOD + 1, 2 * PERIOD + 1):
            own = codes[ids[at]]
            target = at - PERIOD + 1
            match = [float(own @ codes[ids[max(j - 1, 0)]]) for j in range(at + 1)]
            other = [-float(own @ codes[ids[j]]) for j in range(at + 1)]
            other[0] += 0.59  # the sink
            for kept, logits in ((previous, match), (embedding, other)):
                rest = [logit for j, logit in enumerate(logits) if j != target]
                kept.append(SHARPNESS * (logits[target] - sum(rest) / len(rest)))
    total = np.mean(previous) + np.mean(embedding)
    assert value(found, "logit_difference") == pytest.approx(total, rel=1e-4)
    assert value(found, "key_head_previous_token") > 0.999
    by_match = ("key_previous_token", "previous_token_embedding", "previous_token_match")
    for name in (*by_match, "key_heads", "key_head_max"):
        assert value(found, name) == pytest.approx(np.mean(previous) / total, rel=1e-4)
    assert value(found, "key_embedding") == pytest.approx(np.mean(embedding) / total, abs=1e-4)
    assert value(found, "query_embedding") == value(found, "query_token_state")
    assert value(found, "query_embedding") == pytest.approx(1)
    for name in ("key_mlps", "key_bias", "query_heads", "query_mlps", "query_bias", "mask_share"):
        assert value(found, name) == pytest.approx(0, abs=1e-6)
    first, *_, rest = found.tables["attention_attribution"]
    assert (first["key"], first["query"]) == ("0.0", "embedding")
    assert (rest["key"], rest["query"]) == ("rest", "rest")
    assert len(found.tables["attention_attribution"]) == 21
    assert len(found.tables["attention_sides"]) == 2 * 26 + 1


def test_without_a_previous_token_head_it_has_no_share(blind, positional):
    # Its own copy of a token does not match; on enough sequences that is a small difference.
    found = run(attention_attribution, blind, heads=RECEIVER, sequences=16)
    assert 0 < value(found, "logit_difference") < 12
    assert value(found, "key_previous_token") == pytest.approx(0, abs=1e-6)
    assert value(found, "key_embedding") == pytest.approx(1)
    found = run(attention_attribution, positional, heads=RECEIVER)
    assert value(found, "key_previous_token") == pytest.approx(0, abs=1e-6)
    assert value(found, "logit_difference") > 50


def test_the_trained_match_is_mostly_token_against_previous_token(trained, control):
    found = run(attention_attribution, trained, scores(trained), heads=ABOVE)
    assert value(found, "key_previous_token") > 0.5
    assert value(found, "key_previous_token") == pytest.approx(value(found, "key_head_max"))
    assert value(found, "query_embedding") > 0.5
    sides = {
        side: sum(value(found, f"{side}_{kind}") for kind in ("heads", "embedding", "mlps", "bias"))
        for side in ("key", "query")
    }
    assert sides["key"] == pytest.approx(1, abs=1e-3)
    assert sides["query"] == pytest.approx(1, abs=1e-3)
    best = run(attention_attribution, control, scores(control), heads=BEST)
    assert value(best, "logit_difference") < 0.2 * value(found, "logit_difference")
    assert (value(best, "key_heads"), value(best, "query_heads")) == (0, 0)
    assert best.unmeasured["key_previous_token"] == "no head lies below the chosen ones"
    assert set(best.metrics).isdisjoint(best.unmeasured)
    none = run(attention_attribution, control, scores(control), heads=ABOVE)
    assert none.reason == "no head has induction above 0.4" and value(none, "receivers") == 0


# edge knockout, and all of them in a suite

SUITE = """\
icl_suite: 1
name: circuits
defaults: {sequences: 16, period: 20}
measure:
  repeats: {probe: induction, control: false}
  edges:
    probe: ablation
    method: edge_knockout
    null_draws: 99
    heads: {from: repeats, where: {induction: {above: 0.4}}}
  paths: {probe: composition, heads: {from: repeats, where: {induction: {above: 0.4}}}}
  match: {probe: attention_attribution, heads: {from: repeats, top: 1}}
  writing: {probe: logit_attribution, heads: {from: repeats, top: 1}}
  profile: {probe: offset_profile}
checks:
  - {id: the-edge-carries-copying, on: edges, metric: copying_lost, above: 0.9}
  - {id: beyond-other-edges, on: edges, metric: null_p_value, below: 0.05}
  - {id: keys-from-the-previous-token-head, on: paths, metric: key_drop_previous_token, above: 0.5}
  - {id: collapse, on: paths, metric: key_collapsed, at_least: 1}
  - {id: match-of-tokens, on: match, metric: previous_token_embedding, above: 0.5}
  - {id: writes, on: writing, metric: selected_share, above: 0.5}
  - {id: one-after, on: profile, metric: offset_peak, equals: 1, tolerance: 0}
"""


@pytest.fixture
def suite(tmp_path):
    path = tmp_path / "circuits.yaml"
    path.write_text(SUITE)
    return path


def test_a_suite_can_ask_for_all_of_it(suite):
    record = icl_bench.run([suite], "builtin:handwired")
    assert {check.verdict for check in record.checks} == {"pass"}
    edges = record.measurements["circuits/edges"].metrics
    # Without its one edge the head attends to the sink, which writes nothing.
    assert edges["repeated_loss_ablated"].value == pytest.approx(math.log(len(WORDS)), abs=1e-3)
    assert edges["copying_lost"].value == pytest.approx(1, abs=1e-3)
    assert edges["delta_first"].value == pytest.approx(0, abs=1e-6)
    assert edges["null_max_ratio"].value == pytest.approx(1, abs=1e-3)
    assert edges["null_p_value"].value == pytest.approx(1 / 24)


def test_the_control_passes_none_of_it(suite):
    record = icl_bench.run([suite], "builtin:control-1l")
    verdicts = {check.id: check.verdict for check in record.checks}
    assert "pass" not in {verdicts[name] for name in verdicts if name != "one-after"}
    assert verdicts["the-edge-carries-copying"] == verdicts["collapse"] == "fail"


def test_a_wrong_side_is_a_mistake_in_the_suite(tmp_path):
    path = tmp_path / "wrong.yaml"
    path.write_text(
        "icl_suite: 1\nname: wrong\nmeasure:\n"
        "  p: {probe: composition, heads: [[1, 0]], sides: [keys]}\n"
        "checks: [{id: a, on: p, metric: key_drop, above: 0}]\n"
    )
    with pytest.raises(SuiteError, match=r"wrong\.yaml:4"):
        icl_bench.run([path], "builtin:handwired")


def test_families_without_queries_and_keys_say_why_not():
    import circuit_families as families

    hooked = icl_bench.wrap(families.build("bloom"))
    for probe in (composition, attention_attribution):
        with pytest.raises(NotMeasurable, match="does not use transformers' attention interface"):
            probe.measure(hooked, probe.Settings(heads=[[2, 0]], sequences=2, period=6), Context())


def test_edge_knockout_needs_queries_and_keys():
    import circuit_families as families

    hooked = icl_bench.wrap(families.build("bloom"))
    settings = ablation.Settings(
        heads=[[2, 0]], method="edge_knockout", sequences=2, period=6, null_sets=0
    )
    with pytest.raises(NotMeasurable):
        ablation.measure(hooked, settings, Context())
