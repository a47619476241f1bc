"""Metrics of two records: intervals of every kind of metric, and changes as large as is allowed."""

from __future__ import annotations

import math
from dataclasses import asdict

import numpy as np
import pytest
from scipy import stats
from test_comparing import BEFORE, NOISE, of, record
from test_comparing_defaults import exact

from icl_bench.comparing import Part, compare, parse_limit
from icl_bench.comparing.limits import Limit, allowances
from icl_bench.comparing.metrics import compare_metrics, keys_of
from icl_bench.comparing.parts import Owners
from icl_bench.errors import SettingsError
from icl_bench.records.parts import Metric

NAME = "induction_max"


def holding(fields, **settings):
    """A record whose checks read the given metric and one more."""
    made = record(keep=False, **settings)
    made.measurements["mine/repeats"].metrics[NAME] = Metric(**fields)
    return made


def t(confidence, df):
    return float(stats.t.ppf((1 + confidence) / 2, df))


NARROW = {"value": 0.5, "stderr": 0.01, "n": 9}
WIDE = {"value": 0.25, "ci_low": 0.125, "ci_high": 0.5, "n": 5}


def of_interval(fields, looks=1):
    """The standard error that an interval of all looks together shows."""
    return (fields["ci_high"] - fields["ci_low"]) / 2 / t(1 - 0.05 / looks, fields["n"] - 1)


HALVES = {
    "two errors": (NARROW, {"value": 0.25, "stderr": 0.03, "n": 5}, (0.01, 0.03), 4),
    "fewer before": ({**NARROW, "n": 3}, {"value": 0.25, "stderr": 0.03, "n": 5}, (0.01, 0.03), 2),
    "two samples": ({**NARROW, "n": 2}, NARROW, (0.01, 0.01), 1),
    "of an unknown number": ({**NARROW, "n": None}, NARROW, (0.01, 0.01), 1),
    "an interval alone": (NARROW, WIDE, (0.01, of_interval(WIDE)), 4),
    "before": (WIDE, NARROW, (0.01, of_interval(WIDE)), 4),
    "an interval that is wider": (NARROW, {**WIDE, "stderr": 0.02}, (0.01, of_interval(WIDE)), 4),
    "one that is narrower": (NARROW, {**WIDE, "stderr": 2.0}, (0.01, 2.0), 4),
    "an interval of two": (
        NARROW,
        {**WIDE, "n": 2},
        (0.01, of_interval({**WIDE, "n": 2})),
        1,
    ),
    "an interval of one": (NARROW, {**WIDE, "stderr": 0.02, "n": 1}, (0.01, 0.02), 1),
    "of none that is known": (NARROW, {**WIDE, "stderr": 0.02, "n": None}, (0.01, 0.02), 1),
    "no lower end": (NARROW, {**WIDE, "stderr": 0.02, "ci_low": None}, (0.01, 0.02), 4),
    "no upper end": (NARROW, {**WIDE, "stderr": 0.02, "ci_high": None}, (0.01, 0.02), 4),
    "exact before": ({"value": 0.5, "exact": True, "n": 2}, WIDE, (of_interval(WIDE),), 4),
    "exact now": (NARROW, {"value": 0.25, "exact": True, "n": 2, "stderr": 9}, (0.01,), 8),
}
"""Kind -> metric before, metric now, errors that count, degrees of freedom."""


@pytest.mark.parametrize("name", HALVES)
def test_an_interval_without_pairs_is_that_of_the_errors(name):
    before, now, errors, df = HALVES[name]
    change = of(compare(holding(before), holding(now)), NAME)
    half = t(0.975, df) * math.hypot(*errors)  # of two metrics, each at half of 5%
    difference = now["value"] - before["value"]
    assert change.difference == difference
    assert (change.ci_low, change.ci_high) == pytest.approx((difference - half, difference + half))
    assert not change.paired and change.unpaired


