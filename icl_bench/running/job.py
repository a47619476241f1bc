"""One run, whoever asks for it: a request is checked as a whole, measured, written and judged.

pytest, `icl-bench run` and `icl_bench.run` each make a `Request` and get an `Outcome`. What differs
between them is who asks for the checks: pytest one by one, the others all in turn.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from icl_bench.ci.publishing import publish
from icl_bench.errors import IclError, InputError, ModelError, SettingsError
from icl_bench.models.opening.loading import check_device, check_dtype
from icl_bench.models.sources.checking import Checked, check_spec
from icl_bench.models.sources.parsing import parse_spec
from icl_bench.models.sources.spec import ModelSpec
from icl_bench.naming import name_models, plain_name, tell_names
from icl_bench.options import OPTIONS
from icl_bench.progress import RunProgress
from icl_bench.records.record import RunRecord
from icl_bench.reports.added import added_reports
from icl_bench.reports.files import write_reports
from icl_bench.reports.leaderboard import update_leaderboard
from icl_bench.reports.places import check_file, check_report_dir
from icl_bench.running.baseline import Baseline, list_parts, model_of, read_baseline
from icl_bench.running.cache import open_cache
from icl_bench.running.dealing import Dealer
from icl_bench.running.earlier import earlier_seconds
from icl_bench.running.judging import CheckedRun
from icl_bench.running.lazy_model import LazyModel
from icl_bench.running.model_run import ModelRun
from icl_bench.running.outcome import Outcome
from icl_bench.running.part_worker import PartWorker
from icl_bench.running.request import Request
from icl_bench.running.results import explain_undecided, explain_unmeasured
from icl_bench.running.series_run import start_run
from icl_bench.running.setup import Setup
from icl_bench.running.termination import breaks_off, terminable
from icl_bench.suite.plan import Plan, make_plan

if TYPE_CHECKING:
    from icl_bench.comparing import Part
    from icl_bench.models.model import Model

CI_FILES = ("code-quality", "openmetrics")
"""Options that name a file for CI."""


class Job:
    """One run, from the request to its outcome.

    Making it reads specs and plans; nothing is looked up on disk or asked of a hub before `check`.

    `parts` are those of the comparison with a baseline, each of which may be asked for by itself.

    Args:
        request: what is asked for.
        names: what the models are called, where another process has decided that.

    Raises:
        InputError: a spec or a suite is wrong.
    """

    def __init__(self, request: Request, names: Sequence[str] | None = None) -> None:
        self.request = request
        specs = [
            parse_spec(one)
            if isinstance(one, str)
            else ModelSpec(one.spec, "object", one.spec, one.revision)
            for one in request.models
        ]
        self.plan = (
            make_plan(list(request.suites), seed=request.options.seed)
            if request.suites
            else Plan([])
        )
        self.names = list(names or self._name(specs))
        self.specs: dict[str, ModelSpec] = dict(zip(self.names, specs))
        self.models: dict[str, Model] = {
            name: one for name, one in zip(self.names, request.models) if not isinstance(one, str)
        }
        self.found: dict[str, Checked] = {}
        self.baseline: Baseline | None = None
        self.before: Job | None = None
        """Measures the baseline where that is a model."""
        self.parts = list_parts(self.plan) if request.baseline else []
        self.cache = open_cache(request.options)
        self.runs: dict[str, CheckedRun] = {}
        self.outcome = Outcome(strict=request.strict)

    def _name(self, specs: Sequence[ModelSpec]) -> list[str]:
        request = self.request
        opened = [one.slug for one in request.models if not isinstance(one, str)]
        if opened:
            return opened
        if request.reports is None:
            return [plain_name(spec) for spec in specs]
        return name_models(specs, request.reports)

    def check(self, *, only_looks: bool = False) -> None:
        """Check everything that can be before something is measured.

        Args:
            only_looks: whether nothing will be measured or written.

        Raises:
            InputError: an option, a place to write to, a baseline or a model is wrong.
        """
        request = self.request
        check_device(request.options.device)
        check_dtype(request.options.dtype)
        for name, spec in self.specs.items():
            if name not in self.models:
                self.found[name] = check_spec(spec, allow_pickle=request.options.allow_pickle)
        if request.report_dir is not None and self.specs and not only_looks:
            option = request.name_of("report-dir")
            check_report_dir(request.report_dir, option, request.folder)
            added_reports()  # that they can be loaded
        self.read_baseline()
        for option in CI_FILES:
            if request.file(option):
                if not self.specs:
                    needed = request.name_of("model")
                    raise SettingsError(f"{request.name_of(option)} needs a model: {needed}=SPEC")
                check_file(
                    getattr(request, OPTIONS[option].dest), request.name_of(option), request.folder
                )
        if not self.specs and not only_looks:
            named = ", ".join(repr(suite.name) for suite in request.suites) or "what is asked for"
            raise SettingsError(
                f"no model is given for {named}: {request.name_of('model')}=SPEC "
                "(builtin:induction-2l is one that needs no network)"
            )
        if only_looks:
            self.baseline = self.outcome.baseline = self.before = None

    def read_baseline(self, *, checked: bool = False) -> None:
        """Read what the options about a baseline name; `check` does it too.

        Args:
            checked: whether another process has checked a model that is the baseline, and will
                measure it.

        Raises:
            InputError: a file is not there, is no record, or cannot be written; an option is wrong.
        """
        request = self.request
        self.baseline = read_baseline(request, len(self.specs), self.plan)
        self.outcome.baseline = self.baseline
        if (source := model_of(request)) is None or checked:
            return
        # The same suites and options; reports, and what is compared, are the run's own.
        alone = Request([source], request.suites, request.options, folder=request.folder)
        try:
            self.before = Job(replace(alone, prefix=request.prefix, tells_ci=False))
            for spec in self.before.specs.values():
                spec.require_one()
            self.before.check()
        except InputError as error:
            raise SettingsError(
                f"{request.name_of('baseline')}={source}: neither a .json file nor a folder with a "
                f"results.json, and no model that can be measured: {error}"
            ) from None

    def measure_baseline(self, progress: RunProgress) -> None:
        """Measure the baseline where it is a model: before any other is opened.

        Args:
            progress: is told what is going on.

        Raises:
            ModelError: it cannot be opened or run.
        """
        if self.before is None or self.baseline is None:
            return
        self.before.prepare(progress)
        [(name, run)] = self.before.runs.items()
        progress.announce(name, run.to_measure())
        try:
            record = run.run()
        finally:
            run.close()
        failed = [one.reason for one in record.measurements.values() if one.status == "error"]
        if len(failed) == len(record.measurements):
            raise ModelError(f"the baseline cannot be measured: {failed[0]}")
        self.baseline.take(record)

    def tell_names(self) -> list[str]:
        """Return lines on models whose names are not what their specs suggest."""
        return tell_names(self.specs, self.request.reports) if self.request.reports else []

    def earlier_seconds(self) -> Callable[[str], Mapping[str, float]] | None:
        """Return what tells how long measurements took in earlier runs, for a progress display."""
        folder = self.request.reports
        return None if folder is None else earlier_seconds(self.plan, folder)

    def prepare(
        self,
        progress: RunProgress | None = None,
        before_opening: Callable[[], None] | None = None,
        *,
        together: bool = True,
    ) -> None:
        """Make the models' runs; nothing is opened yet.

        Args:
            progress: is told what is going on.
            before_opening: called before a model is opened.
            together: whether the models are measured side by side where there are several
                processes; else only the checkpoints of each.
        """
        progress = progress or RunProgress()
        setup = Setup(
            self.plan,
            self.request.options,
            progress,
            self.cache,
            before_opening,
            self._dealer(progress, together) if self.request.jobs > 1 else None,
        )
        for name, spec in self.specs.items():
            model = self.models.get(name)
            self.runs[name] = (
                start_run(spec, name, setup, self.found.get(name))
                if model is None
                else ModelRun(LazyModel(spec, name, setup, model=model), setup)
            )

    def _dealer(self, progress: RunProgress, together: bool) -> Dealer:
        # Most runs have one process, and need not wait for what starts others.
        from icl_bench.executors.processes import LocalProcesses

        hire = functools.partial(PartWorker, self.plan, self.request.options)
        executor = LocalProcesses(self.request.jobs)
        return Dealer(executor, hire, self.plan, progress, self.runs, together)

    def steps_of(self, name: str) -> int:
        """Return how many checkpoints a model is, 0 for one that is no series.

        Args:
            name: of the model.
        """
        found = self.found.get(name)
        return len(found) if isinstance(found, tuple) else 0

    def begin(self) -> None:
        """Let other runs know that this one uses the cache; `end` takes that back."""
        if self.cache:
            self.cache.begin()

    def end(self) -> None:
        """Let go of the cache."""
        if self.cache:
            self.cache.end()

    def run(self, progress: RunProgress) -> Outcome:
        """Measure every model in turn, write its reports as it is done, and judge the whole.

        An interruption, SIGTERM too, leaves what was measured by then.

        Args:
            progress: is told what is going on.
        """
        with terminable():
            return self._run(progress)

    def _run(self, progress: RunProgress) -> Outcome:
        self.begin()
        try:
            self.measure_baseline(progress)
            self.prepare(progress)
            for name, run in self.runs.items():
                progress.announce(name, run.to_measure(), self.steps_of(name))
                record, broken_off = None, None
                try:
                    record = run.run()
                except BaseException as error:
                    if not isinstance(error, KeyboardInterrupt):
                        if not breaks_off(error):
                            raise
                        broken_off = error
                    self.outcome.interrupted = True
                    if run.results.measurements:
                        record = run.record(interrupted=True)
                run.close()
                if record is not None:
                    self.write([record])
                if broken_off is not None:
                    raise broken_off  # the test that the run is part of took too long
                if self.outcome.interrupted:
                    self._write_unasked()
                    break
            checks = (check for record in self.outcome.records for check in record.checks)
            return self.conclude([(check.verdict, check.reason) for check in checks])
        finally:
            self.end()

    def _write_unasked(self) -> None:
        """Write what other processes measured of models that were not come to."""
        written = {record.model.slug for record in self.outcome.records}
        for name, run in self.runs.items():
            if name not in written and run.results.measurements:
                self.write([run.record(interrupted=True)])

    def write(self, records: Sequence[RunRecord]) -> None:
        """Write the reports of models that are done.

        Args:
            records: theirs.
        """
        self.outcome.records += records
        if self.request.reports is None or not records:
            return
        try:
            self.outcome.paths += write_reports(
                records, self.request.reports, self.request.plotly, self.outcome.troubles
            )
        except IclError as error:
            self.outcome.troubles.append(f"the reports were not written: {error}")

    def conclude(
        self,
        outcomes: Collection[tuple[str, str | None]],
        parts: Collection[Part] | None = None,
    ) -> Outcome:
        """Compare, rank, tell CI, tidy the cache, and return what came of the run.

        Args:
            outcomes: verdict and reason of each check that was asked for, on each model.
            parts: what tests have compared with a baseline; None for everything.
        """
        request, outcome = self.request, self.outcome
        folder = outcome.paths[0].parent if outcome.paths else None
        if request.reports is not None and outcome.paths:
            several = len(outcome.records) > 1
            try:
                outcome.paths += update_leaderboard(
                    request.reports, request.plotly, several=several
                )
            except IclError as error:
                outcome.troubles.append(str(error))
        if self.baseline is not None:
            chosen = None if parts is None or set(parts) >= set(self.parts) else parts
            outcome.no_worse = self.baseline.judge(outcome.records, folder, chosen)
        if request.tells_ci:
            published = publish(
                outcome.records,
                self.baseline.comparison if self.baseline else None,
                suites=self.plan.suites,
                strict=request.strict,
                code_quality=request.file("code-quality"),
                openmetrics=request.file("openmetrics"),
            )
            outcome.ci_lines = published.commands
            if published.troubles:
                told = "; ".join(published.troubles)
                outcome.troubles.append(f"for CI not all was written: {told}")
        if not outcome.interrupted:
            outcome.undecided = explain_undecided(outcomes) or explain_unmeasured(
                outcome.records, self.plan
            )
        if self.cache and (removed := self.cache.trim()):
            outcome.removed = removed.describe(request.name_of("cache-limit"))
        return outcome
