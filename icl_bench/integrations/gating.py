"""Suites and gates on a model while it is trained: one evaluation a call."""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any, Literal, get_args

from icl_bench.comparing import Comparison, compare
from icl_bench.errors import RecordError, SettingsError, TrainingGateError, nearest
from icl_bench.integrations.gates import Gate
from icl_bench.integrations.outcome import Outcome, explain
from icl_bench.models.sources.spec import ModelSpec
from icl_bench.naming import plain_name
from icl_bench.options import RunOptions, refuse_url
from icl_bench.records.parts import Verdict
from icl_bench.records.reading import read_record
from icl_bench.records.record import RunRecord
from icl_bench.render.comparison import verdict_line
from icl_bench.suite.plan import Plan, make_plan

OnFailure = Literal["stop", "raise", "warn"]

FAILED: tuple[Verdict, ...] = ("fail",)
"""Verdicts of a gate that end training, if nothing else is said."""

log = logging.getLogger("icl_bench.training")

_FILE = re.compile(r"results-step(\d+)\.json")


class TrainingGate:
    """Measures a model that is being trained, and says whether training may go on.

    The model is checked and wrapped once; an evaluation then costs its forward passes and the
    digest of the weights. Each leaves the module as it was (`training_state.left_as_it_was`).

    Args:
        model: what is trained: a transformers model, or one wrapped by torch.compile,
            DistributedDataParallel, PEFT (LoRA).
        suites: names of shipped suites, or paths.
        gates: what must hold.
        every: an evaluation is due each so many steps; None for no such rhythm.
        tokenizer: the model's, or None (text items are then skipped).
        folder: where records are written, `results-stepSTEP.json`; None for nowhere.
        name: the run's name in records.
        seed: overrides the suites' seeds.
        batch_size: rows of a forward pass; None to choose.
        on_failure: what a failed gate does: raise TrainingGateError, set `Outcome.stop`, or
            be logged only.
        stop_on: the verdicts that count as failed.

    Raises:
        InputError: a suite, a gate or an argument is wrong.
        ModelError: the model cannot be measured while it is trained.
    """

    def __init__(
        self,
        model: Any,
        suites: Sequence[str | Path] = ("gate",),
        gates: Sequence[Gate] = (),
        *,
        every: int | None = None,
        tokenizer: Any | None = None,
        folder: str | Path | None = None,
        name: str = "training",
        seed: int | None = None,
        batch_size: int | None = None,
        on_failure: OnFailure = "raise",
        stop_on: Collection[Verdict] = FAILED,
    ) -> None:
        check_choices(every, on_failure, stop_on)
        if folder is not None:
            refuse_url(folder, "folder")
        self.plan = plan_gates(suites, gates, seed)
        self.gates, self.every = tuple(gates), every
        self.folder = None if folder is None else Path(folder)
        self.name, self.seed = name, seed
        self.on_failure, self.stop_on = on_failure, frozenset(stop_on)
        self.history: list[RunRecord] = []
        """Records of every evaluation, without rows of heads and tables."""
        self.comparison: Comparison | None = None
        """The last evaluation against the first; None after the first alone."""
        self._start: RunRecord | None = None
        self._said: dict[str, Verdict] = {}
        self._passed = True
        from icl_bench.integrations.training_state import left_as_it_was
        from icl_bench.models.module.unwrapping import find_module
        from icl_bench.models.opening.opening import wrap

        self._module = find_module(model)
        with left_as_it_was(self._module):
            self._model = wrap(self._module, tokenizer, batch_size=batch_size)

    def is_due(self, step: int) -> bool:
        """Whether an evaluation is due at a step: by `every`, or because a gate asks for it.

        Args:
            step: optimizer steps made.
        """
        return is_due(step, self.every, self.gates)

    def check(self, step: int) -> Outcome:
        """Measure the model as it is now, write the record, judge the gates.

        Args:
            step: optimizer steps made; more than at the evaluation before.

        Raises:
            TrainingGateError: a gate does not hold, with `on_failure="raise"`.
            SettingsError: the step is not a later one.
        """
        if step < 0 or (self.history and step <= self.history[-1].step):  # type: ignore[operator]
            raise SettingsError(f"step {step} was evaluated, or steps after it were")
        started = time.perf_counter()
        record = self._measure(step)
        history = [*self.history, record]
        record.gates = [gate.judge(history, self.plan) for gate in self.gates]
        self._compare(record)
        path = None
        if self.folder is not None:
            path = record.write(self.folder / f"results-step{step}.json")
        self.history.append(without_rows(record))
        failures = tuple(
            f"{gate.gate}: {gate.reason}" for gate in record.gates if gate.verdict in self.stop_on
        )
        self._tell(record)
        seconds = round(time.perf_counter() - started, 3)
        stop = bool(failures) and self.on_failure != "warn"
        outcome = Outcome(record, failures, stop, seconds, path, self.comparison)
        if failures and self.on_failure == "raise":
            raise TrainingGateError(explain(failures))
        return outcome

    def recall(self, step: int, steps: Collection[int] | None = None) -> None:
        """Take in the evaluations that the run had made when it was at a step.

        For a run that goes on from a checkpoint: gates then look back beyond it.

        Args:
            step: steps that the checkpoint has behind it.
            steps: the evaluations to take in; None for all up to `step` that `folder` has.
        """
        if self.folder is None or not self.folder.is_dir():
            return
        records = {
            int(match[1]): path
            for path in self.folder.iterdir()
            if (match := _FILE.fullmatch(path.name))
        }
        self.history.clear()
        for number in sorted(records):
            if number > step or (steps is not None and number not in steps):
                continue
            try:
                record = read_record(records[number])
            except RecordError as error:
                log.warning("icl_bench: an earlier evaluation is left out: %s", error)
                continue
            record = record.model_copy(update={"step": number})
            self._start = self._start if self.history else _without_tables(record)
            self.history.append(without_rows(record))

    def _compare(self, record: RunRecord) -> None:
        """Compare with the first evaluation, and log it when something is worse, or is no more."""
        if self._start is None:
            self._start = _without_tables(record)
            return
        self.comparison = found = compare(self._start, record)
        passed = not found.is_worse(inconclusive_fails=False)
        if passed != self._passed:
            level = logging.INFO if passed else logging.WARNING
            told = verdict_line(found, inconclusive_fails=False)
            since = self._start.step
            log.log(level, "icl_bench, step %s against step %s: %s", record.step, since, told)
        self._passed = passed

    def _measure(self, step: int) -> RunRecord:
        from icl_bench.integrations.training_state import left_as_it_was
        from icl_bench.running.lazy_model import LazyModel
        from icl_bench.running.model_run import ModelRun
        from icl_bench.running.setup import Setup

        spec = ModelSpec(f"{self.name}@{step}", "object", self.name)
        setup = Setup(self.plan, RunOptions(seed=self.seed, cache=False))
        lazy = LazyModel(spec, plain_name(spec), setup, model=self._model)
        with left_as_it_was(self._module):
            record = ModelRun(lazy, setup).run()
        return record.model_copy(update={"step": step})

    def _tell(self, record: RunRecord) -> None:
        """Log the gates whose verdict is another than at the evaluation before.

        What ends training is left to whoever ends it.
        """
        for key, measurement in record.measurements.items():
            if measurement.status == "error":
                log.warning("icl_bench, step %s: %s: %s", record.step, key, measurement.reason)
        for gate in record.gates:
            if self._said.get(gate.gate) == gate.verdict:
                continue
            self._said[gate.gate] = gate.verdict
            if gate.verdict in self.stop_on and self.on_failure != "warn":
                continue
            level = logging.INFO if gate.verdict in ("pass", "skipped") else logging.WARNING
            log.log(level, "icl_bench gate: %s: %s (%s)", gate.gate, gate.verdict, gate.reason)


