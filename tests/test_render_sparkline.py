"""Curves as lines of bars: one picture for series and phase changes."""

from __future__ import annotations

import math

import pytest

from icl_bench.render.writing.sparkline import over_log_steps, pool, sparkline


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([0, 1, 2, 3, 4, 5, 6, 7], "▁▂▃▄▅▆▇█"),
        ([7, 0], "█▁"),
        ([0.5, 0.5, 0.5], "▁▁▁"),
        ([-1, None, 1, float("nan")], "▁–█–"),
        ([None, None], ""),
        ([], ""),
        ([1], "▁"),
    ],
)
def test_a_curve_is_a_bar_to_a_value(values: list[float | None], expected: str) -> None:
    assert sparkline(values) == expected


def test_every_bar_stands_for_as_much_of_the_range() -> None:
    values = [place / 800 for place in range(801)]
    drawn = sparkline(values)
    assert {bar: drawn.count(bar) for bar in "▁▂▃▄▅▆▇"} == dict.fromkeys("▁▂▃▄▅▆▇", 100)
    assert drawn.count("█") == 101


def test_differences_within_the_noise_are_not_drawn() -> None:
    assert sparkline([0.1, 0.3, 0.2], noise=0.2) == "▁▁▁"
    assert sparkline([0.1, 0.3, 0.2], noise=0.19) == "▁█▅"


def test_a_long_series_is_pooled() -> None:
    assert sparkline(pool(list(range(800)), 8)) == "▁▂▃▄▅▆▇█"
    assert len(pool(list(range(41)), 40)) == 40
    assert pool([0, 2, None, None, 9, 5], 3) == [1, None, 7]
    assert pool([], 3) == []


def test_a_curve_over_log_steps_is_read_in_the_middle_of_each_stretch() -> None:
    steep = [(1, 0.0), (100, 0.0), (101, 1.0), (10000, 1.0)]
    assert sparkline(over_log_steps(steep, 8)) == "▁▁▁▁████"
    # log2(step) goes from 0 to 8; the value is log2(step).
    points = [(0.0, 9.0), *((2.0**power, float(power)) for power in range(9))]
    assert over_log_steps(points, 8) == pytest.approx([place + 0.5 for place in range(8)])
    assert over_log_steps([(1, 2.0), (math.e, 4.0)], 2) == pytest.approx([2.5, 3.5])
    assert over_log_steps([(0, 1.0)], 3) == []
