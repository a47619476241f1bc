"""pytest-timeout's method `thread`, which ends the process: what was measured is written before.

Its method `signal` fails the item that took too long and lets the run go on; nothing is needed for
that here.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pytest

from icl_bench.plugin.ids import PAYLOAD
from icl_bench.plugin.items import CheckItem, MeasurementItem

if TYPE_CHECKING:
    from icl_bench.plugin.session import IclSession

_PATIENCE = 60.0
"""Seconds that writing may take: what hangs may hold what writing needs, as an import does."""


class Timeouts:
    """Registered in every process that measures.

    Args:
        icl: the run.
    """

    def __init__(self, icl: IclSession) -> None:
        self._icl = icl

    @pytest.hookimpl(optionalhook=True, tryfirst=True)
    def pytest_timeout_set_timer(self, item: pytest.Item, settings: Any) -> bool | None:
        """Set a timer of our own where pytest-timeout's would end the process."""
        module = sys.modules.get("pytest_timeout")
        end: Callable[..., None] | None = getattr(module, "timeout_timer", None)
        alone = threading.current_thread() is threading.main_thread()
        if end is None or (settings.method == "signal" and alone):
            return None
        timer = threading.Timer(settings.timeout, self._end, (item, settings, module))

        def cancel() -> None:
            timer.cancel()
            timer.join()

        item.cancel_timeout = cancel  # type: ignore[attr-defined]
        timer.start()
        return True

    def _end(self, item: pytest.Item, settings: Any, module: Any) -> None:
        if settings.disable_debugger_detection or not module.is_debugging():
            why = module.PYTEST_FAILURE_MESSAGE % settings.timeout
            saver = threading.Thread(target=self._save, args=(item, why), daemon=True)
            saver.start()
            saver.join(_PATIENCE)
        module.timeout_timer(item, settings)

    def _save(self, item: pytest.Item, why: str) -> None:
        """Write what was measured, and what the item came to; a worker sends it instead."""
        config, slug = item.config, getattr(item, "slug", None)
        capture: Any = config.pluginmanager.get_plugin("capturemanager")
        if capture is not None:
            capture.suspend_global_capture(item)
        payload = None
        if isinstance(item, CheckItem) and slug is not None:
            check = self._icl.job.runs[slug].end_check(item.suite.name, item.spec.id, why)
            payload = item.conclude(check)
        elif isinstance(item, MeasurementItem) and slug is not None:
            self._icl.job.runs[slug].break_off(item.key, why)
            payload = self._icl.pack(slug)
        if self._icl.link is not None:
            self._icl.link.say_last(why, payload)
            return
        report = pytest.TestReport(
            item.nodeid,
            item.location,
            {},
            "failed",
            longrepr=why,
            when="setup",
            user_properties=item.user_properties,
        )
        setattr(report, PAYLOAD, payload)
        config.hook.pytest_runtest_logreport(report=report)
        self._icl.finish(pytest.ExitCode.INTERRUPTED, stopped=False, why=why)
        terminal: Any = config.pluginmanager.get_plugin("terminalreporter")
        if terminal is not None:
            from icl_bench.plugin.summary import print_summary

            print_summary(self._icl.job.outcome, terminal, ())
        self._icl.describe()
        for plugin in config.pluginmanager.get_plugins():
            if hasattr(plugin, "add_global_property"):  # pytest's JUnit XML
                plugin.pytest_runtest_logreport(
                    pytest.TestReport(
                        item.nodeid,
                        item.location,
                        {},
                        "passed",
                        None,
                        "teardown",
                        user_properties=item.user_properties,
                    )
                )
                plugin.pytest_sessionfinish()
