"""Heads chosen by several rules, and induction heads that write against the token."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from pydantic import ValidationError

import icl_bench
from icl_bench.errors import MeasurementError, SuiteError
from icl_bench.measures.tokens import digest_tokens, draw_repeated
from icl_bench.probes.ablations import ablation
from icl_bench.probes.ablations.thresholds import heads_by_level
from icl_bench.probes.design.combined import combine
from icl_bench.probes.design.context import Context
from icl_bench.probes.design.head_selection import (
    choose_heads,
    count_top,
    describe_misfit,
    name_stream,
)
from icl_bench.probes.design.settings import HeadSelection
from icl_bench.probes.heads import induction, logit_attribution, offset_profile
from icl_bench.records.parts import Measurement
from icl_bench.suite import load_suite
from icl_bench.suite.plan import make_plan

MATCHES = {"from": "repeats", "where": {"induction": {"above": 0.5}}}
AGAINST = {"from": "writing", "where": {"logit": {"below": 0}}}
SMALL = {"sequences": 4, "period": 12}
SUITE = """\
icl_suite: 1
name: mine
defaults: {sequences: 4, period: 12}
measure:
  off:
    probe: ablation
    heads: {from: repeats, where: {induction: {above: 0.5}}, and: RULE}
    null_sets: 0
  repeats: {probe: induction}
  writing: {probe: logit_attribution, heads: {from: repeats, where: {induction: {above: 0.5}}}}
checks:
  - {id: c, on: off, metric: delta_repeated, below: 0}
