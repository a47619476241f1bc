"""The heads at which edits are planted: the induction circuit's, and some that do nothing."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from icl_bench.measures.draws import Draws
from icl_bench.models.attention.ablation import ZEROS, Head
from icl_bench.probes import get_probe
from icl_bench.probes.ablations.copy_runs import run_varied
from icl_bench.probes.design.context import Context

if TYPE_CHECKING:
    from icl_bench.models.model import Model
    from icl_bench.mutating.edits import Edit

SEQUENCES = 8
CANDIDATES = 16
"""Heads that are looked at for some that do nothing."""
IDLE = 2
"""How many of them are taken."""
QUIET = 0.1
"""Induction and previous-token score of a head that may do nothing, at most."""
_SCORES = ("induction", "induction_excess", "induction_varied")


@dataclass(frozen=True)
class Circuit:
    """Heads by what they do.

    Args:
        induction: the head with the best induction score.
        previous: the best previous-token head below it; None where there is no layer below.
        idle: heads whose removal changes the loss on varied repeats least.
    """

    induction: Head
    previous: Head | None
    idle: tuple[Head, ...]

    def places(self, edit: Edit) -> list[Head | None]:
        """Return where an edit is planted, once for each place.

        Args:
            edit: the edit.
        """
        heads = [self.induction, *([self.previous] if self.previous else [])]
        if edit.at in ("circuit", "layers"):
            return [*heads]
        return [*self.idle] if edit.at == "idle" else [None]


def find_circuit(model: Model, period: int, seed: int) -> Circuit:
    """Find the heads at which edits are planted, on sequences of their own.

    Args:
        model: the unedited model.
        period: tokens in a block.
        seed: of the sequences and of the heads that are looked at.

    Raises:
        NotMeasurable: the model has no attention heads.
        MeasurementError: the sequences do not fit the model.
    """
    model.require_heads()
    probe = get_probe("induction")
    assert probe.measure is not None
    settings = probe.settings(sequences=SEQUENCES, period=period, seed=seed + 1)
    rows = probe.measure(model, settings, Context()).heads
    best = max(rows, key=_least)
    induction = _name(best)
    lower = [row for row in rows if row["layer"] < induction[0]]
    previous = max(lower, key=lambda row: float(row["previous_token"]), default=None)
    chosen = {induction, *([_name(previous)] if previous else [])}
    quiet = [
        _name(row)
        for row in rows
        if _name(row) not in chosen and max(_least(row), row["previous_token"]) < QUIET
    ]
    return Circuit(
        induction,
        _name(previous) if previous else None,
        _find_idle(model, quiet, settings),
    )


def _find_idle(model: Model, quiet: list[Head], settings: Any) -> tuple[Head, ...]:
    draws = Draws(settings.seed, "heads")
    chosen = draws.choose(quiet, min(CANDIDATES, len(quiet)))
    if not chosen:
        return ()
    run = run_varied(model, Context(), settings, model.choose_bos("auto"))
    rises = np.abs(run.rises(model, [[head] for head in chosen], ZEROS)).mean(axis=1)
    return tuple(sorted(chosen[place] for place in np.argsort(rises)[:IDLE]))


def _least(row: dict[str, Any]) -> float:
    """The smallest of a head's induction scores: by plain repeats, beyond the control, varied."""
    return min(float(row[name]) for name in _SCORES if name in row)


def _name(row: dict[str, Any]) -> Head:
    return int(row["layer"]), int(row["head"])
