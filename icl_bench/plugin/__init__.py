"""The pytest plugin: options, collection, fixtures, terminal summary.

pytest loads this file in every project that has icl_bench installed, so it imports nothing
but pytest; the rest is loaded when an ICL option is given or a suite is collected.
"""

from __future__ import annotations

from collections.abc import Generator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from icl_bench.options import declare
from icl_bench.plugin.ids import BEFORE, NAMES, SESSION

if TYPE_CHECKING:
    from icl_bench.plugin.session import IclSession

ASKED = (
    *("icl_model", "icl_suite", "icl_baseline", "icl_save_baseline", "icl_limit"),
    *("icl_require_paired", "icl_code_quality", "icl_openmetrics"),
)
"""Options that make a run one of icl_bench. Those that need a model are here too: without one they
are refused, for a gate that compares nothing must not be green."""


def pytest_addoption(parser: pytest.Parser) -> None:
    """Declare the options; fires once at start-up."""
    group = parser.getgroup("icl_bench", "icl_bench: tests for in-context learning circuits")
    declare(group.addoption, "--icl-")


@pytest.hookimpl(trylast=True)
def pytest_configure(config: pytest.Config) -> None:
    """Check options, suites and specs before anything runs; a mistake ends in exit code 4."""
    config.addinivalue_line("markers", "icl: a check of an icl_bench suite")
    if any(map(config.getoption, ASKED)) or _names_suite(config):
        from icl_bench.plugin.startup import open_session

        icl = config.stash[SESSION] = open_session(config)
        from icl_bench.plugin.timeouts import Timeouts

        config.pluginmanager.register(Timeouts(icl), "icl_bench_timeouts")
        if not hasattr(config, "workerinput"):
            from icl_bench.plugin.crashes import Crashes

            # First, for its end to come before the reports are written.
            config.pluginmanager.register(Crashes(icl), "icl_bench_crashes")
            config.pluginmanager.register(_Gathering(icl), "icl_bench_gathering")
            config.pluginmanager.register(_Describing(icl), "icl_bench_describing")
            from icl_bench.plugin.reasons import Reasons

            config.pluginmanager.register(Reasons(icl.gathering), "icl_bench_reasons")


def _names_suite(config: pytest.Config) -> bool:
    """Whether a YAML file on the command line is a suite, a shipped one's id included."""
    if config.args_source is not pytest.Config.ArgsSource.ARGS:
        return False  # what `testpaths` lists is found on the way
    paths = [Path(str(argument).split("::")[0]) for argument in config.args]
    files = [path for path in paths if path.suffix in (".yaml", ".yml")]
    if not files:
        return False
    from icl_bench.suite.catalog import is_suite, shipped_suites

    ids = [Path("suites", path.name) for path in shipped_suites().values()]
    return any(is_suite(path) or path in ids for path in files)


def pytest_report_header(config: pytest.Config) -> list[str]:
    """Say which models and suites this run is about."""
    session = config.stash.get(SESSION, None)
    if session is None:
        return []
    from icl_bench.plugin.summary import header

    return header(session)


def pytest_collect_file(file_path: Path, parent: pytest.Collector) -> pytest.Collector | None:
    """Collect YAML files whose first key is `icl_suite:`."""
    if file_path.suffix not in (".yaml", ".yml"):
        return None
    from icl_bench.suite.catalog import is_suite

    if not is_suite(file_path):
        return None
    from icl_bench.plugin.suite_files import SuiteFile

    return SuiteFile.from_path(parent, file_path)


