"""What the process that owns pytest's terminal does so that progress and pytest share it."""

from __future__ import annotations

from collections.abc import Callable, Generator
from typing import Any

import pytest

from icl_bench.progress.run import Display
from icl_bench.progress.screen import Screen, make_display
from icl_bench.progress.workers import CHANNEL, ToController, WorkersProgress


class ProgressHooks:
    """Registered in the process that reports, where there is a terminal reporter.

    Args:
        screen: pytest's terminal.
        announce: id of an item -> the line that a log gets before the first item of a model;
            None where there is none.
        workers: shows what xdist's workers send; None without workers.
    """

    def __init__(
        self,
        screen: Screen,
        announce: Callable[[str], str | None],
        workers: WorkersProgress | None,
    ) -> None:
        self._screen, self._announce, self._workers = screen, announce, workers

    @pytest.hookimpl(hookwrapper=True, tryfirst=True)
    def pytest_runtest_logstart(self, nodeid: str) -> Generator[None, Any, None]:
        """Name the model in a log; fires before an item, also of a worker."""
        with self._paused():
            if not self._screen.redraws and (line := self._announce(nodeid)):
                self._screen.write_line(line)
            yield

    @pytest.hookimpl(hookwrapper=True, tryfirst=True)
    def pytest_runtest_logreport(self) -> Generator[None, Any, None]:
        """Make room for a result; fires after each phase of an item, also of a worker."""
        with self._paused():
            yield

    @pytest.hookimpl(optionalhook=True)
    def pytest_configure_node(self, node: Any) -> None:
        """Listen to a worker of xdist; fires before it starts."""
        if self._workers is not None:
            self._workers.listen_to(node)

    @pytest.hookimpl(optionalhook=True, hookwrapper=True, tryfirst=True)
    def pytest_testnodedown(self, node: Any) -> Generator[None, Any, None]:
        """Take away the line of a worker that ended or died."""
        if self._workers is not None:
            self._workers.forget(str(node.gateway.id))
        with self._paused():
            yield

    @pytest.hookimpl(tryfirst=True)
    def pytest_sessionfinish(self) -> None:
        """Leave the terminal to pytest; fires at the end, also of an interrupted run."""
        if self._workers is not None:
            self._workers.end()
        self._screen.clear()

    def _paused(self) -> Any:
        from contextlib import nullcontext

        return nullcontext() if self._workers is None else self._workers.paused()


def show_progress(config: pytest.Config, announce: Callable[[str], str | None]) -> Display | None:
    """Return what shows the progress of this process, and see to that of xdist's workers.

    Args:
        config: pytest's.
        announce: as for `ProgressHooks`.
    """
    if hasattr(config, "workerinput"):
        channel = config.workerinput.get(CHANNEL)
        return None if channel is None else ToController(channel)
    plugins = config.pluginmanager
    reporter = plugins.get_plugin("terminalreporter")
    if reporter is None:
        return None
    distributed = config.getoption("dist", "no") != "no"
    screen = Screen(reporter, None if distributed else plugins.get_plugin("capturemanager"))
    workers = WorkersProgress(screen) if distributed else None
    plugins.register(ProgressHooks(screen, announce, workers), "icl_bench_progress")
    return None if distributed else make_display(screen)
