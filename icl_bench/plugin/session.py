"""One pytest run: which models and suites it has, and who measures what."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import pytest

from icl_bench.errors import IclError
from icl_bench.plugin.arguments import only_tells
from icl_bench.plugin.crashes import link_of
from icl_bench.plugin.gathering import Gathering, Place, pack, refer, why_unfinished
from icl_bench.progress import RunProgress
from icl_bench.progress.hooks import show_progress
from icl_bench.render.writing.logs import escape_ci_commands
from icl_bench.running.job import Job
from icl_bench.running.model_run import close_others

if TYPE_CHECKING:
    from icl_bench.comparing import Comparison, Part
    from icl_bench.models.model import Model
    from icl_bench.render.parts import PartVerdict
    from icl_bench.running.judging import CheckedRun
    from icl_bench.suite import Suite


class IclSession:
    """The state of one pytest run with ICL options or suites.

    Args:
        config: pytest's.
        job: the run that was asked for, checked.
        only_suites: whether nothing but the named suites is collected.
    """

    def __init__(self, config: pytest.Config, job: Job, only_suites: bool) -> None:
        self.config, self.job, self.only_suites = config, job, only_suites
        self.gathering = Gathering(config, job)
        self.link = link_of(config)
        self.progress = RunProgress(
            self.slugs,
            show_progress(config, self.announce),
            job.earlier_seconds(),
            note=self.link.say if self.link else None,
        )
        # Under xdist the other models are other workers'.
        alone = not hasattr(config, "workerinput")
        job.prepare(self.progress, lambda: share_cores(config), together=alone)
        self._refused: dict[str, str] = {}
        self._sent: dict[str, set[str]] = {slug: set() for slug in self.slugs}
        self._announced: set[str] = set()

    @property
    def slugs(self) -> list[str]:
        """The models' names in ids, in the order given."""
        return list(self.job.specs)

    def announce(self, nodeid: str) -> str | None:
        """Return the line that a log gets before a model's first check; None for all others.

        Args:
            nodeid: id of the item that starts.
        """
        slug = self.gathering.slug_of(nodeid)
        if slug is None or slug in self._announced or self.config.get_verbosity() < 0:
            return None
        self._announced.add(slug)
        to_measure = self.job.runs[slug].to_measure()
        return self.progress.foretell(slug, to_measure, self.job.steps_of(slug))

    def find_suite(self, path: os.PathLike[str]) -> Suite | None:
        """Return the suite of the plan that was read from `path`."""
        for suite in self.job.plan.suites:
            if suite.path.resolve() == type(suite.path)(path).resolve():
                return suite
        return None

    def run_of(self, slug: str) -> CheckedRun:
        """Return the run of one model; every other open model is let go of."""
        runs = self.job.runs
        close_others(runs, slug)
        if self.link and (told := self.link.take(slug)):
            runs[slug].adopt(told.measurements, told.checks)
            self._refused |= {slug: told.refused} if told.refused else {}
            session: Any = self.config.pluginmanager.get_plugin("session")
            session.testsfailed = max(session.testsfailed, told.failures)
        return runs[slug]

    def open_for_test(self, slug: str) -> Model:
        """Open a model for the `icl_model` fixture; a failure is the test's, without traceback."""
        run = self.run_of(slug)
        if slug in self._refused:
            pytest.fail(self._refused[slug], pytrace=False)
        try:
            return run.open_for_caller()
        except IclError as error:
            pytest.fail(escape_ci_commands(str(error)), pytrace=False)

    def expect(self, items: Sequence[pytest.Item]) -> None:
        """Tell every model's run which of its checks will be asked for.

        Args:
            items: what is left after deselection.
        """
        ids = [item.nodeid for item in items]
        self.gathering.select(ids)
        for slug, run in self.job.runs.items():
            places = [self.gathering.place_of(nodeid) for nodeid in ids]
            own = [place for place in places if place and place.slug == slug]
            parts = [place.part for place in own if place.part]
            checks = {place.check for place in own if place.check}
            checks |= {(part.suite, part.name) for part in parts if part.kind == "check"}
            run.expect(checks, {key for part in parts for key in self._keys_of(part)})

    def _keys_of(self, part: Part) -> list[str]:
        """Measurements that a part of the comparison needs; none where nothing is compared."""
        return self.job.baseline.keys_of(part, self.job.plan) if self.job.baseline else []

    def judge_part(self, slug: str, part: Part) -> tuple[PartVerdict, Comparison]:
        """Measure what a part of the comparison with the baseline needs, and compare it.

        Args:
            slug: the model.
            part: the part.
        """
        run = self.run_of(slug)
        if part.kind == "check":
            run.check(part.suite, part.name)
        for key in self._keys_of(part):
            run.outcome_of(key)
        assert self.job.baseline is not None
        return self.job.baseline.judge_part(part, run.record())

    def pack(
        self, slug: str, check: tuple[str, str] | None = None, part: Part | None = None
    ) -> str:
        """Return what an item judged, and what was measured since the last call, as text to send.

        Args:
            slug: the model.
            check: suite and id of the check that was judged; None for none.
            part: the part of the comparison that was judged; None for none.
        """
        if part is not None and part.kind == "check":
            check = (part.suite, part.name)
        place = Place(slug, check, part)
        if self.link is None:
            return refer(place)
        return pack(slug, self.job.runs[slug].results, self._sent[slug], place)

    def unfinished(self) -> list[str]:
        """Return ids of the items that were to be judged and came to nothing so far."""
        return [] if only_tells(self.config) else self.gathering.unfinished()

    def describe(self) -> None:
        """Add what is known of the models to the properties of a JUnit XML file."""
        from icl_bench.ci.junit import file_properties

        for plugin in self.config.pluginmanager.get_plugins():
            # pytest's own fixture for this does nothing under xdist.
            add = getattr(plugin, "add_global_property", None)
            if callable(add):
                for name, value in file_properties(self.gathering.judged()):
                    add(name, value)

    def finish(self, exitstatus: int, *, stopped: bool, why: str | None = None) -> bool:
        """Write the reports of every model that was measured, finished or not.

        Args:
            exitstatus: pytest's.
            stopped: whether the run ended itself early, as by `-x`.
            why: what ended it, where that is known.

        Returns:
            False when they could not be written, when no check was decided, or when the run is
            worse than its baseline.
        """
        broken_off = (pytest.ExitCode.INTERRUPTED, pytest.ExitCode.INTERNAL_ERROR)
        # Under xdist, -x ends in the exit code of an interruption.
        interrupted = exitstatus in broken_off and not stopped
        if not only_tells(self.config):
            told = why_unfinished(interrupted=interrupted, stopped=stopped, why=why)
            self.gathering.give_up(told)
        own = {slug: run.results for slug, run in self.job.runs.items()}
        self.job.outcome.interrupted = interrupted
        self.job.write(self.gathering.records(own, interrupted=interrupted))
        parts = self.gathering.compared
        return self.job.conclude(self.gathering.outcomes(), parts).is_sound


def share_cores(config: pytest.Config) -> None:
    """Under xdist, give this worker its share of the cores.

    With all of them in every worker, the workers' threads would wait for each other.
    """
    worker = getattr(config, "workerinput", None)
    if worker is not None and "OMP_NUM_THREADS" not in os.environ:
        import torch

        torch.set_num_threads(max(1, (os.cpu_count() or 1) // int(worker["workercount"])))
