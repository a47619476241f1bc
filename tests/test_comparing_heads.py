"""Heads between two records: which died, moved or appeared, and where none can be compared."""

from __future__ import annotations

import html

import pytest
from test_comparing import record

from icl_bench.ci.findings import of_comparison
from icl_bench.comparing import compare
from icl_bench.render.comparison import comparison_markdown, comparison_text

HEADS = [(0, 0, 0.02), (1, 0, 0.78), (1, 5, 0.03)]


def test_a_dead_head_is_named_and_fails_the_gate():
    before = record(heads=[(0, 0, 0.02), (1, 0, 0.78), (1, 4, 0.9)])
    found = compare(before, record(heads=[(0, 0, 0.02), (1, 0, 0.03), (1, 4, 0.9)]))
    assert [(one.name, one.state) for one in found.heads] == [("1.0", "died"), ("1.4", "kept")]
    assert not found.passes()
    assert "induction head 1.0 died: 0.780 -> 0.030" in comparison_text(found)
    assert "1 head died" in comparison_text(found)


def test_a_head_that_moved_grew_or_shrank():
    before = record(heads=[(0, 0, 0.02), (1, 0, 0.78), (1, 4, 0.9), (1, 5, 0.41)])
    after = record(heads=[(0, 0, 0.81), (1, 0, 0.03), (1, 4, 0.6), (1, 5, 0.40)])
    found = compare(before, after)
    states = {one.name: one.state for one in found.heads}
    # 1.5 crossed the threshold by less than noise.
    assert states == {"0.0": "appeared", "1.0": "died", "1.4": "weaker", "1.5": "kept"}
    assert "the induction head moved from 1.0 to 0.0" in comparison_text(found)
    back = {one.name: one.state for one in compare(after, before).heads}
    assert back["1.4"] == "stronger"


def test_a_head_dies_below_the_threshold_that_its_measurement_has():
    scores = [(1, 0, 0.78)], [(1, 0, 0.55)]
    for threshold, state in ((0.4, "weaker"), (0.7, "died"), (0.9, None)):
        before, after = (record(heads=heads, threshold=threshold) for heads in scores)
        assert [one.state for one in compare(before, after).heads] == ([state] if state else [])


def test_heads_of_one_sequence_are_not_told_dead():
    before, after = (record(heads=[(1, 0, score)]) for score in (0.4005, 0.3995))
    for one in (before, after):
        del one.measurements["mine/repeats"].heads[0]["induction_stderr"]
    assert [one.state for one in compare(before, after).heads] == ["kept"]


def two(first, second):
    """A record with two measurements of heads."""
    made = record(heads=first)
    made.measurements["mine/others"] = record(heads=second).measurements["mine/repeats"]
    return made


def swapped(score):
    """HEADS with head 1.5 in the place of 1.0."""
    return [(0, 0, 0.02), (1, 0, 0.03), (1, 5, score)]


def test_each_measurement_speaks_for_itself():
    """What died in one and appeared in another has not moved."""
    other = [(0, 0, 0.02), (1, 0, 0.75), (1, 5, 0.03)]
    died, appeared = [(0, 0, 0.02), (1, 0, 0.03), (1, 5, 0.03)], [*other[:2], (1, 5, 0.8)]
    for text in both_texts(compare(two(HEADS, other), two(died, appeared))):
        assert "moved" not in text
        assert "mine/repeats: induction head 1.0 died: 0.780 -> 0.030" in text
        assert "mine/others: induction head 1.5 appeared: 0.030 -> 0.800" in text


def test_a_head_that_moved_in_both_is_told_of_in_both():
    other = [(0, 0, 0.02), (1, 0, 0.75), (1, 5, 0.03)]
    found = compare(two(HEADS, other), two(swapped(0.75), swapped(0.78)))
    for text in both_texts(found):
        for key in ("mine/repeats", "mine/others"):
            assert f"{key}: the induction head moved from 1.0 to 1.5" in text
        assert "1 head died" in text
    dead = of_comparison(found, {})
    assert [one.name for one in dead if "head" in one.name] == [
        "mine/repeats: induction head 1.0",
        "mine/others: induction head 1.0",
    ]


