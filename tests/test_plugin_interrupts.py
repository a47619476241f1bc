"""A run that is interrupted keeps what it has measured."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import pytest
import waiting
from conftest import MINE, Stage
from waiting import finish, wait_until

from icl_bench.running.termination import terminable

GOOD = "--icl-model=stub:good"
SECOND = "{probe: stub, tag: second"


def check_kept(stage: Stage, text: str) -> None:
    """Check that what came before the interruption is in the record, and no trace on the screen."""
    record = stage.record("stub-good")
    assert record.status == "interrupted"
    assert list(record.measurements) == ["mine/first"]
    told = [(check.verdict, check.reason) for check in record.checks]
    assert told == [("pass", None), ("pass", None), ("skipped", "not run: interrupted")]
    assert "Traceback" not in text and "INTERNALERROR" not in text
    assert "icl_bench/" not in text.replace(f"{stage.path}", "")


def test_an_interruption_while_measuring(stage: Stage) -> None:
    stage.write("mine.yaml", MINE.replace(SECOND, f"{SECOND}, act: interrupt"))
    result = stage.run(GOOD, "mine.yaml")
    assert result.ret == 2
    check_kept(stage, result.stdout.str())
    result.stdout.fnmatch_lines(["*stub:good*interrupted run*", "*! KeyboardInterrupt !*"])


def test_an_interruption_between_items(stage: Stage) -> None:
    stage.write(
        "conftest.py",
        "def pytest_runtest_setup(item):\n"
        "    if item.name.startswith('low'): raise KeyboardInterrupt",
    )
    assert stage.run(GOOD, "mine.yaml").ret == 2
    assert stage.record("stub-good").status == "interrupted"
    assert stage.verdicts("stub-good") == {"high": "pass", "there": "pass", "low": "skipped"}


def test_an_interruption_does_not_replace_a_complete_record(stage: Stage) -> None:
    assert stage.run(GOOD, "mine.yaml").ret == 0
    stage.write("conftest.py", "def pytest_runtest_teardown(item): raise KeyboardInterrupt")
    assert stage.run(GOOD, "mine.yaml").ret == 2
    assert stage.record("stub-good").status == "complete"
    assert stage.record("stub-good", "results.partial.json").status == "interrupted"


def test_a_measurement_that_was_finished_before_the_interruption_is_kept(stage: Stage) -> None:
    # The ablation is cut short; the scores it starts from belong to no check that has run.
    stage.write(
        "mine.yaml",
        "icl_suite: 1\nname: mine\n"
        "measure:\n"
        "  scores: {probe: induction}\n"
        "  off: {probe: ablation, heads: {from: scores, top: 1}}\n"
        "checks: [{id: lost, on: off, metric: gain, above: 1}]\n",
    )
    stage.write(
        "conftest.py",
        "def pytest_runtest_makereport(item, call):\n"
        "    if call.when == 'setup': raise KeyboardInterrupt",
    )
    assert stage.run(GOOD, "mine.yaml").ret == 2
    record = stage.record("stub-good")
    assert set(record.measurements) == {"mine/scores", "mine/off"}
    assert record.checks[0].reason == "not run: interrupted"


def start(stage: Stage, *arguments: str) -> subprocess.Popen[str]:
    """Start pytest in a process group of its own and wait until it measures."""
    stage.write("mine.yaml", MINE.replace(SECOND, f"{SECOND}, act: wait"))
    process = waiting.start(
        [sys.executable, "-m", "pytest", GOOD, "mine.yaml", *arguments], stage.path
    )
    wait_until((stage.path / "waiting").exists, process)
    return process


SIGNALS = [signal.SIGINT, signal.SIGTERM]


@pytest.mark.skipif(os.name != "posix", reason="sends POSIX signals")
@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_while_measuring(stage: Stage, number: signal.Signals) -> None:
    process = start(stage)
    process.send_signal(number)
    text = finish(process)
    assert process.returncode == 2, text
    check_kept(stage, text)


@pytest.mark.skipif(os.name != "posix", reason="sends POSIX signals")
@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_while_workers_measure(stage: Stage, number: signal.Signals) -> None:
    process = start(stage, "-n", "2")
    # A terminal and a batch system send it to the whole group.
    os.killpg(process.pid, number)
    text = finish(process)
    assert process.returncode == 2, text
    check_kept(stage, text)


@pytest.mark.skipif(os.name != "posix", reason="sends POSIX signals")
def test_the_command_ends_at_sigterm_as_at_ctrl_c(stage: Stage) -> None:
    stage.write("mine.yaml", MINE.replace(SECOND, f"{SECOND}, act: wait"))
    code = "import stub, sys; stub.install(); from icl_bench.cli import main; sys.exit(main())"
    command = [sys.executable, "-c", code, "run", "stub:good", "--suite=mine.yaml"]
    process = waiting.start(command, stage.path)
    wait_until((stage.path / "waiting").exists, process)
    process.send_signal(signal.SIGTERM)
    text = finish(process)
    assert process.returncode == 2, text
    assert "icl-bench: interrupted" in text
    check_kept(stage, text)


@pytest.mark.skipif(os.name != "posix", reason="sends POSIX signals")
def test_sigterm_is_as_before_when_a_run_is_over(stage: Stage) -> None:
    def own(*_: object) -> None: ...

    before = signal.getsignal(signal.SIGTERM)
    assert stage.run(GOOD, "mine.yaml").ret == 0
    assert signal.getsignal(signal.SIGTERM) is before
    with terminable():
        assert signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGTERM)
        signal.raise_signal(signal.SIGTERM)  # what the first one saves is not lost to a second
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    signal.signal(signal.SIGTERM, own)
    try:
        with terminable():
            assert signal.getsignal(signal.SIGTERM) is own
    finally:
        signal.signal(signal.SIGTERM, before)


@pytest.mark.parametrize("workers", [(), ("-n", "1")])
def test_a_measurement_that_timed_out_is_not_tried_again_and_says_so(
    stage: Stage, workers: tuple[str, ...]
) -> None:
    suite = MINE.replace(SECOND, f"{SECOND}, act: time out")
    stage.write("mine.yaml", suite + "  - {id: again, on: second, metric: level, above: 0.5}\n")
    result = stage.run(GOOD, "mine.yaml", *workers)
    assert result.ret == 1
    assert stage.log("measured").count("good second") == 1
    record = stage.record("stub-good")
    told = [(check.verdict, check.reason) for check in record.checks if check.verdict == "error"]
    assert told == [("error", "Timeout (>1.0s) from pytest-timeout.")] * 2
    assert record.measurements["mine/second"].status == "error"
    assert "stub.py" not in result.stdout.str()


def test_opening_that_timed_out_is_not_tried_again(stage: Stage) -> None:
    stage.write(
        "conftest.py",
        "import pytest\n"
        "from icl_bench.running.lazy_model import LazyModel\n"
        "from icl_bench.running.model_run import ModelRun\n"
        "def opener(*_):\n"
        "    stub.log('opening')\n"
        "    pytest.fail('Timeout (>1.0s) from pytest-timeout.')\n"
        "import stub\n"
        "def pytest_sessionstart(session):\n"
        "    ModelRun.model = property(lambda run: (setattr(run.lazy, '_opener', opener),\n"
        "                                           run.lazy.open())[1])\n",
    )
    assert stage.run(GOOD, "mine.yaml").ret == 1
    assert len(stage.log("opening")) == 1
    assert {check.reason for check in stage.record("stub-good").checks} == {
        "model 'stub:good': opening it was broken off: Timeout (>1.0s) from pytest-timeout."
    }


def test_what_workers_sent_before_an_interruption_is_kept(stage: Stage) -> None:
    # The controller takes its time over the first report; the others come meanwhile.
    stage.write("mine.yaml", MINE.replace(SECOND, f"{SECOND}, act: wait"))
    stage.write(
        "conftest.py",
        "import os, pytest\n"
        "from waiting import wait_until\n"
        "@pytest.hookimpl(trylast=True)\n"
        "def pytest_runtest_logreport():\n"
        "    if 'PYTEST_XDIST_WORKER' not in os.environ:\n"
        "        wait_until(lambda: os.path.exists('waiting'))\n"
        "        raise KeyboardInterrupt\n",
    )
    result = stage.run_apart(GOOD, "mine.yaml", "-n", "1")
    assert result.ret == 2
    check_kept(stage, result.stdout.str())
