"""JUnit XML: numbers of each check as properties, under xdist and for hostile names too."""

from __future__ import annotations

import importlib.util
import xml.etree.ElementTree as ET

import pytest
from conftest import MINE, Stage
from test_render_records import make_record

import icl_bench
from icl_bench.ci.junit import case_properties, file_properties

GOOD = "--icl-model=stub:good"
BAD = "--icl-model=stub:bad"


def cases(stage: Stage) -> dict[str, dict[str, str]]:
    """Name of a test case -> its properties, as any reader of the file sees them."""
    root = ET.parse(stage.path / "out.xml").getroot()
    return {
        str(case.get("name")): {
            str(p.get("name")): str(p.get("value")) for p in case.iterfind("properties/property")
        }
        for case in root.iter("testcase")
    }


def whole(stage: Stage) -> dict[str, str]:
    """Properties of the test suite."""
    root = ET.parse(stage.path / "out.xml").getroot()
    found = root.iterfind("testsuite/properties/property")
    return {str(p.get("name")): str(p.get("value")) for p in found}


@pytest.mark.parametrize("workers", [[], ["-n", "2"]])
def test_each_check_has_its_numbers(stage: Stage, workers: list[str]) -> None:
    if workers:
        pytest.importorskip("xdist")
    stage.run(GOOD, BAD, "mine.yaml", "--junitxml=out.xml", *workers)
    found = cases(stage)
    assert len(found) == 6
    high = found["high[stub-bad]"]
    assert high.pop("icl.reason").startswith("required > 0.5")
    assert high == {
        "icl.model": "stub:bad",
        "icl.suite": "mine",
        "icl.metric": "level",
        "icl.value": "0.0",
        "icl.ci_low": "-0.02",
        "icl.ci_high": "0.02",
        "icl.rule": "above",
        "icl.threshold": "0.5",
        "icl.verdict": "fail",
    }
    assert "icl.reason" not in found["high[stub-good]"]
    assert "icl.ci_low" not in found["there[stub-good]"]
    assert whole(stage)["icl.icl_bench"] == icl_bench.__version__


RERUNS = """
from _pytest.runner import runtestprotocol
def pytest_runtest_protocol(item, nextitem):
    item.ihook.pytest_runtest_logstart(nodeid=item.nodeid, location=item.location)
    for attempt in (1, 2, 3):
        item._initrequest() if hasattr(item, "_initrequest") else None
        reports = runtestprotocol(item, nextitem=nextitem, log=False)
        failed = any(report.failed for report in reports)
        for report in reports:
            if report.failed and attempt < 3:
                report.outcome = "rerun"
            item.ihook.pytest_runtest_logreport(report=report)
        if not failed:
            break
    return True
"""
"""What pytest-rerunfailures does, where that is not installed."""


@pytest.mark.parametrize("act", ["measure", "break"])
@pytest.mark.parametrize("workers", [[], ["-n", "1"]])
def test_a_check_that_is_run_again_has_its_properties_once(
    stage: Stage, act: str, workers: list[str]
) -> None:
    if workers:
        pytest.importorskip("xdist")
    there = importlib.util.find_spec("pytest_rerunfailures")
    if not there:
        stage.write("conftest.py", RERUNS)
    stage.write("mine.yaml", MINE.replace("{probe: stub}", f"{{probe: stub, act: {act}}}"))
    options = ["--reruns=2"] if there else []
    stage.run(BAD, "mine.yaml", "--junitxml=out.xml", *options, *workers)
    for _ in ("", "--lf"):
        root = ET.parse(stage.path / "out.xml").getroot()
        found = [case for case in root.iter("testcase") if case.get("name") == "high[stub-bad]"]
        assert found
        for case in found:
            names = [one.get("name") for one in case.iterfind("properties/property")]
            assert "icl.verdict" in names and len(names) == len(set(names))
        shared = [one.get("name") for one in root.iterfind("testsuite/properties/property")]
        assert len(shared) == len(set(shared))
        stage.run(BAD, "mine.yaml", "--lf", "--junitxml=out.xml", *options, *workers)


def test_skipped_and_broken_checks_say_so(stage: Stage) -> None:
    stage.write("mine.yaml", MINE.replace("{probe: stub}", "{probe: stub, act: break}"))
    stage.run(GOOD, "mine.yaml", "--junitxml=out.xml")
    high = cases(stage)["high[stub-good]"]
    assert high["icl.verdict"] == "error" and "the stub broke" in high["icl.reason"]
    assert "icl.value" not in high


@pytest.mark.parametrize("workers", [[], ["-n", "1"]])
def test_the_file_says_which_weights_and_versions(real_stage: Stage, workers: list[str]) -> None:
    if workers:
        pytest.importorskip("xdist")
    real_stage.run("--icl-model=builtin:handwired", "tiny.yaml", "--junitxml=out.xml", *workers)
    record = real_stage.record("builtin-handwired")
    told = whole(real_stage)
    assert told["icl.model.builtin-handwired.fingerprint"] == record.model.fingerprint
    assert told["icl.torch"] == record.environment.torch
    assert told["icl.suite.tiny.sha256"] == record.suites[0].sha256
    assert told == dict(file_properties([record]))


def test_hostile_text_leaves_the_file_valid(stage: Stage) -> None:
    hostile = r'"Is it <b> & \u0007 \u202e ]]> \\ud800?\n::error::x"'
    text = MINE.replace('"Is it high?"', hostile).replace("level, above: 0.5", "level, above: 7")
    stage.write("mine.yaml", text)
    result = stage.run(GOOD, "mine.yaml", "--junitxml=out.xml")
    assert result.ret == 1
    assert cases(stage)["high[stub-good]"]["icl.verdict"] == "fail"


def test_properties_are_single_lines_of_what_is_known() -> None:
    check = (
        make_record().checks[0].model_copy(update={"reason": "a\n::b\x00\x1b[31m", "value": None})
    )
    told = dict(case_properties(check, "m"))
    assert told["icl.reason"] == "a ::b[31m" and "icl.value" not in told


def test_without_the_option_nothing_is_written(stage: Stage) -> None:
    assert stage.run(GOOD, "mine.yaml").ret == 0
    assert not list(stage.path.glob("*.xml"))
