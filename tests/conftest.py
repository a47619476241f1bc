"""Fixtures for tests of the pytest plugin through pytester, and of HTML reports in a browser."""

from __future__ import annotations

import importlib
import os
import pkgutil
import re
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from browser import Open, Visit, open_browser
from filelock import FileLock
from real_model import find_smollm2
from waiting import HANG

import icl_bench
from icl_bench.probes import PROBES
from icl_bench.records.record import RunRecord
from icl_bench.running.model_run import ModelRun

if TYPE_CHECKING:
    from playwright.sync_api import Browser

    from icl_bench.models.model import Model

pytest_plugins = ["pytester"]

HERE = Path(__file__).parent

MINE = """\
icl_suite: 1
name: mine
description: What the tests of the plugin run.
measure:
  first: {probe: stub}
  second: {probe: stub, tag: second}
checks:
  - {id: high, on: first, metric: level, above: 0.5, description: "Is it high?"}
  - {id: there, on: first, metric: exact, above: -1}
  - {id: low, on: second, metric: level, below: 2}
"""

TINY = """\
icl_suite: 1
name: tiny
defaults: {sequences: 16, period: 8}
measure:
  repeats: {probe: induction, control: false}
  collapse:
    probe: ablation
    heads: {from: repeats, where: {induction: {above: 0.4}}}
    null_sets: 0
checks:
  - {id: has-induction-heads, on: repeats, metric: induction_max, above: 0.4}
  - {id: copies, on: collapse, metric: gain, above: 1}
"""
"""A suite for real models, as small as one can be."""


SLOW = {
    "Chromium": (
        "html_browser html_choices html_faults html_print html_report html_text leaderboard_page"
    ),
    "many processes": (
        "benchmarks cache_limit cache_models cache_runs cache_series cache_trust ci_examples "
        "ci_github ci_gitlab ci_junit cli_streams finite leaderboard_command loading_hub "
        "plugin_baseline plugin_crashes plugin_exit_codes plugin_interrupts plugin_models "
        "plugin_progress plugin_reports plugin_series plugin_startup plugin_timeouts plugin_xdist "
        "presence progress_bars progress_workers reference_series render_outlet series_faults "
        "series_run "
        "sharding training_processes"
    ),
    "real weights, whole suites, every family, long training or many simulations": (
        "adaptive_sweep calibration choice_scores composition diff diff_command diff_restoring "
        "invariance loading_gguf logit_attribution measures_gradual ov_copying path_patching "
        "probe_icl_score probes_circuits probes_sweeps quiz_on_models real_model registry "
        "shipped_suites streaming streaming_misfits text_probes_real training_callback"
    ),
}
"""What takes its time -> the files, `test_` left out, that `make check` leaves out: those that take
about five seconds or more."""
SLOW_FILES = {f"test_{name}.py" for names in SLOW.values() for name in names.split()}

