"""How much worse a metric may get: limits that are given, and what rounding makes by itself."""

from __future__ import annotations

import math

import numpy as np
import pytest
from test_comparing import BEFORE, of, record

from icl_bench.comparing import compare, parse_limit
from icl_bench.errors import SettingsError
from icl_bench.measures.statistics import ratio_metric
from icl_bench.records.parts import Metric


def with_metric(name, value, dtype=None, *, read=True, **fields):
    """A record with one more metric, that a check reads."""
    made = record()
    made.model.dtype = dtype
    made.measurements["mine/repeats"].metrics[name] = Metric(value=value, **fields)
    if read:
        made.checks.append(made.checks[0].model_copy(update={"id": name, "metric": name}))
    return made


def verdict(before, after, *limits):
    """(state of the last metric, whether the comparison passes)."""
    found = compare(before, after, [parse_limit(text) for text in limits])
    return found.metrics[-1].state, found.passes()


@pytest.mark.parametrize(
    ("limit", "state"),
    [
        ("induction_max=0.03", "same"),
        ("induction_max=0.01", "regressed"),
        ("repeats.induction_max=5%", "same"),
        ("mine/repeats.induction_max=1%", "regressed"),
        ("induction_*=0.03", "same"),
        ("induction_max=+0", "regressed"),
        ("induction_max=noise", "regressed"),
    ],
)
def test_a_limit_allows_so_much(limit, state):
    found = compare(record(), record(BEFORE - 0.02), [parse_limit(limit)])
    assert of(found, "induction_max").state == state


def test_a_limit_makes_a_metric_without_direction_count_both_ways():
    for shift in (-0.02, 0.02):
        found = compare(record(), record(BEFORE + shift), [parse_limit("first_token_mean=0.01")])
        assert of(found, "first_token_mean").state == "regressed"
    one_way = [parse_limit("first_token_mean=-0.01")]
    assert of(compare(record(), record(BEFORE + 0.02), one_way), "first_token_mean").state != (
        "regressed"
    )


@pytest.mark.parametrize(
    "text", ["", "x", "=1", "x=", "x=a", "x=-", "x=nan", "x=inf", "x=--1", "x=%"]
)
def test_limits_of_no_form_are_refused(text):
    with pytest.raises(SettingsError, match="METRIC=AMOUNT"):
        parse_limit(text)


def test_a_limit_that_names_nothing_is_refused():
    for wrong, right in (
        ("inductoin_max", "induction_max"),
        ("repeats.induction_maxx", "mine/repeats.induction_max"),
        ("mine/repeat.induction_max", "mine/repeats.induction_max"),
    ):
        with pytest.raises(SettingsError) as refused:
            compare(record(), record(), [parse_limit(f"{wrong}=0.1")])
        told = f"limit {wrong!r} names no metric of the baseline; did you mean {right!r}?"
        assert str(refused.value) == told


FLOORS = {
    ("float32", "float32"): 1e-4,
    ("float64", "float32"): 1e-4,
    (None, "float32"): 1e-4,
    ("bfloat16", "float32"): 1e-2,
    ("float32", "float16"): 1e-2,
    ("bfloat16", "bfloat16"): 1e-2,
}


@pytest.mark.parametrize(("dtypes", "floor"), FLOORS.items())
@pytest.mark.parametrize("value", [0.5, 9.06, -9.06])
@pytest.mark.parametrize("sign", [-1, 1])
def test_what_rounding_can_make_is_no_difference(dtypes, floor, value, sign):
    """One question has no noise: its margin is exact, and rounding moves it."""
    size = floor * max(1, abs(value))
    before = with_metric("margin", value, dtypes[0], exact=True)
    before.measurements["mine/repeats"].probe = "choice"
    beyond = "improved" if sign > 0 else "regressed"
    for factor, state in ((0.99, "same"), (1.01, beyond)):
        after = with_metric("margin", value + sign * factor * size, dtypes[1], exact=True)
        after.measurements["mine/repeats"].probe = "choice"
        assert verdict(before, after, "margin=noise") == (state, state != "regressed")
        if size > 0.02:  # nats: no default is finer than rounding
            assert verdict(before, after) == (state, state != "regressed")


@pytest.mark.parametrize("sign", [-1, 1])
def test_paired_samples_do_not_see_rounding(sign):
    """On the same tokens nothing but rounding is in the differences, so it would be significant."""
    noise = [parse_limit("*=noise")]
    found = compare(record(), record(BEFORE + sign * 2e-7), noise)
    assert found.passes() and {one.state for one in found.metrics} == {"same"}
    assert not compare(record(), record(BEFORE - 2e-4), noise).passes()


