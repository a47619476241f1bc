"""A baseline of another version of a suite: what the update changed is no regression."""

from __future__ import annotations

import html
import json
from pathlib import Path

import pytest
from conftest import MINE, Stage
from test_comparing import BEFORE, of, record

from icl_bench.ci.findings import of_comparison
from icl_bench.cli import main
from icl_bench.comparing import compare
from icl_bench.records.parts import BaseRef, SuiteRef
from icl_bench.records.reading import read_record
from icl_bench.records.record import RunRecord
from icl_bench.render.comparison import comparison_markdown, comparison_text


def versioned(
    version: int = 1, shipped: bool | None = True, digest: str = "0", **made: object
) -> RunRecord:
    """A record of one version of suite `mine`, as if it were a shipped one."""
    found = record(**made)
    found.suites = [
        SuiteRef(name="mine", sha256=digest * 64, version=version, shipped=shipped),
    ]
    return found


def second(shipped: bool | None = True, **made: object) -> RunRecord:
    """The second version."""
    return versioned(2, shipped, "1", **made)


def texts(found) -> tuple[str, str]:
    """The comparison as text on one line each, and as Markdown without its escapes."""
    told = html.unescape(comparison_markdown(found)).replace("\\", "")
    return comparison_text(found, width=250), told


def lose_check(made: RunRecord) -> None:
    """Take a check away."""
    made.checks.pop()


def change_rule(made: RunRecord) -> None:
    """Ask more of it, so that it fails."""
    made.checks[1] = made.checks[1].model_copy(update={"threshold": 0.99, "verdict": "fail"})


def change_metric(made: RunRecord) -> None:
    """Let it read another metric."""
    made.checks[1] = made.checks[1].model_copy(
        update={"metric": "first_token_mean", "verdict": "inconclusive"}
    )


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (lose_check, "mine::low: PASS -> gone (removed from the suite)"),
        (change_rule, "mine::low: PASS -> FAIL (its threshold has changed in the suite)"),
        (change_metric, "mine::low: PASS -> UNCLEAR (its metric has changed in the suite)"),
    ],
)
def test_what_a_new_version_of_a_shipped_suite_changed_is_noted_and_the_rest_compared(change, why):
    now, mine = second(), versioned(2, shipped=False, digest="1")
    change(now)
    change(mine)
    found = compare(versioned(), now)
    assert found.passes() and [one.state for one in found.checks][:2] == ["same", "not compared"]
    for text in texts(found):
        assert why in text and "1 not compared" in text
        assert "suite 'mine': version 1 then, version 2 now; what was changed or removed" in text
    assert of_comparison(found, {}) == []
    # In a suite of the user's own the same fails, whatever versions it states.
    assert not compare(versioned(shipped=False), mine).passes()
    # So it does in a shipped one of the same version.
    now.suites[0].version = 1
    assert not compare(versioned(), now).passes()


def test_what_is_still_asked_for_is_judged_as_before():
    worse = second(samples=BEFORE - 0.2)
    found = compare(versioned(), worse)
    assert of(found, "induction_max").state == "regressed" and not found.passes()
    assert not compare(versioned(), second(verdict="fail")).passes()
    dead = second(heads=[(1, 0, 0.03)])
    assert not compare(versioned(heads=[(1, 0, 0.78)]), dead).passes()


def test_another_setting_of_a_measurement_is_noted_and_so_are_its_checks():
    now = second(verdict="fail", period=20)
    now.checks.append(now.checks[0].model_copy(update={"id": "kept", "measurement": "mine/kept"}))
    before = versioned()
    before.checks.append(
        before.checks[0].model_copy(update={"id": "kept", "measurement": "mine/kept"})
    )
    for made in (now, before):
        made.measurements["mine/kept"] = record().measurements["mine/repeats"]
        made.checks[-1].verdict = "pass"
    found = compare(before, now)
    assert found.passes() and found.count("not compared") == 4
    assert of(found, "induction_max").reason == (
        "its settings have changed in the suite (period None, now 20)"
    )
    assert not compare(versioned(), versioned(period=20)).passes()


def test_a_measurement_that_was_removed_is_noted_and_one_that_broke_is_not():
    gone = second()
    gone.checks, gone.measurements = [gone.checks[0]], {}
    gone.checks[0] = gone.checks[0].model_copy(update={"measurement": "mine/other"})
    found = compare(versioned(), gone)
    assert {one.reason for one in found.metrics} == {"its measurement was removed from the suite"}
    broke = second(verdict="error")
    broke.measurements = {}
    found = compare(versioned(), broke)
    assert {one.state for one in found.metrics} == {"vanished"}
    assert {one.state for one in found.checks} == {"regressed"} and not found.passes()