def probe_training(
    model: Any,
    suites: Sequence[str | Path] = ("gate",),
    *,
    step: int,
    tokenizer: Any | None = None,
    folder: str | Path | None = None,
    name: str = "training",
    seed: int | None = None,
) -> RunRecord:
    """Measure a model in training once and leave it as it was.

    For more than one evaluation of a run use `TrainingGate`, which checks the model once only.

    Args:
        model: see `TrainingGate`.
        suites: names of shipped suites, or paths.
        step: optimizer steps made.
        tokenizer: the model's, or None (text items are then skipped).
        folder: where the record is written, `results-stepSTEP.json`; None for nowhere.
        name: the run's name in the record.
        seed: overrides the suites' seeds.

    Raises:
        InputError: a suite or an argument is wrong.
        ModelError: the model cannot be measured while it is trained.
    """
    gate = TrainingGate(model, suites, tokenizer=tokenizer, folder=folder, name=name, seed=seed)
    return gate.check(step).record


def plan_gates(suites: Sequence[str | Path], gates: Sequence[Gate], seed: int | None) -> Plan:
    """Resolve suites into what an evaluation measures, and check that gates fit to it.

    Args:
        suites: names of shipped suites, or paths.
        gates: what must hold.
        seed: overrides the suites' seeds.

    Raises:
        InputError: a suite or a gate is wrong.
    """
    from icl_bench.suite import find_suite

    if isinstance(suites, (str, Path)):
        raise SettingsError(f"suites: must be a list: [{str(suites)!r}]")
    if callable(getattr(gates, "judge", None)):
        raise SettingsError(f"gates: must be a list: [{type(gates).__name__}(...)]")
    plan = make_plan([find_suite(str(name)) for name in suites], seed=seed)
    for gate in gates:
        if not callable(getattr(gate, "judge", None)):
            raise SettingsError(f"{gate!r} is no gate; gates are Reaches, Keeps and Passes")
        gate.validate(plan)
    return plan