def test_a_ratio_of_means_is_paired_too():
    """Losses 1% higher on the same sequences, of which some are ten times as hard as others."""
    clean = np.random.default_rng(4).gamma(1, 0.2, 32)
    records = []
    for factor in (1, 1.01):
        made = record()
        ratio = ratio_metric(5 * clean**0.5, clean * factor)
        made.measurements["mine/repeats"].metrics["induction_max"] = ratio
        records.append(made)
    before, after = records
    change = of(compare(before, after, [parse_limit("induction_max=noise")]), "induction_max")
    assert change.paired and change.state == "regressed"
    spread = before.measurements["mine/repeats"].metrics["induction_max"].stderr
    assert spread > 5 * abs(change.difference)
    assert (
        change.ci_low < change.difference == pytest.approx(change.baseline / 1.01 - change.baseline)
    )
    assert of(compare(before, before), "induction_max").ci_low is None  # against itself exactly 0


def test_a_count_is_not_rounded():
    """Two heads of 400 fewer are less than the floor of bfloat16, and are judged."""
    before = with_metric("heads_above", 400, "bfloat16", exact=True)
    after = with_metric("heads_above", 398, "bfloat16", exact=True)
    for one in (before, after):
        one.measurements["mine/repeats"].probe = "sweep"
    assert verdict(before, after) == ("regressed", False)


@pytest.mark.parametrize(("limit", "passes"), [("0", False), ("0%", False), ("noise", True)])
def test_a_limit_that_is_given_is_kept_to_the_letter(limit, passes):
    found = compare(record(), record(BEFORE - 1e-6), [parse_limit(f"induction_max={limit}")])
    assert found.passes() is passes


P_VALUE = {"exact": True, "n": 39}


@pytest.mark.parametrize("name", ["null_p_value", "null_p_value_loss"])
def test_a_pattern_judges_no_p_value_and_nothing_that_no_check_reads(name):
    before = with_metric(name, 0.025, **P_VALUE)
    after = with_metric(name, 0.05, **P_VALUE)
    metrics = after.measurements["mine/repeats"].metrics
    metrics["first_token_mean"] = metrics["first_token_mean"].model_copy(update={"value": 9.0})
    found = compare(before, after, [parse_limit("*=5%")])
    assert found.passes()
    assert {one.metric for one in found.metrics} == {"induction_max", "induction_control"}
    assert all(one.allowed == pytest.approx(0.05 * one.baseline) for one in found.metrics)


@pytest.mark.parametrize(
    ("limit", "told"),
    [
        ("null_p_value=0.1", "'null_p_value' names p-values alone, which are judged by their"),
        ("repeats.null_*=0.1", "'repeats.null_*' names p-values alone"),
        ("first_*=0.1", r"'first_*' names no metric that a check .* without '\*' it may name"),
        ("nothing*=0.1", "'nothing*' names no metric of the baseline"),
    ],
)
def test_limits_that_would_limit_nothing_are_refused(limit, told):
    before = with_metric("null_p_value", 0.025, **P_VALUE)
    with pytest.raises(SettingsError, match=told.replace("*'", r"\*'", 1)):
        compare(before, before, [parse_limit(limit)])


def shifted(name, by):
    """Two records of a metric that no check reads, on other tokens and known well."""
    known = {"stderr": 1e-9, "ci_low": 1.0, "ci_high": 1.0, "n": 32}
    return tuple(with_metric(name, value, read=False, **known) for value in (1.0, 1.0 + by))


# induction_all_max is better when higher, duplicate_token_max neither way.
@pytest.mark.parametrize(
    ("name", "by", "limits", "state"),
    [
        ("induction_all_max", -0.4, ["+0.5"], "regressed"),  # its own way is still judged
        ("induction_all_max", +0.4, ["+0.5"], "improved"),
        ("induction_all_max", +0.6, ["+0.5"], "regressed"),  # the way that was asked for
        ("induction_all_max", -0.4, ["+0.5", "-0.5"], "same"),
        ("induction_all_max", -0.4, ["0.5", "+0.1"], "same"),
        ("induction_all_max", +0.4, ["+0.1", "0.5"], "regressed"),
        ("induction_all_max", -0.4, ["0.5", "0.1"], "regressed"),  # the last of one way counts
        ("duplicate_token_max", +0.4, ["-0.1"], "same"),
        ("duplicate_token_max", -0.4, ["-0.1"], "regressed"),
        ("duplicate_token_max", +0.4, ["-0.1", "+0.5"], "same"),
        ("duplicate_token_max", +0.4, ["-0.1", "0.1"], "regressed"),
    ],
)
def test_a_sign_adds_a_way_and_better_is_the_metric_s_own(name, by, limits, state):
    before, after = shifted(name, by)
    assert verdict(before, after, *(f"{name}={limit}" for limit in limits))[0] == state


def test_a_collapse_is_never_better():
    after = record(BEFORE - 0.5)
    change = of(compare(record(), after, [parse_limit("induction_max=+0.1")]), "induction_max")
    assert change.state == "regressed" and change.allowed == pytest.approx(0.02)
    assert math.isclose(change.difference, -0.5) and np.isfinite(change.difference)
