"""Circuits as probes: known answers on the hand-wired model, none on models that lack them."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

import icl_bench
from icl_bench.errors import MeasurementError, NotMeasurable, SuiteError
from icl_bench.measures.tokens import draw_repeated
from icl_bench.probes.ablations import ablation
from icl_bench.probes.design.context import Context
from icl_bench.probes.design.settings import HeadSelection, Threshold
from icl_bench.probes.heads import (
    attention_attribution,
    composition,
    induction,
    logit_attribution,
    offset_profile,
)
from icl_bench.reference.handwired import GAIN, SHARPNESS, handwired, token_codes
from icl_bench.reference.words import WORDS

PERIOD = 20
SMALL = {"sequences": 4, "period": PERIOD}
RECEIVER = [[1, 0]]
BEST = HeadSelection(**{"from": "repeats"}, top=1)  # type: ignore[arg-type]
ABOVE = HeadSelection(
    **{"from": "repeats"},  # type: ignore[arg-type]
    where={"induction": Threshold(above=0.4)},
)


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


def value(measurement, metric):
    return measurement.metrics[metric].value


def run(probe, model, upstream=None, **settings):
    return probe.measure(model, probe.Settings(**SMALL | settings), Context(upstream=upstream))


def scores(model):
    settings = induction.Settings(sequences=4, period=PERIOD, control=False)
    return induction.measure(model, settings, Context())


def held_out(model):
    return draw_repeated(
        model.vocabulary, sequences=4, period=PERIOD, bos=model.bos, stream="test"
    ).input_ids


# composition


@pytest.fixture(scope="module")
def composed(model):
    return run(composition, model, scores(model), heads=ABOVE)


def test_the_hand_wired_head_gets_its_keys_from_the_previous_token_head(composed):
    assert (value(composed, "receivers"), value(composed, "senders")) == (1, 24)
    assert value(composed, "induction_clean") > 0.999
    for name in ("key_drop", "key_drop_previous_token"):
        assert value(composed, name) == pytest.approx(1, abs=1e-3)
    assert value(composed, "key_sender_previous_token") > 0.999
    collapsed = composed.metrics["key_collapsed"]
    # Of 4 sequences, 60% of others may have gone unseen.
    assert (collapsed.value, collapsed.ci_low, collapsed.ci_high) == (1, 0, 1)
    assert value(composed, "key_collapsed_share") == 1
    for name in ("key_drop_others", "query_drop", "query_drop_previous_token", "value_drop_others"):
        assert value(composed, name) == pytest.approx(0, abs=1e-5)


def test_what_the_hand_wired_head_writes_does_not_need_the_previous_token_head(composed):
    """The value side, patterns clean: only `- previous` goes, a small part of what is written."""
    assert value(composed, "value_clean") > 10
    for name in ("value_drop", "value_drop_previous_token"):
        assert abs(value(composed, name)) < 0.05


def test_the_table_has_a_row_for_each_sender_receiver_and_side(composed):
    rows = composed.tables["composition"]
    assert len(rows) == 24 * 3
    best = max((r for r in rows if r["side"] == "key"), key=lambda row: row["drop"])
    assert (best["sender_layer"], best["sender_head"], best["layer"], best["head"]) == (0, 0, 1, 0)
    assert best["sender_previous_token"] > 0.999 and best["drop_stderr"] < 1e-3
    assert best["clean"] - best["patched"] == pytest.approx(best["drop"])
    others = [row["sender_previous_token"] for row in rows if row["sender_head"] != 0]
    assert max(others) < 0.2


def test_metrics_equal_the_table_of_path_patching(trained):
    """The same numbers from the Python function, averaged by hand."""
    heads = [[1, 0], [1, 4]]
    found = run(composition, trained, heads=heads, sides=["key", "query"])
    ids = held_out(trained)
    tokens = icl_bench.RepeatedTokens(ids, PERIOD, 2, 1)
    frame = icl_bench.path_patching(trained, tokens, heads, side=["key", "query"])
    assert len(found.tables["composition"]) == len(frame) == 2 * 12 * 2
    for row, expected in zip(
        sorted(found.tables["composition"], key=lambda r: (r["side"], r["head"], r["sender_head"])),
        frame.sort_values(["side", "head", "sender_head"]).to_dict("records"),
    ):
        for name, number in expected.items():
            assert row[name] == (
                number if isinstance(number, str) else pytest.approx(number, abs=1e-5)
            )
    own = frame[frame["side"] == "key"]
    lost = own.groupby("sender_head")["drop"].mean()
    clean = own.groupby("head")["clean"].first().mean()
    assert value(found, "induction_clean") == pytest.approx(clean)
    # Both halves choose the same sender, so that cross-fitting changes nothing.
    assert lost.idxmax() == 9
    assert value(found, "key_drop") == pytest.approx(lost.max() / clean)
    assert value(found, "key_drop_previous_token") == pytest.approx(lost[9] / clean)
    others = lost.drop(9)
    assert others.min() <= value(found, "key_drop_others") * clean <= others.max()
    worst = own.groupby("head").apply(lambda group: (group["drop"] > group["clean"] / 2).any())
    assert value(found, "key_collapsed") == worst.sum()
    scored = icl_bench.head_scores(trained, tokens).set_index(["layer", "head"])
    assert value(found, "key_sender_previous_token") == pytest.approx(
        scored.loc[(0, 9), "previous_token"]
    )
    assert found.unmeasured["value_drop"] == "the suite leaves this side out"


def test_the_trained_model_composes_on_the_key_side(trained):
    found = run(composition, trained, scores(trained), heads=ABOVE)
    assert value(found, "receivers") == 2
    assert value(found, "key_drop") > 0.8
    assert value(found, "key_drop_previous_token") == pytest.approx(value(found, "key_drop"))
    assert value(found, "key_collapsed") == 2
    assert value(found, "key_sender_previous_token") > 0.9
    assert value(found, "query_drop_previous_token") < 0.2
    assert value(found, "value_drop_previous_token") < 0.2


def test_a_head_that_attends_by_position_gets_its_keys_from_nobody(positional):
    found = run(composition, positional, heads=RECEIVER)
    assert value(found, "induction_clean") > 0.999
    for name in ("key_drop", "key_drop_previous_token", "query_drop"):
        assert value(found, name) == pytest.approx(0, abs=1e-5)
    assert value(found, "key_collapsed") == 0


def test_without_a_previous_token_head_nothing_collapses(blind):
    found = run(composition, blind, heads=RECEIVER)
    assert value(found, "induction_clean") < 0.1
    assert (value(found, "key_collapsed"), value(found, "key_collapsed_share")) == (0, 0)
    assert "not above 0.1" in found.unmeasured["key_drop"]


def test_one_layer_cannot_compose(control):
    best = run(composition, control, scores(control), heads=BEST)
    assert best.reason == "no head lies below the chosen ones"
    assert (value(best, "receivers"), value(best, "key_collapsed")) == (1, 0)
    none = run(composition, control, scores(control), heads=ABOVE)
    assert none.reason == "no head has induction above 0.4"
    assert none.unmeasured["key_drop"] == none.reason and value(none, "key_collapsed") == 0


def test_senders_can_be_listed_and_replaced_by_their_mean(model):
    listed = run(composition, model, heads=RECEIVER, senders=[[0, 0], [0, 7]], method="mean")
    assert value(listed, "senders") == 2
    assert value(listed, "key_drop") == pytest.approx(1, abs=0.05)
    single = run(composition, model, heads=RECEIVER, senders=[[0, 0]])
    assert single.unmeasured["key_drop_others"] == "there is one sender only"
    with pytest.raises(MeasurementError, match=r"sender 1\.3 lies below no receiver"):
        run(composition, model, heads=RECEIVER, senders=[[1, 3]])
    with pytest.raises(MeasurementError, match=r"no head 0\.99"):
        run(composition, model, heads=RECEIVER, senders=[[0, 99]])


def test_one_sequence_gives_drops_without_intervals(model):
    found = run(composition, model, heads=RECEIVER, sequences=1)
    assert value(found, "key_drop") == pytest.approx(1, abs=1e-3)
    assert found.metrics["key_drop"].stderr is None
    assert found.tables["composition"][0]["drop_stderr"] is None


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
