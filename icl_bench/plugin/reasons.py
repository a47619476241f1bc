"""Each reason once: in pytest's sections of failures and errors, and nowhere else."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from copy import copy
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from icl_bench.plugin.gathering import Gathering

CheckKey = tuple[str, str]
"""Suite and id of a check."""


class Reason:
    """Why a check did not pass, as pytest's sections show it.

    Its short summary repeats what is a text, and leaves out what is not.

    Args:
        text: the reason.
    """

    def __init__(self, text: str) -> None:
        self.text = text

    def __str__(self) -> str:
        return self.text

    def toterminal(self, out: Any) -> None:
        """Write the reason into a section."""
        out.line(self.text)


class Reasons:
    """Registered in the process that reports, under xdist the controller.

    Args:
        gathering: knows which items are checks.
    """

    def __init__(self, gathering: Gathering) -> None:
        self._gathering = gathering
        self._told: set[tuple[str, CheckKey]] = set()

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Keep a check's reason out of pytest's short summary; fires for every phase."""
        ours = self._gathering.slug_of(report.nodeid) is not None
        if ours and report.failed and isinstance(report.longrepr, str):
            report.longrepr = Reason(report.longrepr)  # type: ignore[assignment]

    @pytest.hookimpl(hookwrapper=True, tryfirst=True)
    def pytest_terminal_summary(self, terminalreporter: Any) -> Generator[None, Any, None]:
        """Show what several checks failed of once, with the names of the others.

        What pytest counts at the end is left as it is.
        """
        stats = terminalreporter.stats
        errors = stats.get("error", [])
        if terminalreporter.config.option.tbstyle != "no":
            shown = [*errors, *stats.get("failed", [])]
            self._told = {key for report in shown if (key := self._whose(report))}
        if errors:
            stats["error"] = self._group(errors)
        yield
        if errors:
            stats["error"] = errors

    def told(self) -> set[tuple[str, CheckKey]]:
        """Return the checks whose reason stands in one of pytest's sections: model and check."""
        return self._told

    def _whose(self, report: pytest.TestReport) -> tuple[str, CheckKey] | None:
        place = self._gathering.place_of(report.nodeid)
        return None if place is None or place.check is None else (place.slug, place.check)

    def _group(self, errors: Sequence[pytest.TestReport]) -> list[pytest.TestReport]:
        """Return one report for each model and reason, and other tests' reports as they are."""
        grouped: dict[Any, list[pytest.TestReport]] = {}
        for place, report in enumerate(errors):
            slug = self._gathering.slug_of(report.nodeid)
            key = (slug, str(report.longrepr)) if slug is not None else place
            grouped.setdefault(key, []).append(report)
        return [self._name_others(*reports) for reports in grouped.values()]

    def _name_others(
        self, first: pytest.TestReport, *others: pytest.TestReport
    ) -> pytest.TestReport:
        """Return an item's report that tells which other items have the same reason."""
        if not others:
            return first
        named = ", ".join(one.nodeid.split("::")[-1].partition("[")[0] for one in others)
        shown = copy(first)
        shown.longrepr = Reason(f"{first.longrepr}\n  no result either: {named}")  # type: ignore[assignment]
        return shown