def test_an_interval_of_several_looks_is_read_and_made_for_all_of_them():
    looks = {"until": "decided", "max_sequences": 64, "looks": 4}
    change = of(compare(holding(NARROW, **looks), holding(WIDE, **looks)), NAME)
    half = t(1 - 0.025 / 4, 4) * math.hypot(0.01, of_interval(WIDE, 4))
    assert change.ci_high - change.difference == pytest.approx(half)
    before, now = record(**looks), record(BEFORE - 0.05 + NOISE, **looks)
    low, high = stats.ttest_rel(BEFORE - 0.05 + NOISE, BEFORE).confidence_interval(1 - 0.025 / 4)
    change = of(compare(before, now), NAME)
    assert change.paired and (change.ci_low, change.ci_high) == pytest.approx((low, high))


@pytest.mark.parametrize("fields", [{"value": 0.5, "n": 1}, {"value": 0.5, "n": 8}])
def test_an_unknown_error_leaves_it_open(fields):
    for before, now in ((fields, NARROW), (NARROW, fields), (fields, fields)):
        change = of(compare(holding(before), holding(now)), NAME)
        assert (change.state, change.reason) == ("unclear", "one sample has no standard error")
        assert (change.ci_low, change.ci_high) == (None, None)
    without = {**NARROW, "stderr": 0.0}
    change = of(compare(holding(without), holding(without)), NAME)
    assert (change.state, change.ci_low, change.ci_high) == ("same", None, None)


@pytest.mark.parametrize("side", ["before", "now", "both"])
def test_an_exact_number_is_paired_where_the_other_is_an_estimate(side):
    before, now = record(), record(BEFORE - 0.05 + NOISE)
    for name, one in (("before", before), ("now", now)):
        one.measurements["mine/repeats"].metrics[NAME].exact = side in (name, "both")
    change = of(compare(before, now), NAME)
    assert change.unpaired is None and change.paired is (side != "both")
    low, high = stats.ttest_rel(BEFORE - 0.05 + NOISE, BEFORE).confidence_interval(0.975)
    ends = (None, None) if side == "both" else pytest.approx((low, high))
    assert (change.ci_low, change.ci_high) == ends
    for name, one in (("before", before), ("now", now)):
        if side in (name, "both"):
            one.measurements["mine/repeats"].metrics[NAME].samples = None
    told = {"before": "no samples in the baseline", "now": "no samples in this run", "both": None}
    change = of(compare(before, now), NAME)
    assert (change.paired, change.unpaired) == (False, told[side])


def test_one_metric_alone_has_the_whole_five_percent():
    before, now = record(), record(BEFORE - 0.05 + NOISE)
    for one in (before, now):
        one.checks.pop()
    [change] = compare(before, now).metrics
    low, high = stats.ttest_rel(BEFORE - 0.05 + NOISE, BEFORE).confidence_interval(0.95)
    assert (change.ci_low, change.ci_high) == pytest.approx((low, high))
    assert (change.key, change.metric, change.state) == ("mine/repeats", NAME, "regressed")
    assert change.baseline == pytest.approx(BEFORE.mean())
    assert change.value == pytest.approx((BEFORE - 0.05 + NOISE).mean())
    assert change.difference == pytest.approx(NOISE.mean() - 0.05)
    assert (change.allowed, change.limit) == (0.02, "default")
    assert change.reason == "allowed is 0.02 (default)"
    before.checks[0] = before.checks[0].model_copy(update={"metric": "null_p_value"})
    assert compare_metrics(before, now) == []


def test_two_samples_are_enough_to_be_paired():
    before, now = record(BEFORE[:2]), record([0.125, 0.25])
    change = of(compare(before, now), NAME)
    low, high = stats.ttest_rel([0.125, 0.25], BEFORE[:2]).confidence_interval(0.975)
    assert change.paired and (change.ci_low, change.ci_high) == pytest.approx((low, high))


