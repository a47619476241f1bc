"""Every edit in turn: planted, its true change measured, the suites run on it, put back."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from icl_bench.errors import IclError, ModelError, NotMeasurable, SettingsError
from icl_bench.mutating.edits import Edit
from icl_bench.mutating.outcome import Moved, Mutation, Outcome, Verdict
from icl_bench.records.record import RunRecord
from icl_bench.reports.files import folder_name
from icl_bench.running.job import Job
from icl_bench.running.judging import name_place
from icl_bench.running.model_run import ModelRun
from icl_bench.running.setup import Setup
from icl_bench.running.termination import terminable

if TYPE_CHECKING:
    from icl_bench.models.attention.ablation import Head
    from icl_bench.mutating.behaviour import Behaviour, Difference
    from icl_bench.mutating.circuit import Circuit
    from icl_bench.mutating.judging import Judge
    from icl_bench.mutating.planting import Ground
    from icl_bench.progress import RunProgress

Watch = Callable[[Sequence[str], "Callable[[str], Mapping[str, float]] | None"], "RunProgress"]
"""Makes a progress: (names of models, their earlier seconds) -> progress."""
PERIOD = 25
"""Tokens in a block where no measurement of the suites has blocks."""
MOST_CATCHERS = 3
"""Metrics that are named for a survivor."""
WHOLE = "model"
"""The place of an edit of the whole model."""


def check_job(job: Job) -> None:
    """Refuse what no edit can be planted in, before anything is measured.

    Args:
        job: of exactly one model; checked.

    Raises:
        SettingsError: it is a series, or a model that is split over devices.
    """
    [name] = job.names
    if job.steps_of(name):
        raise SettingsError(
            f"{job.specs[name].text} is a series of checkpoints; name one of them: SPEC@STEP"
        )
    if job.request.options.device == "split":
        raise SettingsError("device=split: the weights of a split model cannot be edited")


def mutate(job: Job, edits: Sequence[Edit], *, named: bool, watch: Watch) -> Mutation:
    """Plant edits one at a time, and tell which of them the suites notice.

    An interruption, SIGTERM too, leaves what was measured by then.

    Args:
        job: one model and the suites; checked.
        edits: which.
        named: whether they were asked for by name: one that the family does not have is then a
            mistake.
        watch: makes progress displays.

    Raises:
        SettingsError: an edit that was named is not in this family.
        IclError: the unedited model cannot be measured.
    """
    check_job(job)
    job.begin()
    try:
        with terminable():
            return _Campaign(job, watch).run(edits, named)
    finally:
        job.end()


@dataclass(frozen=True)
class _Mutant:
    """One edit at one place."""

    edit: Edit
    head: Head | None

    @property
    def place(self) -> str:
        if self.head is None:
            return WHOLE
        return f"layer {self.head[0]}" if self.edit.at == "layers" else "{}.{}".format(*self.head)

    def outcome(self, verdict: Verdict, **more: Any) -> Outcome:
        edit = self.edit
        return Outcome(edit.name, self.place, edit.change, verdict, neutral=edit.neutral, **more)


class _Campaign:
    """One model under its suites, edited again and again."""

    def __init__(self, job: Job, watch: Watch) -> None:
        self.job, self.watch = job, watch
        [self.name] = job.names
        job.prepare(watch(job.names, job.earlier_seconds()))
        run = job.runs[self.name]
        assert isinstance(run, ModelRun)
        self.first = run
        periods = [
            getattr(planned.settings, "period", 0) for planned in job.plan.measurements.values()
        ]
        self.period = max(periods, default=0) or PERIOD
        self.seed = job.request.options.seed or 0
        self._behaviour: Behaviour | None = None

    def run(self, edits: Sequence[Edit], named: bool) -> Mutation:
        """Measure the unedited model, then each edit."""
        from icl_bench.mutating.circuit import find_circuit
        from icl_bench.mutating.planting import Ground

        model = self.first.model
        ground = Ground(model, self.period, self.seed)
        try:
            circuit = find_circuit(model, self.period, self.seed)
        except NotMeasurable as error:
            raise ModelError(f"no edit can be planted: {error}") from None
        mutants = [_Mutant(edit, head) for edit in edits for head in circuit.places(edit)]
        if named:
            _require_family(mutants, ground)
        baseline = self._measure_baseline()
        mutation = _begin(baseline)
        try:
            self._try_all(mutants, ground, circuit, baseline, mutation)
        except KeyboardInterrupt:
            tried = len(mutation.outcomes)
            mutation.left = [f"{one.edit.name} {one.place}" for one in mutants[tried:]]
        return mutation

    def _measure_baseline(self) -> RunRecord:
        progress = self.first.progress
        progress.announce(self.name, self.first.to_measure())
        record = self.first.run()
        if not any(taken.status == "measured" for taken in record.measurements.values()):
            reasons = {taken.reason for taken in record.measurements.values()}
            raise ModelError(f"the unedited model was not measured: {'; '.join(map(str, reasons))}")
        return record

    def _try_all(
        self,
        mutants: Sequence[_Mutant],
        ground: Ground,
        circuit: Circuit,
        baseline: RunRecord,
        mutation: Mutation,
    ) -> None:
        from icl_bench.mutating.judging import Judge
        from icl_bench.mutating.kept import Kept

        seconds = {
            self.job.plan.measurements[key].digest: taken.seconds
            for key, taken in baseline.measurements.items()
            if taken.seconds is not None
        }
        names = [f"{one.edit.name} {one.place}" for one in mutants]
        progress = self.watch(names, lambda name: seconds)
        setup = Setup(self.job.plan, self.job.request.options, progress)
        judge = Judge(baseline, self.job.specs[self.name], setup)
        kept = Kept(self.job, ground.model, self.period, self.seed)
        layers = {head[0] for head in (circuit.induction, circuit.previous) if head}
        layers |= {layer for layer, _ in circuit.idle}
        for mutant in mutants:
            outcome = kept.find(mutant.edit.name, mutant.place)
            if outcome is None:
                outcome = self._try(mutant, ground, judge, layers)
                kept.keep(outcome)
            mutation.outcomes.append(outcome)
            if self._behaviour is not None:
                mutation.no_text = self._behaviour.no_text

    def _try(self, mutant: _Mutant, ground: Ground, judge: Judge, layers: set[int]) -> Outcome:
        from icl_bench.mutating.behaviour import state_of, watch
        from icl_bench.mutating.planting import planted

        if self._behaviour is None:
            self._behaviour = watch(ground.model, self.period, self.seed, sorted(layers))
            judge.remember(ground.model, layers)
        started = time.perf_counter()
        reached = False
        try:
            with planted(mutant.edit, ground, mutant.head) as site:
                reached = True
                moved = self._behaviour.compare(site)
                change = state_of(moved.values())
                found = judge.judge(site, f"{mutant.edit.name} {mutant.place}")
        except NotMeasurable as error:
            if reached:
                raise
            return mutant.outcome("absent", reason=str(error))
        except Exception as error:
            if reached:
                raise
            told = str(error) if isinstance(error, IclError) else name_place(error)
            return mutant.outcome("not planted", reason=told)
        # What must change nothing, and was measured to change something, is damage.
        harmless = change == "neutral" or (mutant.edit.neutral and change == "unclear")
        killed = bool(found.killed_by)
        verdict: Verdict = "killed" if killed else "survived"
        if harmless:
            verdict = "false alarm" if killed else "passed"
        return mutant.outcome(
            verdict,
            change=change,
            killed_by=found.killed_by,
            gain=_moved(moved["gain"]),
            text=_moved(moved["text"]) if "text" in moved else None,
            reason=_explain(verdict, moved, found.catchers),
            seconds=round(time.perf_counter() - started, 3),
        )


def _begin(baseline: RunRecord) -> Mutation:
    return Mutation(
        baseline.model.label,
        [suite.name for suite in baseline.suites],
        sum(check.verdict == "pass" for check in baseline.checks),
        len(baseline.checks),
        round(sum(taken.seconds or 0.0 for taken in baseline.measurements.values()), 3),
    )


def _moved(difference: Difference) -> Moved:
    return Moved(**asdict(difference))


def _explain(
    verdict: Verdict, moved: Mapping[str, Difference], catchers: Sequence[str]
) -> str | None:
    """What would have caught a survivor."""
    if verdict != "survived":
        return None
    told = list(catchers[:MOST_CATCHERS])
    if len(catchers) > len(told):
        told[-1] += f" and {len(catchers) - len(told)} other metrics"
    text = moved.get("text")
    if text is not None and text.state == "changed":
        told.append("a check on text_loss (probe icl_score)")
    return "; ".join(told) or "none of its metrics moved beyond its limit: needs more sequences"


def _require_family(mutants: Sequence[_Mutant], ground: Ground) -> None:
    """Refuse an edit that was named and cannot be planted in this model."""
    from icl_bench.mutating.planting import planted

    for mutant in mutants:
        try:
            with planted(mutant.edit, ground, mutant.head):
                pass
        except NotMeasurable as error:
            raise SettingsError(
                f"edit {mutant.edit.name!r} is not in this family: {error}"
            ) from None


def folder_of(job: Job) -> Path:
    """Return the folder of a model's mutation report.

    Args:
        job: with a report folder.
    """
    assert job.request.reports is not None
    return job.request.reports / f"mutate-{folder_name(job.names[0])}"
