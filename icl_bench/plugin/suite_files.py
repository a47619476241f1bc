"""Suites as pytest sees them: a file of checks, and what it collects."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from icl_bench.errors import InputError
from icl_bench.plugin.baseline_items import BaselineItem
from icl_bench.plugin.ids import SESSION, item_name, node_id
from icl_bench.plugin.items import CheckItem, MeasurementItem, SuiteItem
from icl_bench.plugin.session import IclSession
from icl_bench.render.writing.text import printable
from icl_bench.suite import Suite, load_suite
from icl_bench.suite.problems import show_path


class SuiteWarning(UserWarning):
    """A suite says something that is allowed and hardly meant."""


class SuiteFile(pytest.Collector):
    """One suite file.

    Not a pytest.File: of these, --lf looks only into files that lie where their id says.
    """

    @classmethod
    def from_path(cls, parent: pytest.Collector, path: Path) -> SuiteFile:
        """Make the collector of `path` with the id that `node_id` gives it."""
        nodeid = node_id(path, parent.config.rootpath)
        return cls.from_parent(parent, name=path.name, path=path, nodeid=nodeid)

    def collect(self) -> Iterator[pytest.Item]:
        """One item per check and model, or per measurement where there are no checks.

        Without a model each is skipped.
        With a baseline each check is followed by the item that compares it.
        """
        session = self.config.stash.get(SESSION, None)
        suite = session.find_suite(self.path) if session else None
        if suite is None:
            try:
                suite = load_suite(self.path)
            except InputError as error:
                raise self.CollectError(str(error)) from None
            if session and session.slugs:
                raise self.CollectError(
                    f"{show_path(self.path)}: this suite was not there when the run began; name "
                    "it on the command line or by --icl-suite"
                )
        for text in suite.warnings:
            try:
                self.warn(SuiteWarning(printable(text)))
            except SuiteWarning as error:  # where warnings are errors
                raise self.CollectError(str(error)) from None
        if session and session.slugs:
            for slug in session.slugs:
                yield from self._items(session, suite, slug)
        else:
            for spec in suite.assertions:
                yield CheckItem.from_parent(self, name=spec.id, suite=suite, spec=spec, slug=None)
            for name in _only_measured(suite):
                key = suite.key(name)
                yield MeasurementItem.from_parent(self, name=name, suite=suite, slug=None, key=key)

    def _items(self, session: IclSession, suite: Suite, slug: str) -> Iterator[pytest.Item]:
        parts = [part for part in session.job.parts if part.suite == suite.name]
        of_checks = {part.name: part for part in parts if part.kind == "check"}
        for spec in suite.assertions:
            yield self._make(CheckItem, spec.id, slug, suite=suite, spec=spec)
            if spec.id in of_checks:
                part = of_checks[spec.id]
                yield self._make(BaselineItem, part.label, slug, suite=suite, part=part)
        for name in _only_measured(suite):
            yield self._make(MeasurementItem, name, slug, suite=suite, key=suite.key(name))
        for part in parts:
            if part.kind != "check":
                yield self._make(BaselineItem, part.label, slug, suite=suite, part=part)

    def _make(self, kind: type[SuiteItem], label: str, slug: str, **rest: Any) -> pytest.Item:
        name = item_name(label, slug)
        # Newer pytests compare ids by parts; they know which part is the slug only when they read
        # the id themselves.
        nodeid = f"{self.nodeid}::{name}"
        return kind.from_parent(self, name=name, nodeid=nodeid, slug=slug, **rest)


def _only_measured(suite: Suite) -> list[str]:
    """Names of the measurements that are items: those of a suite without checks."""
    return [] if suite.assertions else list(suite.measure)