@pytest.mark.parametrize(
    ("probe", "name", "before", "now", "limits", "state"),
    [
        # Exactly as far as is allowed is no regression, and as rounding makes no improvement.
        ("choice", "margin", 0.5, 0.25, ["margin=0.25"], "same"),
        ("choice", "margin", 0.5, 0.249, ["margin=0.25"], "regressed"),
        ("choice", "margin", 0.5, 0.25, ["margin=50%"], "same"),
        ("choice", "margin", -0.5, -0.75, ["margin=50%"], "same"),
        ("choice", "margin", 0.0, 1e-4, ["margin=noise"], "same"),
        ("choice", "margin", 0.0, 1.01e-4, ["margin=noise"], "improved"),
        ("choice", "margin", 0.0, -1e-4, ["margin=noise"], "same"),
        ("choice", "margin", 0.0, -1.01e-4, ["margin=noise"], "regressed"),
        ("choice", "margin", 0.0, 1e-4, ["margin=0.25"], "same"),
        ("choice", "margin", 0.0, 1.01e-4, ["margin=0.25"], "improved"),
        ("choice", "margin", 0.0, 0.02, [], "same"),
        ("choice", "margin", 0.0, 0.021, [], "improved"),
        ("choice", "margin", 0.0, -0.02, [], "same"),
        ("choice", "margin", 0.0, -0.021, [], "regressed"),
        ("minimal_set", "heads", 8, 9, [], "regressed"),
        ("minimal_set", "heads", 8, 8, [], "same"),
        ("minimal_set", "heads", 8, 7, [], "improved"),
    ],
)
def test_a_change_as_large_as_is_allowed_is_none(probe, name, before, now, limits, state):
    made = [exact(probe, name, float(value)) for value in (before, now)]
    assert of(compare(*made, [parse_limit(text) for text in limits]), name).state == state


@pytest.mark.parametrize(("step", "allowed"), [(0.0, 0.125), (-0.05, 0.125), (0.05, 0.5)])
def test_what_is_allowed_is_shown_for_the_way_it_went(step, allowed):
    limits = [parse_limit(text) for text in ("first_token_mean=+0.5", "first_token_mean=-0.125")]
    change = of(compare(record(), record(BEFORE + step), limits), "first_token_mean")
    assert (change.allowed, change.state) == (allowed, "same")
    assert change.limit == f"given: first_token_mean={'+' if step > 0 else '-'}{allowed}"


MORE = [
    ("logit_attribution", "selected_logit", 1.0, {}, 0.02, "default"),
    ("logit_attribution", "selected_logit", -5.0, {}, 0.1, "default: 2% of the baseline's value"),
    ("ablation", "loss_ratio", 3.0, {"gain": 6.0}, 0.06, "default: 2% of the baseline's value"),
    (
        "ablation",
        "loss_ratio",
        3.0,
        {"gain": 6.0, "repeated_loss": 0.0},
        0.06,
        "default: 2% of the baseline's value",
    ),
    (
        "ablation",
        "loss_ratio",
        3.0,
        {"gain": -6.0, "repeated_loss": 0.5},
        3 - 1.5 / (0.5 + 0.12),
        "default: 2% of the gain added to the clean loss",
    ),
    (
        "ablation",
        "loss_ratio",
        3.0,
        {"gain": 0.5, "repeated_loss": 0.5},
        3 - 1.5 / (0.5 + 0.02),
        "default: 2% of the gain added to the clean loss",
    ),
    ("losses", "repeated_loss", 5.0, {"gain": 1.0}, 0.02, "default"),
    ("sweep", "heads_above", 3.0, {}, 0.0, "default: no count may fall"),
]


@pytest.mark.parametrize(("probe", "name", "value", "more", "ignored", "rule"), MORE)
def test_what_is_ignored_of_small_negative_and_absent_gains(
    probe, name, value, more, ignored, rule
):
    change = of(compare(*[exact(probe, name, value, **more)] * 2), name)
    assert (change.allowed, change.limit) == (pytest.approx(ignored), rule)


@pytest.mark.parametrize(
    ("value", "dtype", "allowed", "rule"),
    [
        (2.0, "bfloat16", 0.02, "default"),  # as much as rounding makes
        (2.5, "bfloat16", 0.025, "default: rounding"),
        (250.0, "float32", 0.025, "default: rounding"),
        (150.0, None, 0.02, "default"),
    ],
)
def test_no_default_is_finer_than_rounding(value, dtype, allowed, rule):
    made = [exact("icl_score", "text_loss", value) for _ in range(2)]
    for one in made:
        one.model.dtype = dtype
    change = of(compare(*made), "text_loss")
    assert (change.allowed, change.limit) == (pytest.approx(allowed), rule)


