"""Under xdist: the same verdicts, a model on one worker, one report for each."""

from __future__ import annotations

import subprocess
import sys

import pytest
from conftest import MINE, Stage
from waiting import HANG

pytest.importorskip("xdist")

GOOD = "--icl-model=stub:good"
BAD = "--icl-model=stub:bad"

WORKERS = """\
import os, pytest
from waiting import wait_until

@pytest.mark.parametrize("number", range(8))
def test_plain(number):
    with open("workers.txt", "a") as stream:
        print(os.environ["PYTEST_XDIST_WORKER"], file=stream)
    # Whoever comes first leaves tests to the other worker.
    wait_until(lambda: len(set(open("workers.txt").read().split())) == 2)
"""


def test_verdicts_are_the_same_and_a_models_checks_stay_on_one_worker(stage: Stage) -> None:
    stage.write("more.yaml", MINE.replace("name: mine", "name: more"))
    stage.write("test_it.py", WORKERS)
    result = stage.run_apart(GOOD, BAD, ".", "-n", "2", "-v")
    result.assert_outcomes(passed=18, failed=2)
    result.stdout.fnmatch_lines(["*scheduling tests via ModelScheduling*"])
    for slug, high in (("stub-good", "pass"), ("stub-bad", "fail")):
        record = stage.record(slug)
        assert record.status == "complete"
        assert [c.verdict for c in record.checks] == [high, "pass", "pass"] * 2
        assert len(record.measurements) == 4
        assert len(stage.processes(slug.removeprefix("stub-"))) == 1
    # Once for both suites, as without workers.
    assert sorted(stage.log("measured")) == ["bad", "bad second", "good", "good second"]
    assert stage.log("held") == []
    # Tests that need no model are spread.
    assert len((stage.path / "workers.txt").read_text().split()) == 8


def test_workers_write_nothing_and_the_controller_tells_all(stage: Stage) -> None:
    stage.write(
        "conftest.py",
        "import os\n"
        "import icl_bench.reports.files as it\n"
        "write = it.write_reports\n"
        "def noted(*given):\n"
        "    print(os.environ.get('PYTEST_XDIST_WORKER', 'controller'), file=open('who', 'a'))\n"
        "    return write(*given)\n"
        "it.write_reports = noted",
    )
    stage.write("test_it.py", "def test_it(icl_model): pass")
    models = (GOOD, "--icl-model=stub:broken")
    chosen = ("--icl-suite=mine.yaml", "test_it.py", "-k", "low or test_it")
    result = stage.run(*models, "-n", "2", *chosen)
    result.assert_outcomes(passed=2, errors=2)
    result.stdout.fnmatch_lines(["model 'stub:broken': calling 'broken' failed: no such luck"])
    result.stdout.no_fnmatch_line("*Traceback*")
    result.stdout.no_fnmatch_line("*session.py*")
    assert (stage.path / "who").read_text() == "controller\n"
    told = {check.id: (check.verdict, check.reason) for check in stage.record("stub-good").checks}
    assert told["high"] == ("skipped", "deselected") and told["low"] == ("pass", None)


def test_a_worker_that_dies_is_named_in_the_record(stage: Stage) -> None:
    crash = "{probe: stub, tag: second, act: crash}"
    stage.write("mine.yaml", MINE.replace("{probe: stub, tag: second}", crash))
    result = stage.run(GOOD, "mine.yaml", "-n", "1", "--max-worker-restart=0")
    assert result.ret == 1
    record = stage.record("stub-good")
    assert record.status == "partial"
    assert [check.verdict for check in record.checks] == ["pass", "pass", "error"]
    assert "the process that measured mine/second died" in str(record.checks[2].reason)


def test_the_first_failure_stops_all_workers(stage: Stage) -> None:
    result = stage.run(BAD, "mine.yaml", "-n", "1", "-x")
    assert result.ret in (1, 2)
    record = stage.record("stub-bad")
    assert record.status == "partial"
    assert record.checks[0].verdict == "fail"
    assert record.checks[2].reason == "not run: the run stopped early"


def test_slugs_that_are_parts_of_others_are_kept_apart() -> None:
    from icl_bench.plugin.scheduling import ModelScheduling

    scheduling = ModelScheduling.__new__(ModelScheduling)
    scheduling._slugs = ["gpt2", "my-gpt2", "gpt2-xl"]
    split = scheduling._split_scope
    assert len({split(f"a.yaml::x[{slug}]") for slug in scheduling._slugs}) == 3
    assert split("b.yaml::y[gpt2]") == split("test_it.py::test[gpt2-3]") != "b.yaml::y[gpt2]"
    assert split("test_it.py::test[3-my-gpt2-4]") == split("a.yaml::x[my-gpt2]")
    assert split("test_it.py::test_gpt2") == "test_it.py::test_gpt2"
    assert split("test_it.py::test[gpt20]") == "test_it.py::test[gpt20]"


@pytest.mark.long
def test_a_real_model_gives_the_same_numbers(real_stage: Stage) -> None:
    real_stage.write(
        "test_it.py", "def test_it(icl): assert len(icl.head_scores(icl.repeated_tokens(2, 8))) > 2"
    )
    model = ("--icl-model=builtin:handwired", "--icl-no-cache", "tiny.yaml")
    real_stage.run(*model, "--icl-report-dir=plain").assert_outcomes(passed=2)
    result = real_stage.run(*model, "test_it.py", "-n", "2")
    result.assert_outcomes(passed=3)
    one = real_stage.record("builtin-handwired")
    other = real_stage.record("builtin-handwired", "../../plain/builtin-handwired/results.json")
    for key, measurement in one.measurements.items():
        for name, metric in measurement.metrics.items():
            assert metric.value == pytest.approx(other.measurements[key].metrics[name].value)
    assert one.model == other.model


def test_without_xdist_the_plugin_works(stage: Stage) -> None:
    # Not only switched off: not to be imported.
    code = (
        "import sys, pytest\n"
        "class Refuse:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name.startswith('xdist'): raise ModuleNotFoundError(name)\n"
        "sys.meta_path.insert(0, Refuse())\n"
        "sys.exit(pytest.main(['-p', 'no:xdist', '-p', 'no:xdist.looponfail', *sys.argv[1:]]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, GOOD, "mine.yaml"],
        cwd=stage.path,
        capture_output=True,
        text=True,
        timeout=HANG,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert set(stage.verdicts("stub-good").values()) == {"pass"}