LONG = {
    "what a test beside it shows in another way to run": """
        test_ci_gitlab.py::test_pytest_writes_the_files_it_is_asked_for[workers1]
        test_ci_junit.py::test_a_check_that_is_run_again_has_its_properties_once[workers1-break]
        test_ci_junit.py::test_the_file_says_which_weights_and_versions[workers1]
        test_leaderboard_updates.py::test_so_do_workers_the_command_and_python[workers1]
        test_measured_only.py::test_pytest_has_an_item_for_each_measurement[workers1]
        test_memory.py::test_a_limit_that_is_really_hit[open]
        test_plugin_crashes.py::test_a_dead_worker_counts_for_the_first_failures[--maxfail=2-2]
        test_plugin_crashes.py::test_a_dead_worker_counts_for_the_first_failures[-x-1]
        test_plugin_crashes.py::test_one_check_fails_with_the_cause_and_the_others_go_on[1]
        test_plugin_interrupts.py::test_a_signal_while_workers_measure[2]
        test_progress_bars.py::test_bars_are_drawn_and_erased[no]
        test_progress_workers.py::test_other_ways_to_write_do_not_break[arguments0]
        test_training_callback.py::test_the_end_of_a_script_says_that_a_gate_had_stopped_it[raise]
        test_training_callback.py::test_the_end_of_a_script_says_that_a_gate_had_stopped_it[warn]
    """,
    "what a smaller or built-in model shows too": """
        test_choice_scores.py::*[real*
        test_html_choices.py::test_what_the_text_goes_on_with_is_among_the_predictions[Smol*
        test_html_print.py::test_no_part_is_wider_than_a_page[Smol*
        test_quiz_on_models.py::test_every_item_of_the_quiz_has_its_known_verdict[*-shift-2]
        test_quiz_on_models.py::test_what_is_skipped_says_why[*-shift-2]
        test_quiz_on_models.py::test_training_has_its_known_verdicts_on_a_series[*:control-1l]
        test_shipped_suites.py::test_models_with_the_circuit_fail_no_check_on_random_tokens[*:handwired]
    """,
    "many processes, one after another": """
        test_ci_examples.py::test_the_steps_of_the_workflow_do_what_they_say
        test_loading_hub.py::test_a_hub_that_is_switched_off_is_one_message_of_the_command[True]
        test_plugin_crashes.py::test_what_is_made_from_it_is_not_tried_either
    """,
}
"""Why a test is left to `make release-check` -> those tests, as patterns of their ids."""
LONG_TESTS = re.compile(
    "|".join(
        re.escape(pattern).replace(r"\*", ".*") + "$"
        for patterns in LONG.values()
        for pattern in patterns.split()
    )
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the tests of slow files, and those that only `make release-check` runs."""
    for item in items:
        if item.path.name in SLOW_FILES:
            item.add_marker("slow")
        if LONG_TESTS.match(item.nodeid.rpartition("/")[2]):
            item.add_marker("long")


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # A test that measures the same twice has to switch the cache off to do so.
    monkeypatch.setenv("ICL_BENCH_CACHE", str(tmp_path / "icl_bench-cache"))


@pytest.fixture(autouse=True)
def _no_ci(monkeypatch: pytest.MonkeyPatch) -> None:
    # These tests may run in CI themselves; what they start must not write to its page.
    for name in ("GITHUB_ACTIONS", "GITHUB_STEP_SUMMARY", "GITHUB_WORKSPACE", "CI_PROJECT_DIR"):
        monkeypatch.delenv(name, raising=False)


class Stage:
    """A folder with the suite `mine.yaml` and the stub at hand, and runs of pytest in it.

    Args:
        pytester: pytest's.
        log: file that the stub writes to.
    """

    def __init__(self, pytester: pytest.Pytester, log: Path) -> None:
        self.pytester, self.path, self._log = pytester, pytester.path, log

    def run(self, *arguments: str) -> pytest.RunResult:
        """Run pytest in this process, or in one of its own where xdist is to start workers."""
        if "-n" in arguments:
            return self.run_apart(*arguments)
        with warnings.catch_warnings():
            # As in a process of its own; here all warnings are errors.
            warnings.simplefilter("default")
            return self.pytester.runpytest_inprocess(*arguments, no_reraise_ctrlc=True)

    def run_apart(self, *arguments: str) -> pytest.RunResult:
        """Run pytest in a process of its own."""
        return self.pytester.runpytest_subprocess(*arguments, timeout=HANG)

    def write(self, name: str, text: str) -> Path:
        """Write a file and return its path."""
        path = self.path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
        return path

    def log(self, event: str = "") -> list[str]:
        """Lines of the stub's log about one event, without process ids and the event's name."""
        lines = self._log.read_text().splitlines() if self._log.exists() else []
        parted = [line.split(" ", 1)[1] for line in lines]
        return [line[len(event) :].strip() for line in parted if line.startswith(event)]

    def processes(self, name: str) -> set[str]:
        """Ids of the processes that measured the model called `name`."""
        lines = [line.split() for line in self._log.read_text().splitlines()]
        return {line[0] for line in lines if line[1:3] == ["measured", name]}

    def record(self, slug: str, file: str = "results.json") -> icl_bench.RunRecord:
        """Read the record of one model."""
        return icl_bench.read_record(self.path / "reports" / slug / file)

    def verdicts(self, slug: str, file: str = "results.json") -> dict[str, str]:
        """Check id -> verdict in the record of one model."""
        return {check.id: check.verdict for check in self.record(slug, file).checks}


@pytest.fixture
def stage(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, _loaded: None
) -> Stage:
    """A folder to run pytest in, with the suite `mine.yaml`, and the stub known to these runs."""
    # Both are put back afterwards: the stub changes them in this process when it runs here.
    monkeypatch.setitem(PROBES, "stub", "stub")
    monkeypatch.setattr(ModelRun, "model", ModelRun.model)
    monkeypatch.setenv("PYTEST_PLUGINS", "stub")
    monkeypatch.setenv("STUB_LOG", str(tmp_path / "stub.log"))
    monkeypatch.delenv("PYTEST_XDIST_WORKER", raising=False)
    known = [str(HERE), os.environ.get("PYTHONPATH", "")]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, known)))
    stage = Stage(pytester, tmp_path / "stub.log")
    stage.write("mine.yaml", MINE)
    return stage


@pytest.fixture
def real_stage(pytester: pytest.Pytester, tmp_path: Path, _opened: None) -> Stage:
    """A folder to run pytest in, with the suite `tiny.yaml` for real models."""
    stage = Stage(pytester, tmp_path / "stub.log")
    stage.write("tiny.yaml", TINY)
    return stage


@pytest.fixture
def openings(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Every model that is really opened."""
    from icl_bench.models.opening import opening

    opened: list[str] = []
    original = opening.open_model

    def count(spec: Any, *rest: Any) -> Any:
        opened.append(spec.text)
        return original(spec, *rest)

    monkeypatch.setattr(opening, "open_model", count)
    return opened


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    """The suite `tiny.yaml`, in a folder of its own."""
    path = tmp_path / "tiny.yaml"
    path.write_text(TINY)
    return path


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Chromium; where there is none the test is skipped."""
    with open_browser() as found:
        yield found


@pytest.fixture
def visit(browser: Browser, tmp_path: Path) -> Iterator[Open]:
    """Opens reports: a record, and the browser's `width`, whether it is `dark`, and `touch`."""
    from icl_bench.render.html.page import plotly_name, share_plotly
    from icl_bench.render.html.report import report_page

    visits = []

    def open_record(record: RunRecord, **how: int | bool) -> Visit:
        file = tmp_path / "report.html"
        share_plotly(tmp_path)
        file.write_text(report_page(record, plotly_name()), encoding="utf-8")
        visits.append(Visit(browser, file, **how))  # type: ignore[arg-type]
        return visits[-1]

    yield open_record
    for one in visits:
        one.close()


def plain(record: RunRecord) -> dict[str, Any]:
    """A record without what differs between two runs of the same."""
    data = record.model_dump(exclude={"created"})
    for taken in data["measurements"].values():
        del taken["cached"], taken["cached_steps"]
    return data


def unsigned(text: str) -> str:
    """A record's text without its digest, as an older version wrote it: it can then be changed."""
    return re.sub(r' "digest": "[^"]*",\n', "", text)


@pytest.fixture(scope="session")
def smollm2(tmp_path_factory: pytest.TempPathFactory) -> Model:
    """SmolLM2-135M, opened once; its float copy is made once for all workers."""
    folder = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        folder = folder.parent
    with FileLock(folder / "smollm2.lock"):
        return icl_bench.load_model(str(find_smollm2()), cache_dir=folder / "smollm2")


@pytest.fixture(scope="session")
def _loaded() -> None:
    """Import what pytester would forget after each run and every run would import again."""
    for module in pkgutil.walk_packages(icl_bench.__path__, "icl_bench."):
        importlib.import_module(module.name)


@pytest.fixture(scope="session")
def _opened(_loaded: None, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Open a model once, for what transformers loads lazily."""
    suite = tmp_path_factory.mktemp("opened") / "tiny.yaml"
    suite.write_text(TINY)
    icl_bench.run([suite], "builtin:handwired", cache=False)
