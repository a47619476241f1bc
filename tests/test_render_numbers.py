from __future__ import annotations

import math

import pytest

from icl_bench.render.writing import numbers
from icl_bench.render.writing.text import columns, cut, one_line, to_ascii


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.90213, "0.902"),
        (0.8996, "0.900"),
        (0.4, "0.4"),
        (0.1 + 0.2, "0.3"),
        (13.9513, "13.95"),
        (4.4149, "4.41"),
        (135.24, "135.2"),
        (1234.5, "1234"),
        (5.0, "5"),
        (0.0, "0"),
        (-0.0, "0"),
        (-0.974, "-0.974"),
        (0.01, "0.01"),
        (0.0312, "0.0312"),
        (0.000123, "0.000123"),
        (1.23e-5, "1.2e-05"),
        (-1.23e-5, "-1.2e-05"),
        (1.234e9, "1.2e+09"),
        (0.9999, "1.000"),
        (999.96, "1000.0"),
        (math.nan, "not a number"),
    ],
)
def test_numbers_are_short_and_say_what_rounding_took(value: float, text: str) -> None:
    assert numbers.number(value) == text


@pytest.mark.parametrize(
    ("value", "text"), [(0.9021, "0.902"), (0.02, "0.020"), (-0.0004, "0.000"), (-0.02, "-0.020")]
)
def test_scores_have_three_decimals_and_no_negative_zero(value: float, text: str) -> None:
    assert numbers.score(value) == text


def test_standard_errors_have_two_digits() -> None:
    assert [numbers.stderr(e) for e in (0.00834, 0.311, 0.0)] == ["0.0083", "0.31", "0"]


def test_a_number_gets_digits_until_it_differs_from_its_bound() -> None:
    assert numbers.apart(0.40001, [0.4]) == "0.40001"
    assert numbers.apart(0.4, [0.4]) == "0.4"
    assert numbers.interval(0.35, 0.40002, [0.4]) == "[0.35, 0.40002]"


@pytest.mark.parametrize(
    ("rule", "threshold", "text"),
    [
        ("above", 0.4, "> 0.4"),
        ("below", 0.05, "< 0.05"),
        ("at_least", 2.0, "≥ 2"),
        ("at_most", 2, "≤ 2"),
        ("between", [0.2, 0.4], "0.2 – 0.4"),
        ("equals", 5, "= 5"),
        ("equals", {"value": 5.0, "tolerance": 1.0}, "= 5 ± 1"),
        ("above", 12345.678, "> 12345.678"),
    ],
)
def test_rules_are_written_with_their_thresholds(rule: str, threshold: object, text: str) -> None:
    assert numbers.rule(rule, threshold) == text


def test_counts_have_thousands_separators() -> None:
    assert numbers.count(134_515_008) == "134,515,008"


def test_text_is_stripped_of_everything_that_could_steer_a_terminal() -> None:
    assert one_line("a\x1b[31m\nb\r\tc\u202ed\x00") == "a[31m b cd"


def test_cuted_text_ends_in_an_ellipsis() -> None:
    assert cut("abcdef", 4) == "abc…"
    assert cut("abcdef", 6) == "abcdef"


def test_every_sign_of_ours_has_an_ascii_likeness() -> None:
    assert to_ascii("↑↓±–—─×≥≤…█é") == "^v+----x>=<=...#?"


def test_signs_of_two_columns_count_twice() -> None:
    assert columns("中文a") == 5
    assert cut("中文中文", 8) == "中文中文"
    assert cut("中文中文", 7) == "中文中…"
    assert cut("中文中文", 6) == "中文…"
