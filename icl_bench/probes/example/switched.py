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
    from icl_bench.models.model import Model
    from icl_bench.probes.design.context import Context
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
    import torch

    from icl_bench.models.circuits.interventions import Interventions, switch_off
    from icl_bench.models.circuits.predictions import predict
    from icl_bench.models.clean_run import HeadsOff, run_base_without

    offs = every_setting(len(switches))
    sets = [heads_off(switches, off) for off in offs]
    random = draw_random(model, switches, settings.seed)
    every = [*sets, *random]
    prepared = _prepare(model, settings, example, tokens, sets[-1])
    how = prepared.replacement
    ids, places = torch.tensor([example.ids]), torch.arange(1, len(example.ids))
    targets = torch.arange(1, tokens.period * tokens.repeats) + tokens.prefix
    # Wherever induction heads are off, the lowest of them is the lowest of some switch.
    first = {one.heads[0][0] for one in switches if one.role == "induction"}
    numbers: dict[int, dict[str, Any]] = {}
    predictions: dict[int, list[dict[str, Any]]] = {}
    answers: dict[int, np.ndarray] = {}
    losses: dict[tuple[int, ...], np.ndarray] = {}
    groups = group_by_feeders(switches, offs)
    count = len(tokens.input_ids)
    rows = (count + 1) * (len(groups) + len(sets)) + count * len(random)
    with context.task("every setting of the switches", rows) as advance:
        for feeders, own in groups.items():
            # Random heads are compared with what the clean run starts.
            asked = own if feeders else [*own, *range(len(sets), len(every))]
            start = HeadsOff(heads_off(switches, feeders), how)
            base = run_base_without(model, tokens.input_ids, targets, start, first, advance=advance)
            found = switch_off(model, base, [every[one] for one in asked], how, advance=advance)
            for place, one in enumerate(asked):
                numbers[one] = _loss_row(tokens, found.nll[place], found.correct[place])
            text = run_base_without(model, ids, places, start, first, advance=advance)
            losses[feeders] = text.losses.nll[0].double().numpy()
            some = [sets[one] for one in own]
            off = Interventions(text, some, how)
            told = predict(model, off, example.asked, top=TOP, advance=advance)
            for place, one in enumerate(own):
                predictions[one] = _describe(model, example, told, place)
                answers[one] = told.answers[place, 0].double().numpy()
    return Settled(
        losses=losses[()],
        rows=[
            {"off": off, "heads": len(some), **numbers[one], "predictions": predictions[one]}
            for one, (off, some) in enumerate(zip(offs, sets))
        ],
        random_rows=[
            {"draw": draw} | {name: numbers[one][name] for name in ("repeated_loss", "first_loss")}
            for draw, one in enumerate(range(len(sets), len(every)))
        ],
        answers=np.stack([answers[one] for one in range(len(sets))]),
        batches=prepared.batches,
    )


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
    from icl_bench.probes.design.replacement import prepare_replacement

    length = tokens.input_ids.shape[1]
    if settings.method == "resample":
        # Each position of the text needs one that stands in for it.
        length = max(length, len(example.ids))
    return prepare_replacement(
        model,
        settings.method,
        parts=heads,
        sequences=settings.sequences,
        length=length,
        bos=model.choose_bos(settings.bos),
        seed=settings.seed,
        token_pool=settings.token_pool,
    )


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
