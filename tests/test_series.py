"""Measurements of every step make one: the last good step's, with all steps in a table."""

from __future__ import annotations

from typing import Any

import pytest

from icl_bench.records.parts import Measurement, Metric
from icl_bench.records.steps import align, explain_broken, summarize


def taken(value: float, **more: Any) -> Measurement:
    metrics = {
        "score": Metric(value=value, stderr=0.1, ci_low=value - 0.2, ci_high=value + 0.2, n=4),
        "count": Metric(value=value * 10, exact=True),
    }
    return Measurement(probe="p", metrics=metrics, **{"seconds": 1.5, **more})


def failed(reason: str, status: Any = "error") -> Measurement:
    return Measurement(probe="p", status=status, reason=reason)


def test_the_last_step_stands_for_all_and_the_table_has_each() -> None:
    whole = summarize({5: taken(0.2), 1: taken(0.1), 9: taken(0.3, tables={"own": [{"a": 1}]})})
    assert whole.metrics == taken(0.3).metrics
    assert (whole.status, whole.reason, whole.seconds) == ("measured", None, 4.5)
    assert whole.tables.keys() == {"own", "steps"}
    rows = [(1, 0.1), (5, 0.2), (9, 0.3)]
    assert whole.tables["steps"] == [
        {
            "step": step,
            "score": value,
            "score_stderr": 0.1,
            "score_ci_low": value - 0.2,
            "score_ci_high": value + 0.2,
            "count": value * 10,
        }
        for step, value in rows
    ]


def test_a_metric_that_some_steps_lack_is_absent_from_their_rows() -> None:
    bare = taken(0.1)
    del bare.metrics["count"]
    whole = summarize({1: bare, 2: taken(0.2)})
    assert ["count" in row for row in whole.tables["steps"]] == [False, True]


@pytest.mark.parametrize("kept", [[True, True], [True, False], [False, False]])
def test_it_is_from_the_cache_when_every_step_is(kept: list[bool]) -> None:
    whole = summarize({step: taken(0.1, cached=one) for step, one in enumerate(kept)})
    assert whole.cached == all(kept)


def test_steps_that_broke_are_told() -> None:
    whole = summarize({1: taken(0.1), 2: failed("no"), 3: taken(0.3), 4: failed("no")})
    assert whole.metrics["score"].value == 0.3
    assert whole.tables["broken_steps"] == [
        {"step": 2, "reason": "no"},
        {"step": 4, "reason": "no"},
    ]
    assert whole.reason == (
        "2 of 4 checkpoints could not be measured, the last one among them, so the values are "
        "those of step 3: step 2, 4: no"
    )
    remark = summarize({1: taken(0.1), 2: failed("no"), 3: taken(0.3, reason="a remark")})
    told = "a remark; 1 of 3 checkpoints could not be measured: step 2: no"
    assert remark.reason == told


def test_many_broken_steps_are_counted_and_a_few_named() -> None:
    told = explain_broken(dict.fromkeys(range(9), "no") | {9: "a", 10: "b", 11: "c"}, 20, 19)
    assert told == (
        "12 of 20 checkpoints could not be measured: step 0, 1, 2 ...: no; step 9: a; step 10: b; "
        "..."
    )
    assert explain_broken({}, 20, 19) is None


@pytest.mark.parametrize(
    ("others", "status", "reason"),
    [
        ([failed("x", "skipped")] * 2, "skipped", "x"),
        ([failed("x", "skipped"), failed("x")], "error", "x"),
        ([failed("x", "skipped"), failed("y", "skipped")], "skipped", "step 0: x; step 1: y"),
        ([failed("x"), failed("x")], "error", "fewer than two of 2 checkpoints could be measured:"),
        ([taken(0.1), failed("x")], "error", "fewer than two of 2 checkpoints could be measured:"),
        ([taken(0.1), failed("x", "skipped")], "skipped", "fewer than two of 2"),
    ],
)
def test_fewer_than_two_steps_are_no_series(
    others: list[Measurement], status: str, reason: str
) -> None:
    whole = summarize(dict(enumerate(others)))
    assert whole.status == status and not whole.metrics and reason in (whole.reason or "")
    assert "steps" not in whole.tables


def test_an_interrupted_series_may_have_one_step() -> None:
    assert summarize({3: taken(0.1)}, needed=1).tables["steps"][0]["step"] == 3


def test_a_series_probe_sees_the_steps_that_have_all_its_sources() -> None:
    series = align(
        {
            "scores": {1: taken(0.1), 2: failed("no"), 3: taken(0.3), 4: taken(0.4)},
            "losses": {1: taken(1), 2: failed("neither"), 3: failed("out"), 4: taken(4)},
        },
        {1: 2.5},
    )
    assert series.steps == (1, 4)
    assert [one.metrics["score"].value for one in series.measurements["scores"]] == [0.1, 0.4]
    assert [one.metrics["score"].value for one in series.measurements["losses"]] == [1, 4]
    assert series.broken == {2: "scores: no", 3: "losses: out"}
    assert series.training_loss == {1: 2.5}


def test_a_source_that_no_step_has_takes_none_away() -> None:
    skipped = failed("no tokenizer", "skipped")
    series = align({"scores": {1: taken(0.1), 2: taken(0.2)}, "text": {1: skipped, 2: skipped}}, {})
    assert series.steps == (1, 2) and series.broken == {}
    assert series.measurements["text"] == (skipped, skipped)
