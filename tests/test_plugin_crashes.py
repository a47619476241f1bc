"""A worker of xdist that dies: one check fails with the cause, the rest goes on or says why not."""

from __future__ import annotations

import os
import signal
import sys
import xml.etree.ElementTree as ElementTree
from collections import OrderedDict
from pathlib import Path

import pytest
from conftest import Stage
from waiting import finish, start, wait_until

pytest.importorskip("xdist")

GOOD = "--icl-model=stub:good"
FINE = "--icl-model=stub:fine"
DEADLY = "--icl-model=stub:deadly"

SUITE = """\
icl_suite: 1
name: mine
measure:
  first: {probe: stub}
  second: {probe: stub, tag: second, act: ACT, only: good}
  third: {probe: stub, tag: third}
checks:
  - {id: early, on: first, metric: level, above: -1}
  - {id: fatal, on: second, metric: level, above: -1}
  - {id: same, on: second, metric: exact, above: -1}
  - {id: later, on: third, metric: level, above: -1}
  - {id: again, on: first, metric: exact, above: -1}
"""
CAUSE = "model 'stub:good': the process that measured mine/second died (exit code 9): usually"
LEFT = "not run: no worker was left. " + CAUSE


def write_suite(stage: Stage, act: str = "crash") -> None:
    stage.write("mine.yaml", SUITE.replace("ACT", act))


def told(stage: Stage, slug: str = "stub-good") -> dict[str, tuple[str, str]]:
    """Check -> verdict and reason in the record, where no check may be called deselected."""
    found = {check.id: (check.verdict, check.reason or "") for check in stage.record(slug).checks}
    assert not [name for name, (_, reason) in found.items() if reason == "deselected"]
    return found


def verdicts(stage: Stage, slug: str = "stub-good") -> str:
    """First letters of the verdicts, in the order of the suite."""
    return " ".join(verdict[0] for verdict, _ in told(stage, slug).values())


@pytest.mark.parametrize("workers", ["1", "2"])
def test_one_check_fails_with_the_cause_and_the_others_go_on(stage: Stage, workers: str) -> None:
    write_suite(stage)
    result = stage.run(GOOD, "mine.yaml", "-n", workers, "--junitxml=junit.xml")
    assert result.ret == 1
    result.assert_outcomes(passed=3, errors=2)
    found = told(stage)
    assert verdicts(stage) == "p e e p p"
    assert found["fatal"][1].startswith(CAUSE)
    for advice in ("memory", "--icl-batch-size", "-n"):
        assert advice in found["fatal"][1]
    assert found["same"][1] == f"not run: {found['fatal'][1]}"
    record = stage.record("stub-good")
    assert record.status == "partial"
    assert record.measurements["mine/second"].reason == found["fatal"][1]
    # Nothing is measured twice, and what another process measured needs no model.
    assert stage.log("measured") == ["good", "good second", "good third"]
    assert len(stage.log("opened")) == 2
    assert len(stage.processes("good")) == 2
    cases = ElementTree.parse(stage.path / "junit.xml").iter("testcase")
    errors = {
        case.get("name"): [one.get("message") for one in case.iter("error")] for case in cases
    }
    assert len(errors["fatal[stub-good]"]) == len(errors["same[stub-good]"]) == 1
    assert CAUSE in str(errors["fatal[stub-good]"][0])


def test_each_measurement_that_kills_costs_one_worker(stage: Stage) -> None:
    write_suite(stage)
    text = (stage.path / "mine.yaml").read_text()
    stage.write("mine.yaml", text.replace("tag: third", "tag: third, act: crash"))
    result = stage.run(GOOD, "mine.yaml", "-n", "1")
    assert result.ret == 1
    assert verdicts(stage) == "p e e e p"
    assert "measured mine/third" in told(stage)["later"][1]
    assert stage.log("measured") == ["good", "good second", "good third"]
    # The third worker measures nothing.
    assert len(stage.log("opened")) == 2


def test_what_is_made_from_it_is_not_tried_either(
    real_stage: Stage, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    opened = tmp_path / "opened"
    monkeypatch.setenv("OPENED", str(opened))
    known = [str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, known)))
    long = "{probe: induction, control: false, sequences: 8, period: 40}"
    sets = "heads: {from: long, where: {induction: {above: 0.4}}}"
    real_stage.write(
        "mine.yaml",
        "icl_suite: 1\nname: mine\nmeasure:\n"
        f"  long: {long}\n"
        f"  off: {{probe: ablation, {sets}, null_sets: 0, sequences: 2, period: 8}}\n"
        "  short: {probe: induction, control: false, sequences: 16, period: 8}\n"
        "checks:\n"
        "  - {id: made, on: off, metric: gain, above: 0}\n"
        "  - {id: source, on: long, metric: induction_max, above: 0.4}\n"
        "  - {id: other, on: short, metric: induction_max, above: 0.4}\n",
    )
    result = real_stage.run("--icl-model=dying:big_batch", "mine.yaml", "-n", "2")
    result.assert_outcomes(passed=1, errors=2)
    found = told(real_stage, "dying-big_batch")
    cause = "model 'dying:big_batch': the process that measured mine/long died (exit code 137)"
    assert found["made"][0] == "error" and found["made"][1].startswith(cause)
    assert found["source"][0] == "error" and found["source"][1].startswith(f"not run: {cause}")
    assert found["other"] == ("pass", "")
    assert len(opened.read_text().split()) == 2


