"""What stands in for pytest-timeout where that is not installed: hooks and method `thread`."""

from __future__ import annotations

import os
import threading
from collections.abc import Generator
from typing import Any, NamedTuple

import pytest

PYTEST_FAILURE_MESSAGE = "Timeout (>%ss) from pytest-timeout."


class Settings(NamedTuple):
    """How long an item may take, and what happens then."""

    timeout: float
    method: str
    func_only: bool = False
    disable_debugger_detection: bool = False


class Hooks:
    """Hooks that other plugins may have."""

    @pytest.hookspec(firstresult=True)
    def pytest_timeout_set_timer(self, item: pytest.Item, settings: Settings) -> Any:
        """Set a timer; fires before an item that has a limit."""

    @pytest.hookspec(firstresult=True)
    def pytest_timeout_cancel_timer(self, item: pytest.Item) -> Any:
        """Take it back; fires after the item."""


def pytest_addhooks(pluginmanager: pytest.PytestPluginManager) -> None:
    """Make the hooks known."""
    pluginmanager.add_hookspecs(Hooks)


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None]:
    """Set a timer for an item with the marker `timeout`."""
    marker, hook = item.get_closest_marker("timeout"), item.config.hook
    if marker:
        hook.pytest_timeout_set_timer(item=item, settings=Settings(*marker.args, **marker.kwargs))
    yield
    if marker:
        hook.pytest_timeout_cancel_timer(item=item)


@pytest.hookimpl(trylast=True)
def pytest_timeout_set_timer(item: pytest.Item, settings: Settings) -> bool:
    """End the process after that time."""
    timer = threading.Timer(settings.timeout, timeout_timer, (item, settings))
    item.cancel_timeout = timer.cancel  # type: ignore[attr-defined]
    timer.start()
    return True


@pytest.hookimpl(trylast=True)
def pytest_timeout_cancel_timer(item: pytest.Item) -> bool:
    """Take the timer back."""
    item.cancel_timeout()  # type: ignore[attr-defined]
    return True


def is_debugging() -> bool:
    """Whether a debugger is at work."""
    return False


def timeout_timer(item: pytest.Item, settings: Settings) -> None:
    """End the process."""
    os._exit(1)
