"""A callback for transformers' Trainer: suites while it trains, gates that stop it."""

from __future__ import annotations

import sys
import weakref
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Any

from transformers import TrainerCallback

from icl_bench.comparing import Comparison
from icl_bench.errors import ModelError, SettingsError, TrainingGateError
from icl_bench.integrations.gates import Gate
from icl_bench.integrations.gating import (
    FAILED,
    OnFailure,
    TrainingGate,
    check_choices,
    is_due,
    log,
    plan_gates,
)
from icl_bench.integrations.outcome import Outcome, explain
from icl_bench.integrations.stopped import tell_at_exit
from icl_bench.models.module.unwrapping import find_module
from icl_bench.records.parts import Verdict
from icl_bench.records.record import RunRecord

FOLDER = "icl"
"""Folder in the Trainer's output folder that gets a record of every evaluation."""
BESIDE = "icl_bench.json"
"""Name of the copy beside a checkpoint of the same step."""


class ICLCallback(TrainerCallback):
    """Runs suites while a Trainer trains, logs what they measure, and stops it at a failed gate.

    Every metric goes through the Trainer's own `log`, so that `trainer_state.json` and every
    tracker have it as `icl/SUITE/NAME/METRIC`. A record of each evaluation is written to
    `OUTPUT_DIR/icl/results-stepSTEP.json` at once, and copied to
    `checkpoint-STEP/icl_bench.json` where a checkpoint is saved at that step. The model is left as
    it was. An evaluation is due each `every` steps, at steps that a gate names, before a
    checkpoint is saved, before the first step and after the last.

    Args:
        suites: names of shipped suites, or paths.
        gates: what must hold.
        every: steps between evaluations; None for none by rhythm.
        at_save: measure what is saved.
        at_start: measure before the first step: what fine-tuning starts from. A gate that fails
            there ends training after the first step.
        on_failure: a failed gate ends training as if it had run to its end, with a last
            checkpoint; then `raise` raises TrainingGateError from `train()`, `stop` does not, and
            the exit code is the script's own: the failure is logged again when it ends. `warn`
            only logs it.
        stop_on: the verdicts that count as failed.
        tokenizer: None for the Trainer's.
        seed: overrides the suites' seeds.
        batch_size: rows of a forward pass; None to choose.

    Raises:
        InputError: a suite, a gate or an argument is wrong.
    """

    def __init__(
        self,
        suites: Sequence[str | Path] = ("gate",),
        gates: Sequence[Gate] = (),
        *,
        every: int | None = None,
        at_save: bool = True,
        at_start: bool = True,
        on_failure: OnFailure = "stop",
        stop_on: Collection[Verdict] = FAILED,
        tokenizer: Any | None = None,
        seed: int | None = None,
        batch_size: int | None = None,
    ) -> None:
        check_choices(every, on_failure, stop_on)
        plan_gates(suites, gates, seed)
        self.suites, self.gates = tuple(suites), tuple(gates)
        self.every, self.at_save, self.at_start = every, at_save, at_start
        self.on_failure, self.stop_on = on_failure, stop_on
        self.tokenizer, self.seed, self.batch_size = tokenizer, seed, batch_size
        self.gate: TrainingGate | None = None
        """What measures, on the main process, from the beginning of training."""
        self.failures: tuple[str, ...] = ()
        """Gates that did not hold at the last evaluation, in words."""
        self._trainer: Callable[[], Any] = lambda: None
        self._step: int | None = None

    @property
    def history(self) -> list[RunRecord]:
        """Records of every evaluation, without rows of heads and tables."""
        return self.gate.history if self.gate else []

    @property
    def comparison(self) -> Comparison | None:
        """The last evaluation against the run's first; None before there are two."""
        return self.gate.comparison if self.gate else None

    def attach(self, trainer: Any) -> ICLCallback:
        """Add the callback to a Trainer that is already there, and return it.

        Args:
            trainer: transformers' Trainer, or one of its subclasses.
        """
        if not any(callback is self for callback in trainer.callback_handler.callbacks):
            trainer.add_callback(self)
        self._trainer = weakref.ref(trainer)
        return self

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> Any:
        """Check and wrap the model; measure it before the first step."""
        trainer = _find_trainer(self) or self._trainer()
        if trainer is None:
            raise SettingsError("ICLCallback does not know its Trainer: call attach(trainer)")
        self._trainer = weakref.ref(trainer)
        self.failures, self._step, self.gate = (), None, None
        model = find_module(kwargs["model"])  # what is refused is refused in every process

        def prepare() -> list[int]:
            self.gate = TrainingGate(
                model,
                self.suites,
                self.gates,
                every=self.every,
                tokenizer=self.tokenizer or _tokenizer_of(kwargs.get("processing_class")),
                folder=_folder(args, state),
                name=Path(args.output_dir).resolve().name,
                seed=self.seed,
                batch_size=self.batch_size,
                on_failure="warn" if self.on_failure == "warn" else "stop",
                stop_on=self.stop_on,
            )
            if state.global_step:
                logged = {record["step"] for record in state.log_history if "icl/seconds" in record}
                self.gate.recall(state.global_step, logged)
            return [record.step for record in self.gate.history if record.step is not None]

        known = self._on_main(state, prepare)
        self._step = known[-1] if known else None
        if self.at_start:
            self._evaluate(args, state, control)
        return control

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> Any:
        """Measure when an evaluation is due."""
        step = state.global_step
        last = step >= state.max_steps
        if last or is_due(step, self.every, self.gates) or (self.at_save and control.should_save):
            self._evaluate(args, state, control)
        return control

    def on_epoch_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> Any:
        """Measure what is saved at the end of an epoch."""
        if self.at_save and control.should_save:
            self._evaluate(args, state, control)
        return control

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> Any:
        """Put the record beside the checkpoint; measure first where saving was decided late."""
        if self.at_save:
            self._evaluate(args, state, control)
        beside = Path(args.output_dir) / f"checkpoint-{state.global_step}"
        record = _folder(args, state) / f"results-step{state.global_step}.json"
        if state.is_world_process_zero and self._step == state.global_step and beside.is_dir():
            from icl_bench.records.writing import write_atomically

            write_atomically(beside / BESIDE, record.read_text(encoding="utf-8"))
        return control

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> Any:
        """Raise what ended the training, now that everything is saved and logged.

        Raises:
            TrainingGateError: a gate did not hold, with `on_failure="raise"`.
        """
        if self.failures and self.on_failure == "raise":
            raise TrainingGateError(explain(self.failures))
        return control

    def _evaluate(self, args: Any, state: Any, control: Any) -> None:
        step = state.global_step
        if self._step == step:
            return

        def measure() -> tuple[dict[str, float], tuple[str, ...], bool]:
            assert self.gate is not None
            outcome: Outcome = self.gate.check(step)
            return outcome.scalars(), outcome.failures, outcome.stop

        scalars, self.failures, stop = self._on_main(state, measure)
        self._step = step
        trainer = self._trainer()
        # Logging tells the Trainer that what it had to log at this step is done.
        due = control.should_log
        trainer.log(scalars)
        control.should_log = due
        if stop:
            if state.is_world_process_zero:
                why = explain(self.failures)
                log.error("icl_bench stops training at step %s: %s", step, why)
                if self.on_failure == "stop":
                    tell_at_exit(Path(args.output_dir).resolve().name, step, why)
            control.should_training_stop = True
            if str(getattr(args.save_strategy, "value", args.save_strategy)) != "no":
                control.should_save = True

    def _on_main(self, state: Any, work: Callable[[], Any]) -> Any:
        """Do something on the main process and return its result in all of them.

        The others wait. An error there is an error in all, lest they wait for ever.
        """
        result: Any = None
        error: Exception | None = None
        if state.is_world_process_zero:
            try:
                result = work()
            except Exception as caught:
                error = caught
        trainer = self._trainer()
        if trainer.args.world_size > 1:
            from accelerate.utils import broadcast_object_list

            sent = [result, None if error is None else f"{type(error).__name__}: {error}"]
            broadcast_object_list(sent)
            result = sent[0]
            if sent[1] is not None and error is None:
                raise ModelError(f"the main process: {sent[1]}")
        if error is not None:
            raise error
        return result


def _find_trainer(callback: ICLCallback) -> Any | None:
    """Return the Trainer that is calling.

    Transformers hands callbacks everything but the Trainer, and logging is the Trainer's; it
    stands up the stack of every event.
    """
    frame = sys._getframe(1)
    while frame is not None:
        caller = frame.f_locals.get("self")
        handler = getattr(caller, "callback_handler", None)
        if any(other is callback for other in getattr(handler, "callbacks", ())):
            return caller
        frame = frame.f_back  # type: ignore[assignment]
    return None


def _tokenizer_of(processing: Any | None) -> Any | None:
    """The tokenizer among what a Trainer was given to process its data with."""
    for candidate in (processing, getattr(processing, "tokenizer", None)):
        if hasattr(candidate, "all_special_ids") and hasattr(candidate, "get_vocab"):
            return candidate
    return None


def _folder(args: Any, state: Any) -> Path:
    # The trials of a hyperparameter search share an output folder.
    return Path(args.output_dir) / (getattr(state, "trial_name", None) or "") / FOLDER