def test_when_no_worker_is_left_the_rest_says_so(stage: Stage) -> None:
    write_suite(stage)
    result = stage.run(GOOD, FINE, "mine.yaml", "-n", "1", "--max-worker-restart=0")
    assert result.ret == 1
    result.assert_outcomes(passed=1, errors=9)
    assert verdicts(stage) == "p e e e e"
    found = told(stage)
    assert found["fatal"][1].startswith(CAUSE)
    assert all(found[name][1].startswith(LEFT) for name in ("same", "later", "again"))
    # Not even begun.
    assert {reason[: len(LEFT)] for _, reason in told(stage, "stub-fine").values()} == {LEFT}
    assert stage.log("opened") == ["good"]


def test_deselected_is_said_only_of_what_was_deselected(stage: Stage) -> None:
    write_suite(stage)
    chosen = ("-k", "fatal or same or later", "--max-worker-restart=0")
    stage.run(GOOD, "mine.yaml", "-n", "1", *chosen)
    reasons = {check.id: check.reason or "" for check in stage.record("stub-good").checks}
    assert reasons["early"] == reasons["again"] == "deselected"
    assert reasons["same"].startswith(LEFT) and reasons["later"].startswith(LEFT)


@pytest.mark.parametrize("option, workers", [("-x", "1"), ("-x", "2"), ("--maxfail=2", "2")])
def test_a_dead_worker_counts_for_the_first_failures(
    stage: Stage, option: str, workers: str
) -> None:
    write_suite(stage)
    result = stage.run(GOOD, "mine.yaml", "-n", workers, option)
    assert result.ret in (1, 2)
    first = option == "-x"
    result.assert_outcomes(passed=1, errors=1 if first else 2)
    found = told(stage)
    assert found["fatal"][1].startswith(CAUSE)
    assert found["same"][1].startswith("not run: the run stopped" if first else f"not run: {CAUSE}")
    assert found["again"] == ("skipped", "not run: the run stopped early")
    assert len(stage.log("opened")) == 1


def test_a_model_that_kills_when_it_is_opened_is_opened_once(stage: Stage) -> None:
    write_suite(stage, "measure")
    stage.write("test_it.py", "def test_it(icl_model): pass")
    result = stage.run(DEADLY, FINE, "mine.yaml", "test_it.py", "-n", "2")
    assert result.ret == 1
    # The test comes first; it dies, and is none of the checks.
    result.assert_outcomes(passed=6, failed=1, errors=5)
    cause = "model 'stub:deadly': the process that opened it died (exit code 9): usually"
    result.stdout.fnmatch_lines([f"{cause}*"])
    assert {verdict for verdict, _ in told(stage, "stub-deadly").values()} == {"error"}
    for _, reason in told(stage, "stub-deadly").values():
        assert reason.startswith(f"not run: {cause}")
    assert verdicts(stage, "stub-fine") == "p p p p p"
    assert sorted(stage.log("opened")) == ["deadly", "fine"]


def test_tests_of_a_model_that_cannot_be_opened_do_not_try(stage: Stage) -> None:
    write_suite(stage, "measure")
    stage.write("test_it.py", "import pytest\n\ndef test_a(icl_model): pass\ntest_b = test_a\n")
    result = stage.run(DEADLY, "mine.yaml", "test_it.py", "-n", "1")
    result.assert_outcomes(errors=7)
    assert stage.log("opened") == ["deadly"]


def test_of_two_models_the_other_one_is_tested(stage: Stage) -> None:
    write_suite(stage)
    result = stage.run(GOOD, FINE, "mine.yaml", "-n", "1")
    assert result.ret == 1
    assert verdicts(stage) == "p e e p p"
    assert verdicts(stage, "stub-fine") == "p p p p p"
    assert stage.record("stub-fine").status == "complete"
    assert sorted(stage.log("opened")) == ["fine", "good", "good"]