LIMITS = {
    "x=5%": Limit("x", 0.05, True, None, "x=5%"),
    "x=0": Limit("x", 0.0, False, None, "x=0"),
    "a/b.x = 0.5": Limit("a/b.x", 0.5, False, None, "a/b.x = 0.5"),
    "x=-2%": Limit("x", 0.02, True, "down", "x=-2%"),
    "x=+3": Limit("x", 3.0, False, "up", "x=+3"),
    "x=-noise": Limit("x", None, False, "down", "x=-noise"),
    "x=noise": Limit("x", None, False, None, "x=noise"),
}


@pytest.mark.parametrize("text", LIMITS)
def test_a_limit_is_read_as_it_is_written(text):
    limit = parse_limit(text)
    assert limit == LIMITS[text] and limit.is_exact
    ways = allowances([limit], "a/b", "x", "up", -4.0, compare_default, 0.25)
    amount = 0.25 if limit.amount is None else limit.amount * (4 if limit.relative else 1)
    ways_named = [limit.worse] if limit.worse else ["down"]
    assert [ways[way] for way in ways_named] == [(amount, f"given: {text}")] * len(ways_named)


compare_default = (0.5, "default")


@pytest.mark.parametrize(
    ("better", "texts", "expected"),
    [
        ("up", [], {"down": "default"}),
        ("down", [], {"up": "default"}),
        (None, [], {"down": "default", "up": "default"}),
        (None, ["x=+1"], {"up": "x=+1"}),
        (None, ["x=+1", "x=2"], {"down": "x=2", "up": "x=2"}),
        (None, ["y=+1"], {"down": "default", "up": "default"}),
        ("up", ["x=+1"], {"down": "default", "up": "x=+1"}),
        ("up", ["*=3", "b.x=4"], {"down": "b.x=4"}),
        ("up", ["b.x=4", "a/*.x=3"], {"down": "a/*.x=3"}),
        ("up", ["c.x=4", "a/c.x=3", "b=1"], {"down": "default"}),
    ],
)
def test_each_way_that_is_judged_has_its_last_limit(better, texts, expected):
    limits = [parse_limit(text) for text in texts]
    found = allowances(limits, "a/b", "x", better, 1.0, compare_default, 0.25)
    assert list(found) == list(expected)
    assert {way: rule.removeprefix("given: ") for way, (_, rule) in found.items()} == expected
    assert [limit.is_exact for limit in limits] == [not set(text) & set("*?[") for text in texts]


def test_what_is_gone_has_its_value_of_before_and_a_reason_alone():
    after = record()
    del after.measurements["mine/repeats"].metrics[NAME]
    absent = ("value", "difference", "ci_low", "ci_high", "limit", "unpaired")
    for now, why in (
        (after, "not measured"),
        (record(period=3), "settings differ (period None, now 3): make a new baseline"),
    ):
        assert asdict(of(compare(record(), now), NAME)) == {
            **{"key": "mine/repeats", "metric": NAME, "state": "vanished", "reason": why},
            **{"baseline": float(BEFORE.mean()), "paired": False, "allowed": 0.0},
            **dict.fromkeys(absent),
        }
    unpaired = compare_metrics(record(), record(tokens="other"))
    assert {(change.state, change.reason) for change in unpaired} == {("same", None)}


def test_a_part_reads_the_measurements_of_its_metrics_and_no_others():
    before = record()
    before.measurements["mine/more"] = record().measurements["mine/repeats"]
    before.checks[1] = before.checks[1].model_copy(update={"measurement": "mine/more"})
    owners = Owners.of_records(before, before)
    for name, keys in (("high", ["mine/repeats"]), ("low", ["mine/more"]), ("none", [])):
        assert keys_of(before, [], owners, Part("mine", "check", name)) == keys
    whole = keys_of(
        before, [parse_limit("first_token_mean=1")], owners, Part("mine", "complete", "mine")
    )
    assert whole == ["mine/repeats", "mine/more"]
    with pytest.raises(SettingsError, match="did you mean 'mine/repeats.induction_max'"):
        compare(before, before, [parse_limit("mine/repeats/induction_max=1")])


def test_values_of_a_record_do_not_change_with_the_comparison():
    before, now = record(), record(BEFORE - 0.05)
    plain = before.model_dump(), now.model_dump()
    compare(before, now)
    assert (before.model_dump(), now.model_dump()) == plain
    assert np.isfinite(of(compare(before, now), NAME).difference)