"""
RULE = "{from: writing, where: {logit: {below: 0}}}"


def load(folder, rule=RULE, text=SUITE):
    path = folder / "mine.yaml"
    path.write_text(text.replace("RULE", rule))
    return load_suite(path)


@pytest.fixture(scope="module")
def model():
    """Of its induction heads 1.0 and 1.4 the first writes against the token that it finds."""
    original = icl_bench.load_model("builtin:induction-2l")
    module = copy.deepcopy(original.model)
    layer = original.anatomy.layers[1]
    with torch.no_grad():
        module.model.layers[1].self_attn.o_proj.weight[:, : layer.width] *= -1
    return icl_bench.wrap(module, original.tokenizer)


@pytest.fixture(scope="module")
def found(model):
    scores = induction.measure(model, induction.Settings(**SMALL), Context())
    settings = logit_attribution.Settings(**SMALL, heads=HeadSelection(**MATCHES))
    return {
        "repeats": scores,
        "writing": logit_attribution.measure(model, settings, Context(scores)),
    }


def choose(model, found, **rules):
    settings = ablation.Settings(heads=HeadSelection(**MATCHES, **rules))
    return choose_heads(model, settings, combine(found["repeats"], found))


@pytest.mark.parametrize(
    ("top", "scored", "count"),
    [(3, 10, 3), ("2%", 270, 6), ("1.1%", 1000, 11), ("0.1%", 16, 1), ("100%", 16, 16)],
)
def test_a_share_of_heads_is_rounded_up(top, scored, count):
    assert count_top(top, scored) == count


def test_the_best_share_of_heads_is_chosen_also_of_those_within_bounds(model, found):
    rows = sorted(found["repeats"].heads, key=lambda row: -row["previous_token"])
    best = [(row["layer"], row["head"]) for row in rows]

    def chosen(**rule):
        rule = HeadSelection(**({"from": "repeats", "by": "previous_token"} | rule))
        return choose_heads(model, ablation.Settings(heads=rule), found["repeats"])

    # Of 24 heads 15% are 3.6.
    assert chosen(top="15%") == sorted(best[:4]) == chosen(top=4)
    copying = {head for head in best if head in {(1, 0), (1, 4)}}
    assert chosen(top=1, where={"induction": {"above": 0.5}}) == [
        next(head for head in best if head in copying)
    ]
    assert chosen(top="100%", where={"induction": {"above": 0.5}}) == sorted(copying)


@pytest.mark.parametrize("top", ["0%", "101%", "2 %", "-1%", "'%'", "two", 0, 1.5, True])
def test_a_share_of_heads_that_is_none_is_refused_where_it_stands(tmp_path, top):
    with pytest.raises(SuiteError, match=r"mine.yaml:7:\d+: top[: ]"):
        load(tmp_path, rule=f"{{from: writing, top: {top}}}")


def test_heads_are_those_that_both_rules_choose_or_one_without_the_other(model, found):
    assert choose(model, found) == [(1, 0), (1, 4)]
    assert choose(model, found, **{"and": AGAINST}) == [(1, 0)]
    assert choose(model, found, without=AGAINST) == [(1, 4)]
    inner = {**AGAINST, "without": {"from": "repeats", "top": 2}}
    assert choose(model, found, without=inner) == [(1, 0), (1, 4)]
    both = {"and": {"from": "writing", "top": 1}, "without": AGAINST}
    assert choose(model, found, **both) == choose(model, found, without=AGAINST)


def test_thresholds_beside_the_suite_s_own_keep_to_the_other_rules(model, found):
    rule = HeadSelection(**MATCHES, **{"and": AGAINST})
    upstream = combine(found["repeats"], found)
    levels = heads_by_level(ablation.Settings(heads=rule), upstream)
    assert levels[0.5] == [(1, 0)] and all((1, 4) not in heads for heads in levels.values())


def test_what_chooses_by_writing_is_tested_on_other_sequences(model, found):
    upstream = combine(found["repeats"], found)
    assert (name_stream(found["repeats"]), name_stream(upstream)) == ("test", "retest")
    settings = ablation.Settings(
        **SMALL, heads=HeadSelection(**MATCHES, **{"and": AGAINST}), varied=False, null_sets=0
    )
    taken = ablation.measure(model, settings, Context(upstream))
    assert taken.settings["stream"] == "retest"
    assert taken.settings["heads"]["and"] == {"from": "writing", "where": {"logit": {"below": 0}}}
    again = found["writing"].model_copy(update={"settings": {"stream": "retest"}})
    both = combine(found["repeats"], {"one": found["writing"], "two": again})
    with pytest.raises(MeasurementError, match="chosen on both streams"):
        name_stream(both)


def test_a_record_has_nothing_of_what_else_was_read(found):
    upstream = combine(found["repeats"], found)
    assert Measurement.model_validate(upstream.model_dump()) == found["repeats"]
    assert combine(found["repeats"], {}) is found["repeats"]


def test_negative_heads_are_counted_and_named(model, found):
    """By an independent computation, from what each head writes sequence by sequence."""
    written = found["writing"]
    metric = written.metrics["negative_heads"]
    assert (metric.value, metric.ci_low, metric.ci_high) == (1, 1, 1)
    [row] = written.tables["negative_heads"]
    assert (row["layer"], row["head"]) == (1, 0) and row["logit"] < row["logit_high"] < 0
    tokens = draw_repeated(
        model.vocabulary, **SMALL, repeats=2, seed=0, bos=model.choose_bos("auto"), stream="test"
    )
    assert digest_tokens(tokens.input_ids) == written.tokens_sha256
    frame = icl_bench.logit_attribution(model, tokens).set_index(["layer", "head"])
    assert row["logit"] == pytest.approx(frame.loc[(1, 0), "logit"], abs=1e-5)
    # Two heads were chosen, and four sequences measured: Student's t of 3 at 1 - 0.05 / 4.
    high = frame.loc[(1, 0), "logit"] + 4.1765 * frame.loc[(1, 0), "logit_stderr"]
    assert row["logit_high"] == pytest.approx(high, rel=1e-4)


def test_a_head_whose_sign_is_not_known_is_not_negative():
    made = Measurement(probe="logit_attribution", tables={"selected_heads": []})
    made.tables["selected_heads"] = [{"layer": 0, "head": number} for number in range(3)]
    noise = np.array([-1.0, 1.0, -1.0, 1.0])
    own = np.stack([noise - 0.1, noise / 100 - 0.1, noise / 100 + 0.1], axis=1)
    logit_attribution._report_negative(made, own, 0.95)
    metric = made.metrics["negative_heads"]
    assert (metric.value, metric.ci_low, metric.ci_high) == (1, 1, 2)
    assert [row["head"] for row in made.tables["negative_heads"]] == [1]
    logit_attribution._report_negative(made, own[:1], 0.95)
    assert "one sequence" in made.unmeasured["negative_heads"]


def test_a_model_without_negative_heads_has_none():
    model = icl_bench.load_model("builtin:induction-2l")
    settings = logit_attribution.Settings(**SMALL, heads=[[1, 0], [1, 4]])
    found = logit_attribution.measure(model, settings, Context())
    assert found.metrics["negative_heads"].value == 0 and found.tables["negative_heads"] == []


def test_backward_copy_is_the_attention_to_the_token_before_the_earlier_one(model, found):
    settings = offset_profile.Settings(**SMALL, heads=HeadSelection(**MATCHES))
    profile = offset_profile.measure(model, settings, Context(found["repeats"]))
    rows = [
        row["attention"]
        for row in profile.tables["offset_profile"]
        if row["offset"] == -1 and (row["layer"], row["head"]) in ((1, 0), (1, 4))
    ]
    assert profile.metrics["backward_copy"].value == pytest.approx(np.mean(rows))
    assert 0 <= profile.metrics["backward_copy"].value < 0.05
    without = offset_profile.Settings(**SMALL, offsets=[0, 1], heads=[[1, 4]])
    told = offset_profile.measure(model, without, Context()).unmeasured["backward_copy"]
    assert told == "-1 is not among the offsets of the suite"


def test_a_suite_plans_all_that_its_rules_read_and_runs(tmp_path, model):
    suite = load(tmp_path)
    plan = make_plan([suite])
    off = plan.measurements["mine/off"]
    assert list(plan.measurements) == ["mine/repeats", "mine/writing", "mine/off"]
    assert off.upstream == "mine/repeats"
    assert off.sources == {"repeats": "mine/repeats", "writing": "mine/writing"}
    assert plan.unread(suite) == []
    record = icl_bench.run([suite.path], model, cache=False)
    assert record.measurements["mine/off"].tables["ablated_heads"] == [{"layer": 1, "head": 0}]
    assert record.checks[0].verdict == "pass", record.checks[0]


def test_a_cached_measurement_is_found_again_and_named_as_the_suite_has_it(tmp_path):
    spec, folders = "builtin:induction-2l", [tmp_path / "a", tmp_path / "b"]
    texts = [SUITE, SUITE.replace("writing", "written").replace("name: mine", "name: other")]
    taken = []
    for folder, text in zip(folders, texts):
        folder.mkdir()
        suite = load(
            folder,
            "{from: writing, top: 1}".replace("writing", "written")
            if "written" in text
            else "{from: writing, top: 1}",
            text,
        )
        record = icl_bench.run([suite.path], spec, cache_dir=tmp_path / "cache")
        taken.append(record.measurements[f"{suite.name}/off"])
    assert [one.cached for one in taken] == [False, True]
    assert [one.settings["heads"]["and"]["from"] for one in taken] == ["writing", "written"]


@pytest.mark.parametrize("change", ["below: 1", "above: 0"])
def test_another_inner_rule_is_another_measurement(tmp_path, change):
    plans = [
        make_plan([load(tmp_path, rule)]).measurements["mine/off"].digest
        for rule in (RULE, RULE.replace("below: 0", change))
    ]
    assert plans[0] != plans[1]


def test_a_change_of_what_an_inner_rule_reads_is_another_measurement(tmp_path):
    other = SUITE.replace(
        "writing: {probe: logit_attribution,", "writing: {probe: logit_attribution, seed: 7,"
    )
    assert other != SUITE
    plans = [make_plan([load(tmp_path, text=text)]).measurements for text in (SUITE, other)]
    assert plans[0]["mine/off"].digest != plans[1]["mine/off"].digest
    assert plans[0]["mine/repeats"].digest == plans[1]["mine/repeats"].digest


def test_where_an_inner_measurement_failed_nothing_is_chosen(tmp_path):
    text = SUITE.replace(
        "heads: {from: repeats, where: {induction: {above: 0.5}}}}", "heads: [[9, 9]]}"
    )
    record = icl_bench.run([load(tmp_path, text=text).path], "builtin:induction-2l", cache=False)
    off = record.measurements["mine/off"]
    assert off.status == "error" and off.reason.startswith("mine/writing: ")
    assert "no head 9.9" in off.reason


@pytest.mark.parametrize(
    ("rule", "told"),
    [
        (
            "{from: wrting, top: 1}",
            "no measurement 'wrting' in this suite; did you mean 'writing'?",
        ),
        ("{from: off, top: 1}", "heads come from an 'induction'"),
        ("{from: writing, where: {delta: {above: 0}}}", "which has no score 'delta' of heads"),
        (
            "{from: writing, top: 1, without: {from: repeats, top: 1, by: logit}}",
            "no score 'logit'",
        ),
        ("{where: {logit: {below: 0}}}", "need 'from'"),
        ("{random: 2}", "'random' does not go with them"),
        ("{from: writing}", "give 'where', 'top' or both"),
        ("{from: writing, topp: 1}", "unknown key 'topp'; did you mean 'top'?"),
        ("[[1, 2]]", "and (a list) is not a mapping"),
    ],
)
def test_mistakes_in_inner_rules_are_named_at_their_line(tmp_path, rule, told):
    with pytest.raises(SuiteError) as caught:
        load(tmp_path, rule)
    assert any(told in line and line.startswith("7:") for line in _lines(caught, tmp_path)), (
        caught.value
    )


def test_heads_that_would_come_from_themselves_by_an_inner_rule_are_refused(tmp_path):
    inner = "where: {induction: {above: 0.5}}, and: {from: writing, top: 1}}}"
    text = SUITE.replace("where: {induction: {above: 0.5}}}}", inner)
    assert text != SUITE
    with pytest.raises(SuiteError, match="the heads of 'writing' would come from itself"):
        load(tmp_path, text=text)


def _lines(caught, folder):
    """The messages, without the file's name."""
    return [line.partition("mine.yaml:")[2] for line in str(caught.value).splitlines()]


def test_why_no_head_is_chosen_is_said():
    rule = HeadSelection(**MATCHES, **{"and": AGAINST})
    assert describe_misfit(rule) == (
        "no head has induction above 0.5, and fits the other rules ('and', 'without')"
    )
    with pytest.raises(ValidationError, match="'random' does not go with them"):
        HeadSelection(random=3, without=HeadSelection(**AGAINST))
