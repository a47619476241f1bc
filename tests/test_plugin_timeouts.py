"""Measurements that pytest-timeout cuts: the reason is the timeout, and nothing measured is lost.

Where pytest-timeout is not installed, its hooks are stood in for; what it raises is the same.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest
from conftest import HERE, MINE, Stage
from test_plugin_series import SERIES, series_stage
from waiting import HANG

import icl_bench
from icl_bench.models.opening.streaming import CheckpointStream
from icl_bench.records.record import RunRecord
from icl_bench.running.model_run import ModelRun

__all__ = ["series_stage"]

GOOD = "--icl-model=stub:good"
SECOND = "{probe: stub, tag: second"
TIMEOUT = "Timeout (>1.0s) from pytest-timeout."
LIMITED = """
import os, threading, time
import pytest
class Timer(threading.Timer):
    def run(self):  # not by the clock: when what takes too long has begun
        while not os.path.exists("waiting") and not self.finished.is_set():
            time.sleep(0.02)
        if not self.finished.is_set():
            self.function(*self.args)
threading.Timer = Timer
def pytest_collection_modifyitems(items):
    for item in items:
        if item.name.split("[")[0] in ("low", "test_wait"):
            item.add_marker(pytest.mark.timeout(1.0, method="thread"))
"""
TEST = """
import pathlib, threading
def test_wait():
    pathlib.Path("waiting").touch()
    threading.Event().wait()
"""
MORE = """\
  - {id: again, on: second, metric: exact, above: -1}
  - {id: last, on: first, metric: exact, above: -1}