def test_where_nothing_is_left_to_compare_the_gate_fails_and_says_so(tmp_path, capsys):
    now = second(verdict="pass", period=20)
    found = compare(versioned(), now)
    assert found.is_empty and not found.passes() and not found.passes(inconclusive_fails=False)
    for text in texts(found):
        assert "NOTHING COMPARED: what the baseline holds was changed or removed" in text
    [told] = of_comparison(found, {})
    assert told.level == "error" and "renew the baseline" in told.message
    before, after = tmp_path / "a.json", tmp_path / "b.json"
    versioned().write(before)
    now.write(after)
    assert main(["compare", str(before), str(after), f"--json={tmp_path / 'c.json'}"]) == 1
    assert "NOTHING COMPARED" in capsys.readouterr().out
    assert json.loads((tmp_path / "c.json").read_text())["passed"] is False


@pytest.mark.parametrize(
    ("then", "now", "passes"),
    [
        (True, True, True),
        (None, True, True),  # a baseline of before records said so
        (True, None, True),
        (None, None, False),
        (False, True, False),  # a suite of the user's own that was called so
        (True, False, False),
    ],
)
def test_a_suite_is_shipped_where_a_record_says_so_and_none_denies_it(then, now, passes):
    after = second(shipped=now)
    lose_check(after)
    assert compare(versioned(shipped=then), after).passes() is passes


def test_versions_of_a_user_s_suite_are_named():
    found = compare(versioned(shipped=False), second(shipped=False))
    assert "suite 'mine' has changed since the baseline: version 1 then, version 2 now" in (
        found.remarks
    )


def test_a_record_of_before_versions_is_of_version_1():
    old = read_record(Path(__file__).parent / "records" / "schema-1.json")
    assert [(suite.version, suite.shipped) for suite in old.suites] == [(1, None)]


def test_a_run_records_its_suite_s_version(stage: Stage) -> None:
    good = ["--icl-model=stub:good", "mine.yaml"]
    stage.run(*good)
    [suite] = stage.record("stub-good").suites
    assert (suite.version, suite.shipped) == (1, False)
    stage.run(*good, "--icl-save-baseline=base.json")
    stage.write("mine.yaml", MINE.replace("name: mine", "name: mine\nversion: 3"))
    result = stage.run(*good, "--icl-baseline=base.json")
    assert result.ret == 0 and stage.record("stub-good").suites[0].version == 3
    result.stdout.fnmatch_lines(["*'mine' has changed since*version 1 then, version 3*"])
    report = (stage.path / "reports" / "stub-good" / "report.md").read_text()
    assert "suite mine version | 3" in report


def test_a_new_version_of_a_shipped_suite_under_pytest(stage: Stage, monkeypatch) -> None:
    monkeypatch.setattr("icl_bench.suite.catalog.shipped_folder", lambda: stage.path)
    good = ["--icl-model=stub:good", "mine.yaml"]
    stage.run(*good, "--icl-save-baseline=base.json")
    head = "name: mine\nversion: 2"
    text = MINE.replace("name: mine", head).replace("above: 0.5", "above: 2")
    stage.write("mine.yaml", text.replace("second, metric: level", "second, metric: exact"))
    result = stage.run(*good, "--icl-baseline=base.json", "--icl-inconclusive=warn")
    result.stdout.fnmatch_lines(
        [
            "mine::high: PASS -> FAIL (its threshold has changed in the suite)",
            "mine::low: PASS -> PASS (its metric has changed in the suite)",
            "no regression: 2 not compared, *",
        ]
    )
    result = stage.run(*good, "--icl-baseline=base.json", "-k", "there")
    assert result.ret == 0
    result.stdout.fnmatch_lines(["no regression: *"])


def extending(version: int, own: tuple[str, ...] = (), digest: str = "0", **made: object):
    """A record of the user's suite `mine`, which extends a version of a shipped one."""
    found = versioned(1, False, digest, **made)
    base = BaseRef(name="core", sha256=digest * 64, version=version, shipped=True)
    found.suites[0] = found.suites[0].model_copy(update={"extends": [base], "own": list(own)})
    return found


@pytest.mark.parametrize("change", [lose_check, change_rule, change_metric])
def test_what_an_update_changed_in_a_suite_that_is_extended_is_noted(change):
    now, same, own = extending(2, digest="1"), extending(1, digest="1"), extending(2, ("low",), "1")
    for one in (now, same, own):
        change(one)
    found = compare(extending(1), now)
    assert found.passes() and [one.state for one in found.checks][:2] == ["same", "not compared"]
    for text in texts(found):
        assert "suite 'mine' extends 'core': version 1 then, version 2 now; what was" in text
    # Where the shipped suite is the same, or the user's file says it, it fails.
    assert not compare(extending(1), same).passes()
    assert not compare(extending(1), own).passes()
    assert not compare(extending(1, ("low",)), now).passes()
