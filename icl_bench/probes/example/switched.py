"""What every setting of the `example` probe's switches does, to its text and to random tokens."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from icl_bench.probes.example.toggles import Switch, every_setting, heads_off

if TYPE_CHECKING:
    from torch import Tensor

    from icl_bench.measures.tokens import RepeatedTokens
    from icl_bench.models.circuits.predictions import Predictions
    from icl_bench.models.clean_run import BaseRun
    from icl_bench.models.model import Model
    from icl_bench.probes.design.context import Advance, Context
    from icl_bench.probes.design.replacement import Prepared
    from icl_bench.probes.example.example import Settings
    from icl_bench.probes.example.text import Example

Head = tuple[int, int]

RANDOM_DRAWS = 8
"""Sets of random heads that the induction heads are compared with."""
TOP = 5
"""Tokens of a prediction that are kept."""


@dataclass
class Settled:
    """What was measured of a text and of repeated tokens under every setting.

    Args:
        losses: of the text's tokens but the first, nats, (positions - 1,).
        rows: one per setting.
        random_rows: one per set of random heads.
        answers: probability of the token that follows each asked position, (settings, asked).
        batches: held-out ids that stand-ins were made from.
    """

    losses: np.ndarray
    rows: list[dict[str, Any]]
    random_rows: list[dict[str, Any]]
    answers: np.ndarray
    batches: list[Tensor]


def try_switches(
    model: Model,
    settings: Settings,
    context: Context,
    example: Example,
    tokens: RepeatedTokens,
    switches: Sequence[Switch],
) -> Settled:
    """Measure every setting, with as little of the model run again as can be.

    Settings with the same previous-token heads off have the same layers below the induction heads:
    one run without these heads is what the induction switches start from. Settings share passes.

    Args:
        model: the model.
        settings: method and seed.
        context: progress.
        example: the text.
        tokens: repeated sequences.
        switches: the switches.
    """
    offs = every_setting(len(switches))
    sets = [heads_off(switches, off) for off in offs]
    random = draw_random(model, switches, settings.seed)
    every = [*sets, *random]
    prepared = _prepare(model, settings, example, tokens, sets[-1])
    # Wherever induction heads are off, the lowest of them is the lowest of some switch.
    first = {one.heads[0][0] for one in switches if one.role == "induction"}
    groups = group_by_feeders(switches, offs)
    count = len(tokens.input_ids)
    rows = (count + 1) * (len(groups) + len(sets)) + count * len(random)
    with context.task("every setting of the switches", rows) as advance:
        runs = _Runs(model, example, tokens, prepared, first, advance)
        for feeders, own in groups.items():
            start = heads_off(switches, feeders)
            # Random heads are compared with what the clean run starts.
            asked = own if feeders else [*own, *range(len(sets), len(every))]
            runs.copy(start, {number: every[number] for number in asked})
            runs.read(start, {number: sets[number] for number in own})
    return Settled(
        losses=runs.text_losses,
        rows=[
            {
                "off": off,
                "heads": len(some),
                **runs.losses[number],
                "predictions": runs.predictions[number],
            }
            for number, (off, some) in enumerate(zip(offs, sets))
        ],
        random_rows=[
            {"draw": draw}
            | {name: runs.losses[number][name] for name in ("repeated_loss", "first_loss")}
            for draw, number in enumerate(range(len(sets), len(every)))
        ],
        answers=np.stack([runs.answers[number] for number in range(len(sets))]),
        batches=prepared.batches,
    )


class _Runs:
    """Runs of repeated tokens and of the text that start where previous-token heads are off.

    Args:
        model: the model.
        example: the text.
        tokens: repeated sequences.
        prepared: what becomes of heads that are off.
        first: layers that runs may start from.
        advance: called with the number of rows done.

    Attributes:
        losses: number of a set of heads -> its losses on the repeated tokens.
        predictions: number of a set -> what is predicted at each asked position of the text.
        answers: number of a set -> probability of the token that follows these, (asked,).
        text_losses: of the text with all induction heads on, nats, (positions - 1,).
    """

    def __init__(
        self,
        model: Model,
        example: Example,
        tokens: RepeatedTokens,
        prepared: Prepared,
        first: set[int],
        advance: Advance,
    ) -> None:
        self.model, self.example, self.tokens = model, example, tokens
        self.replacement, self.first, self.advance = prepared.replacement, first, advance
        self.losses: dict[int, dict[str, Any]] = {}
        self.predictions: dict[int, list[dict[str, Any]]] = {}
        self.answers: dict[int, np.ndarray] = {}
        self.text_losses = np.empty(0)

    def _start(self, ids: Tensor, targets: Tensor, off: Sequence[Head]) -> BaseRun:
        from icl_bench.models.clean_run import HeadsOff, run_base_without

        start = HeadsOff(off, self.replacement)
        return run_base_without(self.model, ids, targets, start, self.first, advance=self.advance)

    def copy(self, off: Sequence[Head], sets: dict[int, Sequence[Head]]) -> None:
        """Run the repeated tokens.

        Args:
            off: the heads that are off in every set.
            sets: number of a set -> its heads.
        """
        import torch

        from icl_bench.models.circuits.interventions import switch_off

        tokens = self.tokens
        targets = torch.arange(1, tokens.period * tokens.repeats) + tokens.prefix
        base = self._start(tokens.input_ids, targets, off)
        found = switch_off(
            self.model, base, list(sets.values()), self.replacement, advance=self.advance
        )
        for number, nll, correct in zip(sets, found.nll, found.correct):
            self.losses[number] = _loss_row(tokens, nll, correct)

    def read(self, off: Sequence[Head], sets: dict[int, Sequence[Head]]) -> None:
        """Run the text; parameters as of `copy`."""
        import torch

        from icl_bench.models.circuits.interventions import Interventions
        from icl_bench.models.circuits.predictions import predict

        ids, example = torch.tensor([self.example.ids]), self.example
        base = self._start(ids, torch.arange(1, len(example.ids)), off)
        if not off:
            self.text_losses = base.losses.nll[0].double().numpy()
        some = Interventions(base, list(sets.values()), self.replacement)
        told = predict(self.model, some, example.asked, top=TOP, advance=self.advance)
        for place, number in enumerate(sets):
            self.predictions[number] = _describe(self.model, example, told, place)
            self.answers[number] = told.answers[place, 0].double().numpy()


def group_by_feeders(
    switches: Sequence[Switch], offs: Sequence[Sequence[int]]
) -> dict[tuple[int, ...], list[int]]:
    """Return previous-token switches that are off -> the settings, by number, in which these are.

    Args:
        switches: the switches.
        offs: for each setting, the numbers of the switches that are off.
    """
    groups: dict[tuple[int, ...], list[int]] = {}
    for number, off in enumerate(offs):
        feeders = tuple(one for one in off if switches[one].role == "previous_token")
        groups.setdefault(feeders, []).append(number)
    return groups


def _prepare(
    model: Model,
    settings: Settings,
    example: Example,
    tokens: RepeatedTokens,
    heads: Sequence[Head],
) -> Prepared:
    """What stands in for the heads, on the text and on the random tokens alike."""
    from icl_bench.probes.design.replacement import HeldOut, prepare_replacement

    length = tokens.input_ids.shape[1]
    if settings.method == "resample":
        # Each position of the text needs one that stands in for it.
        length = max(length, len(example.ids))
    return prepare_replacement(model, settings.method, heads, HeldOut.like(model, settings, length))


def draw_random(model: Model, switches: Sequence[Switch], seed: int) -> list[tuple[Head, ...]]:
    """Draw sets of as many heads, layer by layer, as all induction switches have together.

    They are drawn as the null of the `ablation` probe is, from all heads of these layers, and never
    the induction heads themselves as a set; neighbouring layers do not help out.

    Args:
        model: the model.
        switches: the switches.
        seed: seed of the draws.
    """
    from icl_bench.measures.null import matched_sets

    chosen = {head for one in switches if one.role == "induction" for head in one.heads}
    if not chosen:
        return []
    return matched_sets(chosen, model.heads, RANDOM_DRAWS, alpha=1.0, seed=seed).sets


def _loss_row(tokens: RepeatedTokens, nll: Tensor, correct: Tensor) -> dict[str, Any]:
    """Losses of one setting.

    Args:
        tokens: the sequences.
        nll: losses of content positions 1 and later, (sequences, targets), nats.
        correct: whether each target was ranked first, same shape.
    """
    from icl_bench.measures.copying import split_losses
    from icl_bench.measures.statistics import mean_metric

    # The first token of the second copy cannot be predicted and is in neither mean.
    known = [place for place in range(nll.shape[1]) if place != tokens.period - 1]
    parts = split_losses(tokens, nll[:, known], correct[:, known])
    row: dict[str, Any] = {}
    for name, values in (("repeated_loss", parts.repeated), ("first_loss", parts.first)):
        metric = mean_metric(values, keep=False)
        row[name] = metric.value
        if metric.ci_low is not None:
            row |= {f"{name}_ci_low": metric.ci_low, f"{name}_ci_high": metric.ci_high}
    row["copy_accuracy"] = float(parts.accuracy.mean())
    row["loss_by_position"] = [round(loss, 4) for loss in nll.double().mean(0).tolist()]
    return row


def _describe(
    model: Model, example: Example, said: Predictions, place: int
) -> list[dict[str, Any]]:
    """Return the predictions of one setting, one row per position asked for."""
    from icl_bench.probes.example.text import show_token

    rows: list[dict[str, Any]] = []
    for column, position in enumerate(example.asked):
        ids, chances = (part[place, 0, column].tolist() for part in (said.ids, said.probabilities))
        best = zip(ids, chances)
        row: dict[str, Any] = {
            "position": position,
            "top": [[show_token(model.tokenizer, index), round(p, 5)] for index, p in best],
        }
        if position + 1 < len(example.ids):
            chance = round(float(said.answers[place, 0, column]), 5)
            row["next"] = [example.tokens[position + 1], chance]
        rows.append(row)
    return rows
