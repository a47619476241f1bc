"""Heads of two records: at the threshold, as far as noise goes, and where they have no match."""

from __future__ import annotations

import pytest
from scipy import stats
from test_comparing import record

from icl_bench.comparing import compare
from icl_bench.comparing.heads import HeadChange, _judge, compare_heads
from icl_bench.records.parts import Measurement

KEY = "mine/repeats"


def with_heads(rows, **settings):
    """A record with the given scores and errors: (layer, head, {name: number})."""
    made = record(**settings)
    made.measurements[KEY].heads = [
        {"layer": layer, "head": head, **scores} for layer, head, scores in rows
    ]
    return made


def scored(*scores, kind="induction", error=0.01):
    return [(0, head, {kind: score, f"{kind}_stderr": error}) for head, score in enumerate(scores)]


def states(before, now):
    return {(one.kind, one.name): one.state for one in compare(before, now).heads}


@pytest.mark.parametrize(
    ("old", "new", "state"),
    [
        (0.75, 0.5, "kept"),  # as far as half of the interval
        (0.5, 0.75, "kept"),
        (0.75, 0.375, "died"),
        (0.75, 0.4, "died"),  # at the threshold it has the score no more
        (0.75, 0.41, "weaker"),
        (0.4, 0.75, "appeared"),
        (0.375, 0.75, "appeared"),
        (0.41, 0.75, "stronger"),
    ],
)
def test_a_score_at_the_threshold_is_not_above_it(old, new, state):
    assert _judge(old, new, 0.25, 0.4) == state


@pytest.mark.parametrize(
    ("settings", "df"),
    [
        ({"sequences": 5}, 4),
        ({"sequences": 2}, 1),
        ({"sequences": 1}, 1),
        ({"sequences": None}, 1),
        ({"until": "decided", "max_sequences": 64}, 8),
    ],
)
def test_a_head_has_moved_where_it_did_by_more_than_noise_of_all_heads_makes(settings, df):
    """Of three heads compared each has a third of 5%."""
    spread = (0.01**2 + 0.02**2) ** 0.5
    half = float(stats.t.ppf(1 - 0.025 / 3, df)) * spread
    for factor, state in ((0.99, "kept"), (1.01, "stronger")):
        before = with_heads(scored(0.5, 0.45, 0.6, 0.4, 0.1), **settings)
        now = with_heads(scored(0.5 + factor * half, 0.45, 0.6, 0.4, 0.4, error=0.02), **settings)
        if "until" in settings:
            before.measurements[KEY].settings["sequences"] = 9
        if settings.get("sequences", 0) is None:
            for one in (before, now):
                del one.measurements[KEY].settings["sequences"]
        found = states(before, now)
        assert found[("induction", "0.0")] == state and len(found) == 3


def test_scores_of_previous_tokens_have_a_threshold_of_their_own():
    for settings in ({"threshold": 0.7}, {"threshold": 0.2}):
        before = with_heads(scored(0.8, 0.41, 0.4, kind="previous_token"), **settings)
        now = with_heads(scored(0.3, 0.6, 0.4, kind="previous_token"), **settings)
        kind = "previous_token"
        assert states(before, now) == {(kind, "0.0"): "died", (kind, "0.1"): "stronger"}
    before, now = (with_heads(scored(score)) for score in (0.45, 0.3))
    for one in (before, now):
        del one.measurements[KEY].settings["threshold"]
    assert states(before, now) == {("induction", "0.0"): "died"}
    [change] = compare(before, now).heads
    assert change == HeadChange(KEY, "induction", 0, 0, "died", 0.45, 0.3, 0.4)
    both = [(0, 0, {"induction": 0.9, "previous_token": 0.8})]
    assert states(with_heads(both), with_heads(both)) == {
        ("induction", "0.0"): "kept",
        ("previous_token", "0.0"): "kept",
    }


def test_a_head_is_gone_that_had_a_score_above_the_threshold():
    before, now = with_heads(scored(0.4, 0.41, 0.9)), with_heads(scored(0.4))
    for one in (before, now):
        one.model.layers, one.model.heads = 1, 3
    found = compare(before, now)
    assert [(one.name, one.state, one.value) for one in found.heads] == [
        ("0.1", "gone", None),
        ("0.2", "gone", None),
    ]
    assert found.died == found.heads


@pytest.mark.parametrize(("layers", "heads"), [((1, None), (3, 3)), ((1, 2), (3, 3))])
def test_heads_of_models_of_unknown_shape_are_not_compared_where_rows_are_missing(layers, heads):
    before, now = with_heads(scored(0.4, 0.41, 0.9)), with_heads([])
    for one, here, there in zip((before, now), layers, heads):
        one.model.layers, one.model.heads = here, there
    found, left_out = compare_heads(before, now)
    assert found == [] and left_out == {KEY: "1 layer x 3 heads before, no heads now"}


def test_uneven_layers_are_told_of_by_their_number():
    before = with_heads([(la, h, {"induction": 0.5}) for la, h in ((0, 0), (0, 1), (2, 0))])
    now = with_heads([(la, h, {"induction": 0.5}) for la, h in ((0, 0), (2, 0))])
    assert compare_heads(before, now)[1] == {
        KEY: "3 heads in 2 layers before, 2 layers x 1 heads now"
    }
    skipped = with_heads([])
    skipped.measurements[KEY] = Measurement(probe="induction", status="skipped")
    assert compare_heads(before, skipped)[1] == {KEY: "skipped"}
    del skipped.measurements[KEY]
    assert compare_heads(before, skipped)[1] == {KEY: "not measured now"}


def test_a_measurement_of_two_suites_is_compared_once_and_two_that_differ_are_both():
    for score_before, score_now, keys in (
        (0.9, 0.5, {KEY}),
        (0.8, 0.5, {KEY, "mine/again"}),
        (0.9, 0.6, {KEY, "mine/again"}),
    ):
        before, now = with_heads(scored(0.9)), with_heads(scored(0.5))
        for one, score in ((before, score_before), (now, score_now)):
            one.measurements["mine/again"] = with_heads(scored(score)).measurements[KEY]
            one.measurements["mine/text"] = one.measurements[KEY].model_copy(
                update={"probe": "losses"}
            )
        assert {one.key for one in compare(before, now).heads} == keys
