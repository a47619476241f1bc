"""What became of checks and suites between two records: in every state, and in what order."""

from __future__ import annotations

import pytest
from test_comparing import record

from icl_bench.comparing import compare
from icl_bench.comparing.comparison import Comparison, VerdictChange
from icl_bench.comparing.heads import HeadChange
from icl_bench.comparing.metrics import MetricChange
from icl_bench.comparing.versions import changed_check, changed_measurement, find_renewed
from icl_bench.records.parts import BaseRef, SuiteRef

KEY = "mine/repeats"
TELLS = {
    ("new", None, "pass"): False,
    ("not compared", "pass", "fail"): False,
    ("regressed", "skipped", "error"): True,
    ("vanished", "inconclusive", None): True,
    ("unclear", "pass", "inconclusive"): True,
    ("improved", "error", "pass"): True,
    ("same", "pass", "pass"): True,
    ("same", "fail", "fail"): True,
    ("same", "skipped", "skipped"): False,
    ("changed", "inconclusive", "fail"): False,
    ("changed", "fail", "fail"): True,
}


@pytest.mark.parametrize("case", TELLS)
def test_two_verdicts_tell_something_where_both_are_decided_or_one_is_worse(case):
    change = VerdictChange("mine", "c", *case)
    assert change.tells is TELLS[case]
    found = Comparison("a", "b", checks=[change])
    assert found.tells is TELLS[case] and found.is_empty is not TELLS[case]


def of_metric(state):
    return MetricChange(KEY, "m", state, 1.0)


@pytest.mark.parametrize(
    ("parts", "worse", "worse_if_strict"),
    [
        ({}, False, False),
        ({"metrics": [of_metric("same"), of_metric("improved")]}, False, False),
        ({"metrics": [of_metric("not compared")]}, False, False),
        ({"metrics": [of_metric("same"), of_metric("regressed")]}, True, True),
        ({"metrics": [of_metric("vanished")]}, True, True),
        ({"metrics": [of_metric("unpaired")]}, True, True),
        ({"metrics": [of_metric("unclear")]}, False, True),
        ({"checks": [VerdictChange("s", "c", "unclear", "pass", "error")]}, False, True),
        ({"checks": [VerdictChange("s", "c", "vanished", "pass", None)]}, True, True),
        ({"checks": [VerdictChange("s", "c", "changed", "fail", "skipped")]}, False, False),
        ({"heads": [HeadChange(KEY, "induction", 0, 1, "weaker", 0.9, 0.5)]}, False, False),
        ({"heads": [HeadChange(KEY, "induction", 0, 1, "died", 0.9, 0.3)]}, True, True),
        ({"heads": [HeadChange(KEY, "induction", 0, 1, "gone", 0.9, None)]}, True, True),
    ],
)
def test_a_comparison_is_worse_where_one_of_its_parts_is(parts, worse, worse_if_strict):
    found = Comparison("a", "b", **parts)
    assert (found.is_worse(False), found.is_worse(True)) == (worse, worse_if_strict)
    assert found.is_worse() is worse_if_strict
    empty = bool(parts) and not found.tells
    assert found.is_empty is empty
    assert found.passes(False) is not (worse or empty)
    assert found.passes() is not (worse_if_strict or empty)
    data = found.as_data()
    assert data["passed"] is found.passes() and found.as_data(False)["passed"] is found.passes(
        False
    )
    assert [one["state"] for one in data["metrics"]] == [one.state for one in found.metrics]
    for state in ("same", "vanished", "unclear"):
        every = [one.state for one in (*found.checks, *found.metrics)]
        assert found.count(state) == every.count(state)


def test_remarks_tell_everything_that_may_explain_a_difference_in_order():
    before, now = record(heads=[(0, 0, 0.9)], seed=0), record(seed=1, period=3)
    for one, word in ((before, "old"), (now, "new")):
        one.model.fingerprint = "same"
        one.model.dtype, one.model.attention = f"{word}32", word
        one.environment.torch, one.environment.transformers = f"{word}.1", f"{word}.2"
        one.environment.device = word
        object.__setattr__(one, "doubt", f"no digest ({word})")
        one.status = "partial" if word == "old" else "interrupted"
        one.measurements["mine/more"] = record(seed=word).measurements[KEY]
        one.suites[0].sha256 = word * 20
    before.measurements["mine/x"] = record(seed=9).measurements[KEY]
    assert compare(before, now).remarks == [
        f"heads of {KEY} are not compared: settings differ (period None, now 3)",
        "suite 'mine' has changed since the baseline",
        "other tokens, not paired: seed 0, now 1; seed old, now new",
        "both records are of the same weights",
        "dtype old32, now new32",
        "attention old, now new",
        "torch old.1, now new.1",
        "transformers old.2, now new.2",
        "device old, now new",
        "the baseline has no digest (old)",
        "this run has no digest (new)",
        "the baseline is partial",
        "this run is interrupted",
    ]
    assert compare(record(), record()).remarks == []
    for fingerprints in (("a", "b"), ("a", None), (None, "a")):
        pair = record(), record()
        for one, fingerprint in zip(pair, fingerprints):
            one.model.fingerprint = fingerprint
        assert compare(*pair).remarks == []