@pytest.mark.skipif(os.name != "posix", reason="sends POSIX signals")
def test_a_worker_that_is_killed_from_outside(stage: Stage) -> None:
    write_suite(stage, "wait")
    command = [sys.executable, "-m", "pytest", GOOD, "mine.yaml", "-n", "1"]
    process = start(command, stage.path)
    wait_until((stage.path / "waiting").exists, process)
    os.kill(int((stage.path / "waiting").read_text()), signal.SIGKILL)
    text = finish(process)
    assert process.returncode == 1, text
    found = told(stage)
    assert verdicts(stage) == "p e e p p"
    assert "measured mine/second died (killed by signal 9, SIGKILL)" in found["fatal"][1]


def test_a_test_that_kills_its_worker_leaves_the_model_to_others(stage: Stage) -> None:
    write_suite(stage, "measure")
    stage.write(
        "test_it.py",
        "import os\n"
        "def test_before(icl_model): pass\n"
        "def test_dies(icl_model): os._exit(3)\n"
        "def test_after(icl_model): pass\n",
    )
    result = stage.run(GOOD, "mine.yaml", "test_it.py", "-n", "2")
    assert result.ret == 1
    result.assert_outcomes(passed=7, failed=1)
    result.stdout.fnmatch_lines(["*that ran test_it.py::test_dies?stub-good? died (exit code 3)*"])
    assert verdicts(stage) == "p p p p p"
    assert stage.log("opened") == ["good", "good"]


def test_tests_without_a_model_go_on_in_the_next_worker(stage: Stage) -> None:
    # One at a time: the new worker has to begin with a single item, and end with one.
    write_suite(stage, "measure")
    stage.write(
        "test_it.py",
        "import os, pytest\n"
        "@pytest.mark.parametrize('number', range(6))\n"
        "def test_it(number):\n"
        "    if number in (0, 1, 4): os._exit(3)\n",
    )
    result = stage.run(GOOD, "test_it.py", "mine.yaml", "-n", "1")
    assert result.ret == 1
    result.assert_outcomes(passed=8, failed=3)
    assert verdicts(stage) == "p p p p p"


def test_work_for_a_worker_that_is_just_dying_goes_to_another() -> None:
    from icl_bench.plugin.scheduling import ModelScheduling

    class Node:
        shutting_down, sent = False, ()

        def __init__(self, alive: bool) -> None:
            self.alive = alive

        def send_runtest_some(self, indices: list[int]) -> None:
            if not self.alive:
                raise OSError("cannot send to a closed channel")
            self.sent = (*self.sent, *indices)

        def shutdown(self) -> None:
            self.shutting_down = True

    ids = ["test_it.py::a", "test_it.py::b", "test_it.py::c"]
    scheduling = ModelScheduling.__new__(ModelScheduling)
    scheduling._slugs, scheduling.log = [], lambda *told: None  # type: ignore[assignment]
    dying, other = Node(False), Node(True)
    scheduling.assigned_work = {dying: {}, other: {}}  # type: ignore[dict-item]
    scheduling.registered_collections = {dying: ids, other: ids}  # type: ignore[dict-item]
    scheduling.workqueue = OrderedDict((one, {one: False}) for one in ids)
    for node in (dying, other, other):
        scheduling._reschedule(node)
    assert scheduling.remove_node(dying) is None
    assert sorted(other.sent) == [0, 1, 2]


def test_an_interruption_in_one_worker_is_no_death(stage: Stage) -> None:
    write_suite(stage, "interrupt")
    result = stage.run(GOOD, "mine.yaml", "-n", "1")
    assert result.ret == 2
    record = stage.record("stub-good")
    assert record.status == "interrupted"
    found = told(stage)
    assert verdicts(stage) == "p s s s s"
    assert {found[name][1] for name in ("fatal", "same", "later", "again")} == {
        "not run: interrupted"
    }
    assert stage.log("opened") == ["good"]


def test_a_run_that_a_plugin_ends_says_what_was_not_run(stage: Stage) -> None:
    write_suite(stage, "measure")
    stage.write(
        "conftest.py",
        "import pytest\n"
        "def pytest_runtest_setup(item):\n"
        "    if item.name.startswith('later'): pytest.exit('enough', returncode=7)",
    )
    result = stage.run(GOOD, "mine.yaml", "-k", "not again")
    assert result.ret == 7
    reasons = {check.id: check.reason for check in stage.record("stub-good").checks}
    assert reasons["later"] == "not run: the run ended before it"
    assert reasons["again"] == "deselected"


def test_deselected_checks_of_an_interrupted_run_are_called_that(stage: Stage) -> None:
    write_suite(stage, "interrupt")
    assert stage.run(GOOD, "mine.yaml", "-k", "not again").ret == 2
    reasons = {check.id: check.reason for check in stage.record("stub-good").checks}
    assert reasons["later"] == "not run: interrupted"
    assert reasons["again"] == "deselected"
