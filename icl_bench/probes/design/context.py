"""What a probe gets beside the model and its settings."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from icl_bench.records.parts import Measurement

if TYPE_CHECKING:
    from torch import Tensor

    from icl_bench.models.clean_run import BaseRun
    from icl_bench.models.model import Model

RUNS_KEPT = 2
"""Clean runs held at once; each may hold residual streams."""

Advance = Callable[[int], None]
Task = Callable[[str, int], AbstractContextManager[Advance]]
"""Opens a progress line: (what is done, rows in all) -> a function to call with rows done."""


@contextmanager
def silent_task(description: str, total: int) -> Iterator[Advance]:
    """Show no progress."""
    yield lambda rows: None


@dataclass
class Context:
    """Surroundings of one measurement.

    Args:
        upstream: the measurement that heads are chosen from, when the settings name one.
        task: opens a progress line.
        runs: clean runs that measurements of one model share; its weights must not change.
    """

    upstream: Measurement | None = None
    task: Task = field(default=silent_task)
    runs: dict[str, BaseRun] = field(default_factory=dict)

    def base_run(
        self,
        model: Model,
        input_ids: Tensor,
        targets: Tensor,
        layers: Collection[int],
        advance: Advance,
    ) -> BaseRun:
        """Return the untouched run of some sequences, taken once for all measurements.

        Args:
            model: the model.
            input_ids: (sequences, length).
            targets: physical positions of the target tokens.
            layers: layers whose input will be wanted.
            advance: called with the number of sequences done.
        """
        from icl_bench.measures.tokens import digest_tokens
        from icl_bench.models.clean_run import run_base

        key = digest_tokens(input_ids, targets)
        if key in self.runs:
            advance(len(input_ids))
        else:
            while len(self.runs) >= RUNS_KEPT:
                self.runs.pop(next(iter(self.runs)))
            self.runs[key] = run_base(model, input_ids, targets, layers, advance=advance)
        return self.runs[key]
