"""One pytest run: which suites and models, what has been measured, what is reported."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import pytest

from icl_bench.errors import IclError
from icl_bench.models.sources.spec import ModelSpec
from icl_bench.naming import tell_names
from icl_bench.options import RunOptions
from icl_bench.plugin.arguments import only_tells
from icl_bench.plugin.crashes import REASON, link_of
from icl_bench.plugin.ids import PAYLOAD, item_name, node_id
from icl_bench.progress import RunProgress
from icl_bench.progress.hooks import show_progress
from icl_bench.records.record import Check, Environment, Measurement, ModelInfo, RunRecord
from icl_bench.render.writing.logs import defuse
from icl_bench.running.baseline import Baseline
from icl_bench.running.cache import Cache
from icl_bench.running.earlier import earlier_seconds
from icl_bench.running.judging import Judged
from icl_bench.running.model_run import close_others
from icl_bench.running.results import INTERRUPTED, Lost, Results, assemble, explain_undecided
from icl_bench.running.series_run import start_run
from icl_bench.suite.plan import Plan

if TYPE_CHECKING:
    from icl_bench.models.model import Model
    from icl_bench.models.sources.hub import HubModel
    from icl_bench.models.sources.series import Checkpoint
    from icl_bench.suite import Suite

Found: TypeAlias = "HubModel | tuple[Checkpoint, ...] | None"
FILES = ("icl_code_quality", "icl_openmetrics")
"""Options that name a file for CI."""


class IclSession:
    """The state of one pytest run with ICL options or suites.

    Args:
        config: pytest's.
        plan: suites and their measurements.
        specs: slug -> model spec, in the order given.
        options: how models are opened.
        only_suites: whether nothing but the named suites is collected.
        found: slug -> where a hub id was found, or a series' checkpoints, where that is known.
        cache: where measurements are kept; None to do without.
    """

    def __init__(
        self,
        config: pytest.Config,
        plan: Plan,
        specs: dict[str, ModelSpec],
        options: RunOptions,
        only_suites: bool,
        found: dict[str, Found],
        cache: Cache | None,
    ) -> None:
        self.config, self.plan, self.specs, self.options = config, plan, specs, options
        self.found, self._cache = found, cache
        self.only_suites = only_suites
        # A test may change the working directory before the reports are written.
        self.report_dir = config.invocation_params.dir / config.getoption("icl_report_dir")
        self.warn_inconclusive = config.getoption("icl_inconclusive") == "warn"
        self._link = link_of(config)
        self.progress = RunProgress(
            list(specs),
            show_progress(config, self.announce),
            earlier_seconds(plan, self.report_dir),
            note=self._link.say if self._link else None,
        )
        self.runs = {
            slug: start_run(
                spec,
                slug,
                plan,
                options,
                found.get(slug),
                progress=self.progress,
                cache=cache,
                before_opening=lambda: share_cores(config),
            )
            for slug, spec in specs.items()
        }
        self.gathered = {
            slug: Results(ModelInfo(**spec.describe(slug))) for slug, spec in specs.items()
        }
        self.records: list[RunRecord] = []
        self.paths: list[Path] = []
        self.trouble: str | None = None
        self.undecided: str | None = None
        self.names: list[str] = []
        self.removed: str | None = None
        self.ci_lines: list[str] = []
        self.baseline: Baseline | None = None
        self._lost: dict[str, Lost] = {slug: {} for slug in specs}
        self._ids = self._make_ids()
        self._selected: set[str] = set(self._ids)
        self._refused: dict[str, str] = {}
        self._sent: dict[str, set[str]] = {slug: set() for slug in specs}
        self._announced: set[str] = set()

    @property
    def slugs(self) -> list[str]:
        """The models' names in ids, in the order given."""
        return list(self.specs)

    @property
    def has_news(self) -> bool:
        """Whether the run has something for the summary to tell."""
        told = (self.trouble, self.undecided, self.removed, self.baseline)
        return bool(self.records) or any(told)

    def header(self) -> list[str]:
        """Lines for pytest's header."""
        names = ", ".join(suite.name for suite in self.plan.suites) or "none"
        named = [f"{slug}{count_checkpoints(self.found.get(slug))}" for slug in self.slugs]
        models = ", ".join(named) or "none given (--icl-model)"
        lines = [f"icl_bench: model {models}; suite {names}"]
        lines += tell_names(self.specs, self.report_dir)
        if self.only_suites:
            lines.append("icl_bench: only the suites are collected; name paths to add other tests")
        return lines

    def announce(self, nodeid: str) -> str | None:
        """Return the line that a log gets before a model's first check; None for all others.

        Args:
            nodeid: id of the item that starts.
        """
        slug = self._ids[nodeid][0] if nodeid in self._ids else None
        if slug is None or slug in self._announced or self.config.get_verbosity() < 0:
            return None
        self._announced.add(slug)
        found = self.found.get(slug)
        steps = len(found) if isinstance(found, tuple) else 0
        return self.progress.foretell(slug, self.runs[slug].to_measure(), steps)

    def find_suite(self, path: Path) -> Suite | None:
        """Return the suite of the plan that was read from `path`."""
        for suite in self.plan.suites:
            if suite.path.resolve() == path.resolve():
                return suite
        return None

    def _make_ids(self) -> dict[str, tuple[str, tuple[str, str]]]:
        """Id of an item -> its slug, and the suite and id of its check."""
        return {
            f"{node_id(suite.path, self.config.rootpath)}::{item_name(spec.id, slug)}": (
                slug,
                (suite.name, spec.id),
            )
            for suite, spec in self.plan.assertions()
            for slug in self.specs
        }

    def run_of(self, slug: str) -> Judged:
        """Return the run of one model; every other open model is let go of."""
        close_others(self.runs, slug)
        if self._link and (told := self._link.take(slug)):
            self.runs[slug].recall(told.measurements, told.checks)
            self._refused |= {slug: told.refused} if told.refused else {}
            session: Any = self.config.pluginmanager.get_plugin("session")
            session.testsfailed = max(session.testsfailed, told.failures)
        return self.runs[slug]

    def open_for_test(self, slug: str) -> Model:
        """Open a model for the `icl_model` fixture; a failure is the test's, without traceback."""
        run = self.run_of(slug)
        if slug in self._refused:
            pytest.fail(self._refused[slug], pytrace=False)
        try:
            return run.lend()
        except IclError as error:
            pytest.fail(defuse(str(error)), pytrace=False)

    def expect(self, items: Sequence[pytest.Item]) -> None:
        """Tell every model's run which of its checks will be asked for.

        Args:
            items: what is left after deselection.
        """
        from icl_bench.plugin.items import CheckItem

        self.select([item.nodeid for item in items])
        for slug, run in self.runs.items():
            own = [item for item in items if isinstance(item, CheckItem) and item.slug == slug]
            run.expect({(item.suite.name, item.spec.id) for item in own})

    def select(self, ids: Sequence[str]) -> None:
        """Note which items are left after deselection; no other check may be called deselected.

        Args:
            ids: theirs.
        """
        self._selected = set(ids)

    def check_of(self, nodeid: str) -> tuple[str, str] | None:
        """Return suite and id of an item's check; None if the item is another test."""
        return self._ids[nodeid][1] if nodeid in self._ids else None

    def unfinished(self) -> list[str]:
        """Return ids of the checks that were to be judged and came to nothing so far."""
        if only_tells(self.config):
            return []
        return [
            nodeid
            for nodeid, (slug, check) in self._ids.items()
            if nodeid in self._selected
            and check not in self.gathered[slug].checks
            and check not in self._lost[slug]
        ]

    def pack(self, slug: str, check: Check) -> str:
        """Return a check, and what was measured since the last call, as text to send."""
        results = self.runs[slug].results
        new = {
            key: taken.model_dump(mode="json", exclude_none=True)
            for key, taken in results.measurements.items()
            if key not in self._sent[slug]
        }
        self._sent[slug].update(new)
        return json.dumps(
            {
                "slug": slug,
                "model": results.model.model_dump(mode="json"),
                "environment": results.environment and results.environment.model_dump(mode="json"),
                "measurements": new,
                "check": check.model_dump(mode="json"),
            }
        )

    def gather(self, report: pytest.TestReport) -> None:
        """Take in what a check measured, in this process or another.

        A report without a payload tells why there is none: another plugin skipped or failed the
        item, or the worker that ran it died.
        """
        payload = getattr(report, PAYLOAD, None)
        if payload:
            self._absorb(payload)
        elif report.nodeid in self._ids and not report.passed:
            slug, check = self._ids[report.nodeid]
            text = report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longreprtext
            last = text.strip().splitlines()[-1] if text.strip() else "no reason was given"
            why = getattr(report, REASON, f"not run: {last}")
            self._lost[slug][check] = ("skipped" if report.skipped else "error", why)

    def _absorb(self, payload: str) -> None:
        data = json.loads(payload)
        gathered = self.gathered[data["slug"]]
        if data["environment"]:
            gathered.environment = Environment.model_validate(data["environment"])
            gathered.model = ModelInfo.model_validate(data["model"])
        for key, taken in data["measurements"].items():
            # What killed a worker is known already, better than others are told of it.
            gathered.measurements.setdefault(key, Measurement.model_validate(taken))
        check = Check.model_validate(data["check"])
        gathered.checks[check.suite, check.id] = check

    def finish(self, exitstatus: int, *, stopped: bool) -> bool:
        """Write the reports of every model that was measured, finished or not.

        Args:
            exitstatus: pytest's.
            stopped: whether the run ended itself early, as by `-x`.

        Returns:
            False when they could not be written, when no check was decided, or when the run is
            worse than its baseline.
        """
        broken_off = (pytest.ExitCode.INTERRUPTED, pytest.ExitCode.INTERNAL_ERROR)
        # Under xdist, -x ends in the exit code of an interruption.
        interrupted = exitstatus in broken_off and not stopped
        why = "the run stopped early" if stopped else "the run ended before it"
        for nodeid in self.unfinished():
            slug, check = self._ids[nodeid]
            unrun = INTERRUPTED if interrupted else f"not run: {why}"
            self._lost[slug][check] = ("skipped", unrun)
        for slug, gathered in self.gathered.items():
            # What an interrupted item had measured by then was never sent.
            own = self.runs[slug].results
            for key, taken in own.measurements.items():
                gathered.measurements.setdefault(key, taken)
            if own.environment and not gathered.environment:
                gathered.model, gathered.environment = own.model, own.environment
            lost = self._lost[slug]
            broken = any(state == "error" for state, _ in lost.values())
            if gathered.checks or gathered.measurements or broken:
                self.records.append(
                    assemble(gathered, self.plan, interrupted=interrupted, lost=lost)
                )
        if self.records:
            from icl_bench.reports.files import write_reports
            from icl_bench.reports.leaderboard import update_leaderboard

            try:
                plotly = self.config.getoption("icl_plotly")
                troubles: list[str] = []
                self.paths = write_reports(self.records, self.report_dir, plotly, troubles)
                self.trouble = "; ".join(troubles) or None
            except IclError as error:
                self.trouble = f"the reports were not written: {error}"
        if len(self.paths) > 1 and len(self.records) > 1:
            try:
                self.paths += update_leaderboard(self.report_dir, plotly)
            except IclError as error:
                self.trouble = str(error)
        folder = self.paths[0].parent if self.paths else None
        no_worse = self.baseline is None or self.baseline.judge(self.records, folder)
        self._tell_ci()
        self.undecided = None if interrupted else explain_undecided(self._outcomes())
        if self._cache and (removed := self._cache.trim()):
            self.removed = removed.describe("--icl-cache-limit")
        return self.trouble is None and no_worse and self.undecided is None

    def _outcomes(self) -> list[tuple[str, str | None]]:
        """Verdict and reason of every check that was asked for, on every model."""
        judged = [one for gathered in self.gathered.values() for one in gathered.checks.values()]
        lost = [one for lost in self._lost.values() for one in lost.values()]
        return [*((check.verdict, check.reason) for check in judged), *lost]

    def _tell_ci(self) -> None:
        """Write what CI reads; what it obeys in the log is printed with the summary."""
        from icl_bench.ci.publishing import publish

        quality, metrics = (self.config.getoption(option) for option in FILES)
        here = self.config.invocation_params.dir
        published = publish(
            self.records,
            self.baseline.comparison if self.baseline else None,
            suites=self.plan.suites,
            strict=not self.warn_inconclusive,
            code_quality=here / quality if quality else None,
            openmetrics=here / metrics if metrics else None,
        )
        self.ci_lines = published.commands
        if published.troubles:
            told = "; ".join(published.troubles)
            self.trouble = self.trouble or f"for CI not all was written: {told}"

    def file_properties(self) -> list[tuple[str, str]]:
        """Name and value of what a JUnit file says of the whole run."""
        from icl_bench.ci.junit import file_properties

        measured = [one for one in self.gathered.values() if one.checks]
        return file_properties([assemble(one, self.plan) for one in measured])

    def print_summary(self, terminalreporter: Any) -> None:
        """Print the tables and where the reports are."""
        from icl_bench.render.terminal import summary
        from icl_bench.render.writing.outlet import outlet_of_pytest
        from icl_bench.render.writing.text import printable

        outlet = outlet_of_pytest(terminalreporter._tw)
        if self.records:
            terminalreporter.section("icl_bench")
            text = summary(
                self.records,
                **outlet.options(),
                paths=[os.path.relpath(path) for path in self.paths],
            )
            terminalreporter.write_line(defuse(text))
        if self.removed:
            terminalreporter.write_line(defuse(printable(self.removed)))
        for trouble in filter(None, (self.undecided, self.trouble)):
            terminalreporter.write_line(printable(trouble), red=True)
        if self.baseline:
            self.baseline.print_section(terminalreporter, outlet)
        for line in self.ci_lines:
            terminalreporter.write_line(line)


def count_checkpoints(found: Found) -> str:
    """Return how many checkpoints a series has, in brackets; nothing for a single model.

    Args:
        found: what `check_spec` returned.
    """
    if not isinstance(found, tuple):
        return ""
    return f" ({len(found)} checkpoints, steps {found[0].step} to {found[-1].step})"


def share_cores(config: pytest.Config) -> None:
    """Under xdist, give this worker its share of the cores.

    With all of them in every worker, the workers' threads would wait for each other.
    """
    worker = getattr(config, "workerinput", None)
    if worker is not None and "OMP_NUM_THREADS" not in os.environ:
        import torch

        torch.set_num_threads(max(1, (os.cpu_count() or 1) // int(worker["workercount"])))
