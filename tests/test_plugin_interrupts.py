"""A run that is interrupted keeps what it has measured."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from conftest import MINE, Stage

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
    process = subprocess.Popen(
        [sys.executable, "-m", "pytest", GOOD, "mine.yaml", *arguments],
        cwd=stage.path,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
        # Tests may run where the shell ignores Ctrl-C; what they start must not.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    for _ in range(1200):
        if Path(stage.path, "waiting").exists() or process.poll() is not None:
            break
        time.sleep(0.05)
    return process


@pytest.mark.skipif(os.name != "posix", reason="sends POSIX signals")
def test_ctrl_c_while_measuring(stage: Stage) -> None:
    process = start(stage)
    process.send_signal(signal.SIGINT)
    text, _ = process.communicate(timeout=60)
    assert process.returncode == 2, text
    check_kept(stage, text)


@pytest.mark.skipif(os.name != "posix", reason="sends POSIX signals")
def test_ctrl_c_while_workers_measure(stage: Stage) -> None:
    process = start(stage, "-n", "2")
    # A terminal sends it to the whole group.
    os.killpg(process.pid, signal.SIGINT)
    text, _ = process.communicate(timeout=60)
    assert process.returncode == 2, text
    check_kept(stage, text)
