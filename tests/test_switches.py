"""How heads are divided among a few switches."""

from __future__ import annotations

import pytest

from icl_bench.probes.example.toggles import (
    Switch,
    every_setting,
    find_previous,
    heads_off,
    lay_out_switches,
)

INDUCTION = [(5, 1), (7, 0), (6, 2), (6, 3)]
PREVIOUS = [(2, 4), (0, 1), (1, 1)]


def labels(induction, previous, count):
    return [one.label for one in lay_out_switches(induction, previous, count)]


@pytest.mark.parametrize(
    ("count", "expected"),
    [
        (0, []),
        (1, ["4 induction heads"]),
        (2, ["4 induction heads", "3 previous-token heads"]),
        (3, ["induction head 5.1", "3 other induction heads", "3 previous-token heads"]),
        (
            4,
            [
                "induction head 5.1",
                "induction head 7.0",
                "2 other induction heads",
                "3 previous-token heads",
            ],
        ),
        (
            5,
            [
                "induction head 5.1",
                "induction head 7.0",
                "2 other induction heads",
                "previous-token head 2.4",
                "2 other previous-token heads",
            ],
        ),
        (
            6,
            [
                "induction head 5.1",
                "induction head 7.0",
                "induction head 6.2",
                "induction head 6.3",
                "previous-token head 2.4",
                "2 other previous-token heads",
            ],
        ),
    ],
)
def test_the_strongest_are_alone_and_the_rest_together(count, expected):
    assert labels(INDUCTION, PREVIOUS, count) == expected


@pytest.mark.parametrize("count", range(7))
@pytest.mark.parametrize("few", range(4))
@pytest.mark.parametrize("other", range(4))
def test_switches_hold_every_head_once_and_are_as_many_as_there_can_be(count, few, other):
    induction, previous = INDUCTION[:few], PREVIOUS[:other]
    found = lay_out_switches(induction, previous, count)
    assert len(found) == min(count, few + other) or (count == 1 and few and other)
    assert len(found) <= count
    held = [head for one in found for head in one.heads]
    assert len(held) == len(set(held))
    for role, heads in (("induction", induction), ("previous_token", previous)):
        own = [head for one in found if one.role == role for head in one.heads]
        # All heads of a kind, or none of it.
        assert own == [] or sorted(own) == sorted(heads)
    if count and few:
        assert found[0].role == "induction"
    if count > 1 and other:
        assert found[-1].role == "previous_token"


def test_what_one_kind_lacks_the_other_gets():
    assert labels([(5, 1)], PREVIOUS, 4) == [
        "induction head 5.1",
        "previous-token head 2.4",
        "previous-token head 0.1",
        "previous-token head 1.1",
    ]
    assert labels([], PREVIOUS, 2) == ["previous-token head 2.4", "2 other previous-token heads"]
    assert labels(INDUCTION, [], 2) == ["induction head 5.1", "3 other induction heads"]


def test_previous_token_heads_lie_below_the_last_induction_layer():
    scores = {(0, 0): 0.5, (1, 0): 0.9, (2, 0): 0.39, (6, 0): 0.4, (7, 3): 0.8, (8, 0): 0.9}
    assert find_previous(scores, INDUCTION) == [(1, 0), (0, 0), (6, 0)]
    assert find_previous(scores, INDUCTION, most=2) == [(1, 0), (0, 0)]
    assert find_previous(scores, [(7, 0), (1, 0)]) == [(0, 0), (6, 0)]
    assert find_previous(scores, []) == [(1, 0), (8, 0), (7, 3), (0, 0), (6, 0)]


def test_settings_count_in_binary_and_heads_are_those_of_all_switches_off():
    assert every_setting(0) == [[]]
    assert every_setting(3) == [[], [0], [1], [0, 1], [2], [0, 2], [1, 2], [0, 1, 2]]
    switches = [
        Switch("induction", ((5, 1), (7, 0)), "a"),
        Switch("previous_token", ((2, 4),), "b"),
    ]
    assert heads_off(switches, [0, 1]) == [(2, 4), (5, 1), (7, 0)]
    assert heads_off(switches, []) == []
