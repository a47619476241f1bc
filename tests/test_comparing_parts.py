"""The parts of a comparison hold all of it, and none of them more than its own."""

from __future__ import annotations

from typing import Any

import pytest
from test_comparing import BEFORE, record

from icl_bench.comparing import Part, compare, parse_limit
from icl_bench.records.record import RunRecord
from icl_bench.render.parts import judge_part

HIGH, LOW = Part("mine", "check", "high"), Part("mine", "check", "low")
HEADS, WHOLE = Part("mine", "heads", "repeats"), Part("mine", "complete", "mine")


def without(made: RunRecord, identity: str) -> RunRecord:
    made.checks = [check for check in made.checks if check.id != identity]
    return made


def renamed(made: RunRecord) -> RunRecord:
    made.checks[0] = made.checks[0].model_copy(update={"id": "higher"})
    return made


def unmeasured(made: RunRecord) -> RunRecord:
    del made.measurements["mine/repeats"].metrics["induction_max"]
    return made


HEAD = {"heads": [(1, 0, 0.9)]}
RUNS: dict[str, tuple[RunRecord, list[str], set[Part]]] = {
    "the same": (record(**HEAD), [], set()),
    "a score fell": (record(BEFORE - 0.2, **HEAD), [], {HIGH, LOW}),
    "a verdict fell": (record(verdict="fail", **HEAD), [], {HIGH, LOW}),
    "a verdict cannot be told": (record(verdict="inconclusive", **HEAD), [], {HIGH, LOW}),
    "a head died": (record(heads=[(1, 0, 0.1)]), [], {HEADS}),
    "a check is gone": (without(record(**HEAD), "low"), [], {WHOLE}),
    "a check has another name": (renamed(record(**HEAD)), [], {WHOLE}),
    "a metric is gone": (unmeasured(record(**HEAD)), [], {HIGH}),
    "what only a limit names fell": (
        record(BEFORE - 0.2, **HEAD),
        ["induction_max=1", "induction_control=1", "first_token_mean=0"],
        {WHOLE},
    ),
    "other settings": (record(period=3, **HEAD), [], {HIGH, LOW}),
    "pairs are missing": (record(tokens="other", **HEAD), ["paired"], {HIGH, LOW}),
}
"""What is now -> the record, limits, and the parts that fail."""


@pytest.mark.parametrize("name", RUNS)
def test_a_comparison_fails_where_one_of_its_parts_does(name: str) -> None:
    now, given, failing = RUNS[name]
    before = record(**HEAD)
    more: dict[str, Any] = {"require_paired": "paired" in given}
    limits = [parse_limit(text) for text in given if "=" in text]
    whole = compare(before, now, limits, **more)
    parts = [Part("mine", "check", check.id) for check in now.checks] + [HEADS, WHOLE]
    found = {part: compare(before, now, limits, parts=[part], **more) for part in parts}
    verdicts = {part: judge_part(part, one, before) for part, one in found.items()}
    assert {part for part, verdict in verdicts.items() if verdict.state == "fail"} == failing
    assert whole.is_worse() is bool(failing) and whole.passes() is not bool(failing)
    # Each difference is in the parts as it is in the whole, its interval and limit too.
    for kind in ("metrics", "checks", "heads"):
        of_parts = {repr(one) for part in found.values() for one in getattr(part, kind)}
        assert of_parts == {repr(one) for one in getattr(whole, kind)}
    for verdict in verdicts.values():
        assert "\n" not in verdict.line and bool(verdict.line) is (verdict.state != "pass")


def test_two_checks_on_one_metric_both_see_it_fall() -> None:
    before, now = record(), record(BEFORE - 0.2)
    for made in (before, now):
        made.checks[1] = made.checks[1].model_copy(update={"metric": "induction_max"})
    for part in (HIGH, LOW):
        assert judge_part(part, compare(before, now, parts=[part]), before).state == "fail"


def test_a_suite_that_is_not_run_is_missed_by_the_first() -> None:
    before, now = record(), record()
    for made in (before, now):
        made.suites = [made.suites[0].model_copy(update={"name": name}) for name in ("mine", "x")]
    now.suites.pop()
    before.checks[1] = before.checks[1].model_copy(update={"suite": "x"})
    now.checks.pop()
    line = judge_part(WHOLE, compare(before, now, parts=[WHOLE]), before).line
    assert "check x::low is gone" in line


def test_what_a_part_says_has_values_and_limit() -> None:
    before, now = record(), record(BEFORE - 0.2)
    line = judge_part(HIGH, compare(before, now, parts=[HIGH]), before).line
    old, new = BEFORE.mean(), BEFORE.mean() - 0.2
    assert line.startswith(f"mine/repeats.induction_max: {old:.3f} in the baseline, {new:.3f} now")
    assert line.endswith("paired, allowed 0.02 (default)")
    heads = compare(record(**HEAD), record(heads=[(1, 0, 0.1)]), parts=[HEADS])
    assert judge_part(HEADS, heads, record(**HEAD)).line == (
        "mine/repeats: induction head 1.0 died: 0.900 in the baseline, 0.100 now, threshold 0.4"
    )