ASKED = {
    "kind": "quiz",
    "measurement": "mine/other",
    "metric": "induction_mean",
    "rule": "below",
    "threshold": 0.5,
    "question": "Q?",
    "options": {"a": "A"},
    "expected": "a",
}


@pytest.mark.parametrize("name", ASKED)
def test_a_check_asks_something_else_where_one_of_its_fields_is_another(name):
    made = record()
    old = made.checks[0]
    assert changed_check(old, old, made, made) is None
    assert changed_check(old, None, made, made) == "removed from the suite"
    new = old.model_copy(update={name: ASKED[name]})
    assert changed_check(old, new, made, made) == f"its {name} has changed in the suite"
    other = old.model_copy(update={"verdict": "fail", "value": 3.0, "description": "d"})
    assert changed_check(old, other, made, made) is None
    for ref in (made.suites[0], record().suites[0]):
        owned = record()
        owned.suites = [ref.model_copy(update={"own": ["high"]})]
        assert changed_check(old, new, made, owned) is None
        assert changed_check(old, new, owned, made) is None
    elsewhere = record()
    elsewhere.suites.append(SuiteRef(name="x", sha256="0", own=["high"]))
    assert changed_check(old, new, made, elsewhere) is not None


def test_a_measurement_is_another_where_its_settings_are_and_both_were_taken():
    before, now = record().measurements[KEY], record(period=3)
    told = "its settings have changed in the suite (period None, now 3)"
    assert changed_measurement(KEY, before, now) == told
    assert changed_measurement(KEY, before, record(tokens="x")) is None
    for status in ("skipped", "error"):
        assert changed_measurement(KEY, before.model_copy(update={"status": status}), now) is None
        broken = record(period=3)
        broken.measurements[KEY].status = status
        assert changed_measurement(KEY, before, broken) is None
    now.suites[0].own = ["repeats"]
    assert changed_measurement(KEY, before, now) is None
    gone = record()
    del gone.measurements[KEY]
    assert changed_measurement(KEY, before, gone) is None
    gone.checks.clear()
    assert changed_measurement(KEY, before, gone) == "its measurement was removed from the suite"


def extends(*bases):
    made = record()
    made.suites = [
        SuiteRef(
            name="mine",
            sha256=repr(bases).ljust(64, "0")[:64],
            shipped=False,
            version=7,
            extends=[
                BaseRef(name=name, sha256="0", version=version, shipped=shipped)
                for name, version, shipped in bases
            ],
        )
    ]
    return made


@pytest.mark.parametrize(
    ("then", "now", "renewed"),
    [
        ([("core", 1, True)], [("core", 2, True)], ("core", 1, 2)),
        ([("core", 3, True)], [("core", 1, True)], ("core", 3, 1)),
        ([("core", 1, True)], [("core", 1, True)], None),
        ([("core", 1, False)], [("core", 2, False)], None),
        ([("core", 1, True)], [("core", 2, False)], None),
        ([("core", 1, False)], [("core", 2, True)], None),
        ([("own", 1, False), ("core", 1, True)], [("own", 2, False), ("core", 5, True)],
         ("core", 1, 5)),
        ([("core", 1, True), ("more", 1, True)], [("core", 1, True), ("more", 2, True)],
         ("more", 1, 2)),
        ([("core", 1, True)], [("new", 4, True), ("core", 1, True)], None),
        ([], [("core", 2, True)], None),
    ],
)  # fmt: skip
def test_a_suite_is_renewed_with_the_shipped_one_that_it_extends(then, now, renewed):
    old, new = extends(*then), extends(*now)
    assert find_renewed(old, new) == ({"mine": renewed[1:]} if renewed else {})
    told = "; what was changed or removed in it is not compared: renew the baseline"
    remarks = compare(old, new).remarks
    if renewed:
        name, before, after = renewed
        assert remarks == [
            f"suite 'mine' extends {name!r}: version {before} then, version {after} now{told}"
        ]
    elif then == now:
        assert remarks == []
    else:
        assert remarks == ["suite 'mine' has changed since the baseline"]


def test_remarks_on_suites_come_by_name_and_tell_of_versions_alone_too():
    before, now = record(), record()
    before.suites = [SuiteRef(name=name, sha256="0", shipped=True) for name in ("mine", "b", "a")]
    now.suites = [
        SuiteRef(name="mine", sha256="0", version=2, shipped=True),
        SuiteRef(name="c", sha256="1"),
        SuiteRef(name="b", sha256="0", version=2, shipped=False),
        SuiteRef(name="a", sha256="0", shipped=True),
    ]
    assert compare(before, now).remarks == [
        "suite 'b' has changed since the baseline: version 1 then, version 2 now",
        "suite 'mine': version 1 then, version 2 now; what was changed or removed in it is not "
        "compared: renew the baseline",
    ]