"""


@pytest.fixture
def limited(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> Stage:
    """A suite whose second measurement waits for ever; the check that asks for it has a limit."""
    stage.write("mine.yaml", MINE.replace(SECOND, f"{SECOND}, act: wait") + MORE)
    stage.write("conftest.py", LIMITED)
    if importlib.util.find_spec("pytest_timeout") is None:
        shutil.copy(HERE / "pytest_timeout_standin.py", stage.path / "pytest_timeout.py")
        monkeypatch.setenv("PYTEST_PLUGINS", "stub,pytest_timeout")
        paths = [str(stage.path), os.environ["PYTHONPATH"]]
        monkeypatch.setenv("PYTHONPATH", os.pathsep.join(paths))
    return stage


def told(record: RunRecord) -> dict[str, tuple[str, str | None]]:
    return {check.id: (check.verdict, check.reason) for check in record.checks}


def junit(stage: Stage) -> dict[str, tuple[str | None, list[tuple[str, str]]]]:
    """Name of a case -> what its error says, and its properties."""
    found = {}
    for case in ET.parse(stage.path / "out.xml").getroot().iter("testcase"):
        error = case.find("error")
        properties = [
            (str(one.get("name")), str(one.get("value"))) for one in case.iter("property")
        ]
        found[str(case.get("name"))] = (error.text if error is not None else None, properties)
    return found


def test_a_timeout_that_ends_the_process_leaves_what_was_measured(limited: Stage) -> None:
    result = limited.run_apart(GOOD, "mine.yaml", "--junitxml=out.xml")
    assert result.ret == 1
    record = limited.record("stub-good")
    assert record.status == "interrupted"
    assert record.measurements["mine/first"].status == "measured"
    assert record.measurements["mine/second"].reason == TIMEOUT
    assert told(record) == {
        "high": ("pass", None),
        "there": ("pass", None),
        "low": ("error", TIMEOUT),
        "again": ("skipped", f"not run: {TIMEOUT}"),
        "last": ("skipped", f"not run: {TIMEOUT}"),
    }
    assert (limited.path / "reports/stub-good/report.html").exists()
    cases = junit(limited)
    error, properties = cases["low[stub-good]"]
    assert error == TIMEOUT and ("icl.reason", TIMEOUT) in properties
    assert len(properties) == len(dict(properties))
    assert (
        cases["high[stub-good]"][0] is None and ("icl.value", "1.0") in cases["high[stub-good]"][1]
    )
    result.stdout.fnmatch_lines(["*stub:good*interrupted run*", "*results.json*"])


def test_a_timeout_that_ends_a_worker_is_the_reason(limited: Stage) -> None:
    pytest.importorskip("xdist")
    result = limited.run(GOOD, "mine.yaml", "-n", "1", "--junitxml=out.xml")
    assert result.ret == 1
    result.assert_outcomes(passed=3, errors=2)
    record = limited.record("stub-good")
    assert record.status == "complete"
    assert told(record) == {
        **dict.fromkeys(("high", "there", "last"), ("pass", None)),
        **dict.fromkeys(("low", "again"), ("error", TIMEOUT)),
    }
    assert limited.log("measured").count("good second") == 1
    assert junit(limited)["low[stub-good]"][0] == TIMEOUT


def test_a_test_of_the_project_that_ends_the_process_leaves_what_was_measured(
    limited: Stage,
) -> None:
    limited.write("mine.yaml", MINE)
    limited.write("test_it.py", TEST)
    limited.write("conftest.py", LIMITED.replace('"low", ', ""))
    result = limited.run_apart(GOOD, "mine.yaml", "test_it.py", "--junitxml=out.xml")
    assert result.ret == 1
    record = limited.record("stub-good")
    assert {check.verdict for check in record.checks} == {"pass"}
    assert junit(limited)["test_wait"][0] == TIMEOUT


def test_opening_that_ends_a_worker_is_not_tried_again(limited: Stage) -> None:
    pytest.importorskip("xdist")
    limited.write("mine.yaml", MINE)
    limited.write(
        "conftest.py",
        LIMITED.replace('"low"', '"high"') + "import pathlib, stub\n"
        "from icl_bench.running.model_run import ModelRun\n"
        "def opener(*_):\n"
        "    stub.log('opening')\n"
        "    pathlib.Path('waiting').touch()\n"
        "    threading.Event().wait()\n"
        "def pytest_sessionstart(session):\n"
        "    ModelRun.model = property(lambda run: (setattr(run.lazy, '_opener', opener),\n"
        "                                           run.lazy.open())[1])\n",
    )
    assert limited.run(GOOD, "mine.yaml", "-n", "1").ret == 1
    assert len(limited.log("opening")) == 1
    broken = f"model 'stub:good': opening it was broken off: {TIMEOUT}"
    found = told(limited.record("stub-good"))
    assert found.pop("high") == ("error", TIMEOUT)
    assert set(found.values()) == {("error", broken)}


def test_a_timeout_between_measurements_is_the_reason_too(stage: Stage) -> None:
    stage.write(
        "conftest.py",
        "import pytest\n"
        "@pytest.hookimpl(tryfirst=True)\n"
        "def pytest_runtest_setup(item):\n"
        f"    if item.name.startswith('low'): pytest.fail({TIMEOUT!r})\n",
    )
    assert stage.run(GOOD, "mine.yaml").ret == 1
    verdict, reason = told(stage.record("stub-good"))["low"]
    assert verdict == "error" and str(reason).endswith(TIMEOUT)


def test_a_limit_of_the_whole_session_is_the_reason_for_what_was_not_run(stage: Stage) -> None:
    reason = "session-timeout: 1.0 sec exceeded"
    stage.write(
        "conftest.py",
        "import pytest\n"
        "@pytest.hookimpl(trylast=True, hookwrapper=True)\n"
        "def pytest_runtest_protocol(item):\n"
        "    yield\n"
        f"    item.session.shouldfail = {reason!r}\n",
    )
    assert stage.run(GOOD, "mine.yaml").ret == 1
    found = told(stage.record("stub-good"))
    assert found["high"] == ("pass", None)
    assert found["low"] == ("skipped", f"not run: {reason}")


def test_what_no_check_reads_may_time_out_and_the_check_before_it_stands(stage: Stage) -> None:
    suite = MINE.replace(SECOND, f"{SECOND}, act: time out")
    stage.write("mine.yaml", suite[: suite.index("  - {id: low")])
    assert stage.run(GOOD, "mine.yaml").ret == 0
    record = stage.record("stub-good")
    assert set(told(record).values()) == {("pass", None)}
    assert record.measurements["mine/second"].reason == TIMEOUT


def test_a_model_that_was_left_in_the_middle_of_a_change_is_opened_again(stage: Stage) -> None:
    suite = MINE.replace(SECOND, f"{SECOND}, act: time out")
    third = "  third: {probe: stub, tag: third}\n"
    after = "  - {id: after, on: third, metric: level, above: 0.5}\n"
    stage.write("mine.yaml", suite.replace("checks:", f"{third}checks:") + after)
    assert stage.run(GOOD, "mine.yaml").ret == 1
    assert told(stage.record("stub-good"))["after"] == ("pass", None)
    assert stage.log("opened") == ["good", "good"]


def test_a_run_within_a_test_ends_with_the_test(
    tiny: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def fail(*_: object, **__: object) -> None:
        measured.append(1)
        pytest.fail(TIMEOUT)

    measured: list[int] = []
    monkeypatch.setattr(ModelRun, "_take", fail)
    with pytest.raises(pytest.fail.Exception, match="from pytest-timeout"):
        icl_bench.run([tiny], "builtin:handwired", cache=False, report_dir=tmp_path)
    assert measured == [1]
    record = icl_bench.read_record(tmp_path / "builtin-handwired" / "results.json")
    assert record.status == "interrupted"
    assert record.measurements["tiny/repeats"].reason == TIMEOUT


@pytest.mark.parametrize("place", ["opening", "measuring"])
def test_a_series_that_timed_out_is_not_gone_on_with(
    series_stage: Stage, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    opened: list[str] = []
    steps: list[str] = []
    original, take = CheckpointStream.open, ModelRun._take

    def open_one(stream: CheckpointStream, spec: object, *rest: object) -> object:
        opened.append(spec.revision)  # type: ignore[attr-defined]
        if place == "opening" and len(opened) == 2:
            pytest.fail(TIMEOUT)
        return original(stream, spec, *rest)  # type: ignore[arg-type]

    def take_one(run: ModelRun, *rest: object) -> object:
        steps.append(str(run.spec.revision))
        taken = take(run, *rest)  # type: ignore[arg-type]
        if place == "measuring" and steps[-1] == "step2":
            pytest.fail(TIMEOUT)
        return taken

    monkeypatch.setattr(CheckpointStream, "open", open_one)
    monkeypatch.setattr(ModelRun, "_take", take_one)
    result = series_stage.run(SERIES, "small.yaml", "--junitxml=out.xml")
    assert result.ret == 1
    assert opened == ["step1", "step2"]
    record = series_stage.record("runs--")
    broken = "opening it was broken off: " if place == "opening" else ""
    for check in record.checks:
        assert check.verdict == "error" and TIMEOUT in str(check.reason)
        assert TIMEOUT in str(junit(series_stage)[f"{check.id}[runs--]"][0])
    assert record.measurements["small/repeats"].reason == (
        f"{TIMEOUT} (1 of 3 checkpoints were measured)"
    )
    tables = record.measurements["small/repeats"].tables
    assert [row["step"] for row in tables["steps"]] == [1]
    assert tables["broken_steps"] == [{"step": 2, "reason": f"{broken}{TIMEOUT}"}]
    assert record.measurements["small/change"].reason == TIMEOUT
    assert "Traceback" not in result.stdout.str()
    # The next run takes what was measured from the cache.
    place = ""
    assert series_stage.run(SERIES, "small.yaml").ret == 0
    assert opened[2:] == ["step2", "step3"]
    assert series_stage.record("runs--").status == "complete"


def test_torch_that_was_imported_in_part_is_not_imported_again(real_stage: Stage) -> None:
    """As by a signal; a second import would take the process down, or fail with another reason."""
    real_stage.write(
        "conftest.py",
        "import sys, pytest\n"
        "left = [1]\n"
        "def hook(event, arguments):\n"
        "    if event == 'import' and arguments[0] == 'torch.nn' and left:\n"
        "        left.clear()\n"
        f"        pytest.fail({TIMEOUT!r})\n"
        "sys.addaudithook(hook)\n",
    )
    here = [str(Path(icl_bench.__file__).parents[1]), os.environ.get("PYTHONPATH", "")]
    command = [sys.executable, "-m", "pytest", "--icl-model=builtin:handwired", "tiny.yaml"]
    done = subprocess.run(
        command,
        cwd=real_stage.path,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(here)},
        capture_output=True,
        text=True,
        timeout=HANG,
    )
    assert done.returncode == 1, done.stdout + done.stderr
    reason = f"model 'builtin:handwired': opening it was broken off: {TIMEOUT}"
    record = real_stage.record("builtin-handwired")
    assert record.measurements["tiny/repeats"].reason == reason
    assert {check.verdict for check in record.checks} == {"error"}
    assert all(str(check.reason).endswith(reason) for check in record.checks)