def check_choices(every: int | None, on_failure: str, stop_on: Collection[str]) -> None:
    """Raise SettingsError when an argument is none of those there are.

    Args:
        every: steps between evaluations, or None.
        on_failure: stop, raise or warn.
        stop_on: verdicts.
    """
    if every is not None and every < 1:
        raise SettingsError("'every' has to be 1 or more steps, or None")
    if on_failure not in get_args(OnFailure):
        hint = nearest(on_failure, get_args(OnFailure))
        raise SettingsError(f"unknown on_failure {on_failure!r}; {hint}")
    if isinstance(stop_on, str):
        raise SettingsError(f"stop_on: must be a list: [{stop_on!r}]")
    for verdict in stop_on:
        if verdict not in get_args(Verdict):
            hint = nearest(verdict, get_args(Verdict))
            raise SettingsError(f"unknown verdict {verdict!r} in stop_on; {hint}")


def is_due(step: int, every: int | None, gates: Sequence[Gate]) -> bool:
    """Whether an evaluation is due at a step.

    Args:
        step: optimizer steps made.
        every: steps between evaluations, or None.
        gates: each may ask for steps of its own.
    """
    by_rhythm = every is not None and step > 0 and step % every == 0
    return by_rhythm or any(step in gate.steps for gate in gates if step > 0)


def _without_tables(record: RunRecord) -> RunRecord:
    """The record with its heads, which a comparison reads, and without tables."""
    slim = {
        key: measurement.model_copy(update={"tables": {}})
        for key, measurement in record.measurements.items()
    }
    return record.model_copy(update={"measurements": slim})


def without_rows(record: RunRecord) -> RunRecord:
    """Return a record without rows of heads and tables, which no gate reads.

    Args:
        record: of one evaluation.
    """
    slim = {
        key: measurement.model_copy(update={"heads": [], "tables": {}})
        for key, measurement in record.measurements.items()
    }
    return record.model_copy(update={"measurements": slim})