def pytest_itemcollected(item: pytest.Item) -> None:
    """Let `-k` find tests by their model: pytest escapes letters other than Latin in their ids."""
    if SESSION in item.config.stash and "icl_model" in getattr(item, "fixturenames", ()):
        name = getattr(getattr(item, "callspec", None), "params", {}).get("icl_model")
        item.extra_keyword_matches |= {name} if name else set()


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Put the items of one model together, so that each model is opened once."""
    session = config.stash.get(SESSION, None)
    if session and len(session.slugs) > 1:
        from icl_bench.plugin.items import group_by_model

        group_by_model(items, session.slugs)


def pytest_collection_finish(session: pytest.Session) -> None:
    """Note which checks will run; fires after the last deselection."""
    icl = session.config.stash.get(SESSION, None)
    if icl is not None:
        icl.expect(session.items)


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, Any, None]:
    """Attach what an item measured to its report; fires after each phase of an item."""
    outcome = yield
    complete = getattr(item, "complete_report", None)
    if complete is not None:
        complete(outcome.get_result(), call)


class _Gathering:
    """Registered in the process that reports, under xdist the controller.

    Args:
        icl: what gathers the results.
    """

    def __init__(self, icl: IclSession) -> None:
        self._icl = icl

    @pytest.hookimpl(optionalhook=True)
    def pytest_configure_node(self, node: Any) -> None:
        """Tell a worker of xdist what the models are called; fires before it starts."""
        job = self._icl.job
        node.workerinput[NAMES] = job.names
        if job.before is not None and job.baseline is not None:
            node.workerinput[BEFORE] = job.baseline.to_json()

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Keep what an item measured; fires for every phase of every item, also of workers."""
        self._icl.gathering.take(report)

    @pytest.hookimpl(trylast=True)
    def pytest_sessionfinish(self, session: pytest.Session, exitstatus: int) -> None:
        """Write the reports and compare.

        A run that cannot write them, that decided no check, or that got worse fails.
        """
        stopped = bool(session.shouldfail or session.shouldstop)
        told = str(session.shouldfail)
        why = told if told.startswith("session-timeout") else None  # pytest-timeout's
        good = self._icl.finish(exitstatus, stopped=stopped, why=why)
        if not good and session.exitstatus == pytest.ExitCode.OK:
            session.exitstatus = pytest.ExitCode.TESTS_FAILED


class _Describing:
    """Registered in the process that reports: properties of the whole run in JUnit XML.

    Args:
        icl: what gathers the results.
    """

    def __init__(self, icl: IclSession) -> None:
        self._icl = icl

    @pytest.hookimpl(tryfirst=True)
    def pytest_sessionfinish(self) -> None:
        """Add what is known of the models; fires before pytest writes its file."""
        self._icl.describe()


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    """Print the tables after the last item."""
    icl = config.stash.get(SESSION, None)
    if icl is None:
        return
    from icl_bench.plugin.summary import has_news, print_summary

    reasons: Any = config.pluginmanager.get_plugin("icl_bench_reasons")
    if has_news(icl.job.outcome) and reasons is not None:
        print_summary(icl.job.outcome, terminalreporter, reasons.told())


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Keep a model's items on one worker; fires on xdist's controller."""
    session = config.stash.get(SESSION, None)
    if session is None or not session.slugs or config.getoption("dist") == "each":
        return None
    from icl_bench.plugin.scheduling import ModelScheduling

    crashes: Any = config.pluginmanager.get_plugin("icl_bench_crashes")
    return ModelScheduling(config, log, session.slugs, crashes)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Give every test that asks for `icl_model` one case per model."""
    if "icl_model" not in metafunc.fixturenames:
        return
    session = metafunc.config.stash.get(SESSION, None)
    slugs = list(session.slugs) if session else []
    if slugs:
        metafunc.parametrize("icl_model", slugs, ids=slugs, indirect=True, scope="session")


@pytest.fixture(scope="session")
def icl_model(request: pytest.FixtureRequest) -> Any:
    """The model under test (`icl_bench.Model`), once for every --icl-model."""
    slug = getattr(request, "param", None)
    if slug is None:
        pytest.skip("no model given: use --icl-model=SPEC")
    return request.config.stash[SESSION].open_for_test(slug)


@pytest.fixture
def icl(icl_model: Any, request: pytest.FixtureRequest) -> Any:
    """The Python API with the model already filled in: `icl.head_scores(tokens)` ..."""
    from icl_bench.api import Bench

    options = request.config.stash[SESSION].job.request.options
    limit = options.cache_limit
    return Bench(icl_model, cache=options.cache, cache_dir=options.cache_dir, cache_limit=limit)