def test_heads_of_a_layer_in_another_order_are_the_same_model():
    found = compare(record(heads=HEADS), record(heads=swapped(0.78)))
    assert {one.name: one.state for one in found.heads} == {"1.0": "moved", "1.5": "moved"}
    assert found.passes()
    told = "induction head 1.0 has exchanged its score with another head of its layer"
    for text in both_texts(found):
        assert told in text and "died" not in text and "head moved from" not in text
    # Another score, or another layer, is another model.
    for heads in (swapped(0.79), [(0, 0, 0.78), (1, 0, 0.02), (1, 5, 0.03)]):
        assert not compare(record(heads=HEADS), record(heads=heads)).passes()


def test_one_measurement_is_not_named():
    for text in both_texts(compare(record(heads=HEADS), record(heads=swapped(0.8)))):
        assert "\nthe induction head moved" in text.replace("- the", "the")


def both_texts(found):
    """The comparison as text on one line each, and as Markdown without its escapes."""
    return comparison_text(found, width=200), html.unescape(
        comparison_markdown(found).replace("\\", "")
    )


def sized(heads, layers=2, per_layer=6):
    made = record(heads=heads)
    made.model.layers, made.model.heads = layers, per_layer
    return made


def test_a_head_that_has_no_score_now_is_gone():
    pruned = [one for one in HEADS if one[:2] != (1, 0)]
    found = compare(sized(HEADS), sized(pruned))
    assert [(one.name, one.state, one.value) for one in found.heads] == [("1.0", "gone", None)]
    assert not found.passes()
    for text in both_texts(found):
        assert "induction head 1.0 is gone: 0.780 -> no score now" in text and "1 head died" in text
    unharmed = [one for one in HEADS if one[:2] != (0, 0)]  # had no score to lose
    assert compare(sized(HEADS), sized(unharmed)).passes()


def test_no_row_at_all_is_every_head_gone():
    assert [one.state for one in compare(sized(HEADS), sized([])).heads] == ["gone"]


@pytest.mark.parametrize("known", [True, False])
def test_heads_of_another_shape_are_not_compared_and_that_is_said(known):
    before, after = record(heads=HEADS), record(heads=[(0, 0, 0.9), (0, 1, 0.1)])
    if known:
        before, after = sized(HEADS), sized([(0, 0, 0.9), (0, 1, 0.1)], layers=1, per_layer=2)
    found = compare(before, after)
    assert found.heads == [] and found.passes()
    told = "heads of mine/repeats are not compared: 3 heads in 2 layers before, 1 layer x 2 heads"
    for text in both_texts(found):
        assert f"note: {told} now" in text


def test_heads_that_were_not_measured_again_are_remarked_on():
    for change, why in (
        (lambda made: made.measurements.pop("mine/repeats"), "not measured now"),
        (lambda made: broken(made.measurements["mine/repeats"]), "out of memory"),
        (lambda made: made.measurements["mine/repeats"].settings.update(period=9), "settings dif"),
    ):
        after = record(heads=HEADS)
        change(after)
        found = compare(record(heads=HEADS), after)
        assert found.heads == []
        assert found.remarks[0].startswith(f"heads of mine/repeats are not compared: {why}")


def broken(measurement):
    measurement.status, measurement.reason, measurement.heads = "error", "out of memory", []


def test_rounding_kills_no_head():
    """A head at the threshold, known to the last digit."""
    before, after = (record(heads=[(1, 0, score)]) for score in (0.40002, 0.39998))
    for one in (before, after):
        one.measurements["mine/repeats"].heads[0]["induction_stderr"] = 1e-9
    assert [one.state for one in compare(before, after).heads] == ["kept"]
