"""Runs of a model on blocks that come again, at one distance and at varied ones, clean and ablated.

The clean runs are shared by all measurements of a model that look at the same sequences.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np
import torch

from icl_bench.measures.copying import (
    CopyLosses,
    first_targets,
    repeated_targets,
    split_losses,
)
from icl_bench.measures.tokens import Pairs, RepeatedTokens, induction_pairs
from icl_bench.measures.varied import VariedTokens, draw_varied
from icl_bench.models.attention.ablation import Part, Replacement, layer_of
from icl_bench.models.circuits.interventions import switch_off
from icl_bench.probes.design.settings import TokenPool

if TYPE_CHECKING:
    from torch import Tensor

    from icl_bench.models.clean_run import BaseRun
    from icl_bench.models.model import Model
    from icl_bench.probes.design.context import Advance, Context


class DrawnAlike(Protocol):
    """Settings that say how repeated sequences are drawn."""

    sequences: int
    period: int
    seed: int
    token_pool: TokenPool


@dataclass(frozen=True)
class CopyRun(ABC):
    """Sequences in which a block comes again, and a clean run of them.

    Args:
        run: the clean run.
        targets: physical positions of the targets of later copies; of varied repeats, of all rows.
        first: loss on the first copy, nats, shape (sequences,).
        repeated: loss on the later copies.
    """

    run: BaseRun
    targets: Tensor
    first: np.ndarray
    repeated: np.ndarray

    @property
    def gain(self) -> np.ndarray:
        """first - repeated, nats, shape (sequences,)."""
        return np.asarray(self.first - self.repeated)

    @abstractmethod
    def edges(self, offset: int) -> Pairs:
        """Return the pairs of (query, key at `offset` from the earlier occurrence)."""

    @abstractmethod
    def average(self, nll: Tensor, start: int, stop: int) -> np.ndarray:
        """Average the losses of `targets` over each of sequences start..stop-1."""

    def rises(
        self,
        model: Model,
        sets: Sequence[Sequence[Part]],
        replacement: Replacement,
        start: int = 0,
        stop: int | None = None,
        advance: Advance | None = None,
    ) -> np.ndarray:
        """Return how much each set of parts that is off raises the loss on later copies.

        Args:
            model: the model.
            sets: what is off.
            replacement: what becomes of it.
            start: the first sequence.
            stop: the one after the last; None for all.
            advance: called with the number of rows done.

        Returns:
            nats, shape (sets, sequences).
        """
        stop = len(self.first) if stop is None else stop
        losses = switch_off(
            model,
            self.run.part(start, stop),
            sets,
            replacement,
            targets=self.targets,
            advance=advance,
        )
        repeated = np.stack([self.average(nll, start, stop) for nll in losses.nll])
        return np.asarray(repeated - self.repeated[start:stop])


@dataclass(frozen=True)
class RepeatedRun(CopyRun):
    """A run of blocks repeated at one period.

    Args:
        tokens: the sequences.
        losses: all that is averaged of the clean run.
    """

    tokens: RepeatedTokens
    losses: CopyLosses

    def edges(self, offset: int) -> Pairs:
        """Return the pairs of (query, key at `offset` from the earlier occurrence)."""
        return induction_pairs(self.tokens, offset)

    def average(self, nll: Tensor, start: int, stop: int) -> np.ndarray:
        """Average the losses of `targets` over each of sequences start..stop-1."""
        return np.asarray(nll.double().numpy().mean(axis=1))

    def ablate(
        self, model: Model, parts: list[Part], replacement: Replacement, advance: Advance
    ) -> CopyLosses:
        """Return the losses with some parts off, on the first copy too."""
        targets = all_targets(self.tokens)
        off = switch_off(model, self.run, [parts], replacement, targets=targets, advance=advance)
        return split_losses(self.tokens, off.nll[0], off.correct[0])


@dataclass(frozen=True)
class VariedRun(CopyRun):
    """A run of blocks that come again at distances of their own.

    Args:
        tokens: the sequences.
    """

    tokens: VariedTokens

    def edges(self, offset: int) -> Pairs:
        """Return the pairs of (query, key at `offset` from the earlier occurrence)."""
        return self.tokens.pairs(offset)

    def average(self, nll: Tensor, start: int, stop: int) -> np.ndarray:
        """Average the losses of `targets` over each of sequences start..stop-1."""
        return self.tokens.rows(start, stop).split(nll, self.targets)[1]


def all_targets(tokens: RepeatedTokens) -> Tensor:
    """Return the targets of the first copy, then the predictable ones of later copies."""
    return torch.cat([first_targets(tokens), repeated_targets(tokens)])


def run_repeats(
    model: Model,
    context: Context,
    tokens: RepeatedTokens,
    parts: Sequence[Part] = (),
    advance: Advance = lambda rows: None,
) -> RepeatedRun:
    """Run repeated sequences as they are.

    Args:
        model: the model.
        context: clean runs that others have made.
        tokens: the sequences.
        parts: what will be switched off, for the run to keep what enters the lowest of it.
        advance: called with the number of sequences done.
    """
    # The first token of a later copy too, which `losses` shows: one run serves all.
    targets = torch.arange(1, tokens.period * tokens.repeats) + tokens.prefix
    below = {min(map(layer_of, parts))} if parts else set()
    run = context.base_run(model, tokens.input_ids, targets, below, advance)
    columns = run.columns(all_targets(tokens))
    losses = split_losses(tokens, run.losses.nll[:, columns], run.losses.correct[:, columns])
    later = repeated_targets(tokens)
    return RepeatedRun(run, later, losses.first, losses.repeated, tokens, losses)


def run_varied(
    model: Model,
    context: Context,
    settings: DrawnAlike,
    bos: int | None,
    parts: Sequence[Part] = (),
    advance: Advance = lambda rows: None,
) -> VariedRun:
    """Run blocks that come again at varied distance, on sequences that no head was chosen on.

    Args:
        model: the model.
        context: clean runs that others have made.
        settings: how many sequences, around which period.
        bos: id put first, or None.
        parts: what will be switched off, for the run to keep what enters the lowest of it.
        advance: called with the number of sequences done.

    Raises:
        MeasurementError: the vocabulary is too small, or heads do not see so far.
    """
    tokens = draw_varied(
        model.pool(settings.token_pool),
        sequences=settings.sequences,
        period=settings.period,
        seed=settings.seed,
        bos=bos,
        stream="varied_test",
        reach=model.reach,
    )
    below = {min(map(layer_of, parts))} if parts else set()
    run = context.base_run(model, tokens.input_ids, tokens.targets, below, advance)
    first, repeated = tokens.split(run.losses.nll, tokens.targets)
    return VariedRun(run, tokens.second_targets, first, repeated, tokens)


def knocked_out(where: CopyRun, offset: int) -> Replacement:
    """Return what takes one edge from each query of later copies: heads stay on.

    Args:
        where: the sequences.
        offset: 1 for the induction target, 0 for the earlier occurrence itself.
    """
    return Replacement(edges=where.edges(offset))
