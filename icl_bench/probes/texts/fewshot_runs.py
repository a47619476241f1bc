"""The runs of the `fewshot` probe: every task's prompts, with sets of heads on and off."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from icl_bench.probes.prompts.encoding import encode, encode_choices
from icl_bench.probes.prompts.examples import draw_queries, write_prompt
from icl_bench.probes.prompts.scoring import Sheet, lay_out, likelihoods_alone, score_choice
from icl_bench.tasks import load_task

if TYPE_CHECKING:
    from torch import Tensor

    from icl_bench.measures.null import HeadSet
    from icl_bench.models.attention.ablation import Head, Replacement
    from icl_bench.models.model import Model
    from icl_bench.models.module.losses import TokenLosses
    from icl_bench.probes.texts.fewshot import Settings


@dataclass
class HeadSets:
    """Sets of heads to switch off.

    Args:
        chosen: the heads that the suite names; none when empty.
        matched: layer-matched random sets.
        uniform: random sets of any layer.
        radius: how many layers away a matched head may lie.
        p_min: smallest p-value that the matched sets can give.
    """

    chosen: tuple[Head, ...] = ()
    matched: list[HeadSet] = field(default_factory=list)
    uniform: list[HeadSet] = field(default_factory=list)
    radius: int = 0
    p_min: float = 1.0


@dataclass
class LaidOut:
    """The prompts of one task.

    Args:
        name: of the task.
        sheets: shots -> rows and places.
        chances: for each query, the accuracy of guessing.
        texts: for each query, its choices as they are written.
        null_queries: queries that random sets are measured on.
    """

    name: str
    sheets: dict[int, Sheet]
    chances: list[float]
    texts: list[list[str]]
    null_queries: int

    @property
    def longest(self) -> int:
        """Tokens of the longest prompt with a choice."""
        return max(sheet.input_ids.shape[1] for sheet in self.sheets.values()) + 1

    def compared(self) -> list[int]:
        """The shots that a gain is taken between."""
        return [0, max(self.sheets)]

    def null_rows(self, shots: int) -> int:
        """Rows of the first `null_queries` queries."""
        return self.sheets[shots].rows[self.null_queries - 1]

    def rows(self, sets: HeadSets) -> int:
        """Rows that have to be run in all."""
        total = sum(len(sheet.input_ids) for sheet in self.sheets.values())
        for shots in self.compared() if sets.chosen else []:
            total += len(self.sheets[shots].input_ids)
            total += self.null_rows(shots) * (len(sets.matched) + len(sets.uniform))
        return total


@dataclass
class CheckedRun:
    """Which queries of one task and one number of shots were answered rightly.

    Args:
        right: whether the right choice had the best score, 1.0 or 0.0, shape (queries,).
        first: whether its first token ranked first of all tokens, the same shape.
    """

    right: np.ndarray
    first: np.ndarray


ByShots = dict[int, CheckedRun]


@dataclass
class Answers:
    """Answers to the queries of one task.

    Args:
        clean: shots -> answers with every head on.
        chosen: the same with the chosen heads off, for 0 and the most shots.
        matched: for each layer-matched set off, the same of the null's queries.
        uniform: the same of the uniform sets.
    """

    clean: ByShots = field(default_factory=dict)
    chosen: ByShots = field(default_factory=dict)
    matched: list[ByShots] = field(default_factory=list)
    uniform: list[ByShots] = field(default_factory=list)


def lay_out_task(model: Model, settings: Settings, name: str) -> LaidOut:
    """Draw and tokenize the prompts of one task.

    Raises:
        NotMeasurable: no tokenizer, or an unknown word.
        MeasurementError: a choice becomes no token of its own.
    """
    task = load_task(name)
    queries = draw_queries(task, settings.queries, settings.choices, settings.seed, "fewshot")
    sheets = {}
    for shots in settings.shots:
        texts = [write_prompt(q, shots, settings.template, settings.separator) for q in queries]
        encoded = [encode_choices(model, prompt, choices) for prompt, choices in texts]
        sheets[shots] = lay_out(encoded, model.vocabulary[0])
    return LaidOut(
        name,
        sheets,
        [1 / len(query.choices) for query in queries],
        [choices for _, choices in texts],
        min(settings.null_queries, len(queries)),
    )


def average_outputs(
    model: Model, settings: Settings, heads: Sequence[Head]
) -> tuple[Replacement, list[Tensor]]:
    """What stands in for heads that are off, and the ids of held-out prompts that it is from.

    The mean is over every position after BOS of prompts with the most shots, one a task, drawn
    anew and cut to the shortest of them.
    """
    import torch

    from icl_bench.models.attention.ablation import ZEROS, Replacement

    if settings.method == "zero" or not heads:
        return ZEROS, []
    rows = []
    for name in settings.tasks:
        [query] = draw_queries(load_task(name), 1, 2, settings.seed, "fewshot_heldout")
        prompt, _ = write_prompt(query, max(settings.shots), settings.template, settings.separator)
        rows.append(encode(model, prompt))
    shortest = min(map(len, rows))
    ids = torch.tensor([row[:shortest] for row in rows])
    prefix = int(model.bos is not None and all(row[0] == model.bos for row in rows))
    values = model.mean_outputs(ids, prefix, {layer for layer, _ in heads})
    return Replacement(values), [ids]


def draw_sets(model: Model, settings: Settings, heads: Sequence[Head]) -> HeadSets:
    """Draw the random sets that the chosen heads are compared with."""
    from icl_bench.measures.null import matched_sets, uniform_sets

    if not heads:
        return HeadSets()
    sets = HeadSets(tuple(heads))
    if settings.null_draws:
        drawn = matched_sets(heads, model.heads, settings.null_draws, settings.alpha, settings.seed)
        sets.matched, sets.radius, sets.p_min = drawn.sets, drawn.radius, drawn.p_min
    sets.uniform = uniform_sets(heads, model.heads, settings.uniform_draws, settings.seed)
    return sets


def run_task(
    model: Model,
    settings: Settings,
    task: LaidOut,
    sets: HeadSets,
    replacement: Replacement,
    advance: Callable[[int], None],
) -> Answers:
    """Answer the queries of one task, with no head off and with every set off."""
    from icl_bench.models.circuits.interventions import switch_off
    from icl_bench.models.clean_run import run_base

    alone: dict[str, float] = {}
    if settings.score == "unconditional":
        alone = likelihoods_alone(model, [text for texts in task.texts for text in texts])
    found = Answers(matched=[{} for _ in sets.matched], uniform=[{} for _ in sets.uniform])

    def judge(sheet: Sheet, losses: TokenLosses, place: int | None = None) -> CheckedRun:
        nll, correct = losses.nll, losses.correct
        if place is not None:
            nll, correct = nll[place], correct[place]
        rights, firsts = [], []
        for parts, texts, places in zip(sheet.log_likelihoods(nll), task.texts, sheet.places):
            scores = [
                score_choice(part, settings.score, alone.get(text, 0.0))
                for part, text in zip(parts, texts)
            ]
            rights.append(scores[0] > max(scores[1:]))
            row, start, _ = places[0]
            firsts.append(bool(correct[row, start, 0]))
        return CheckedRun(np.array(rights, np.float64), np.array(firsts, np.float64))

    for shots, sheet in task.sheets.items():
        compared = bool(sets.chosen) and shots in task.compared()
        layers = {min(layer for layer, _ in sets.chosen)} if compared else set()
        base = run_base(
            model, sheet.input_ids, sheet.targets, layers, answers=sheet.answers, advance=advance
        )
        found.clean[shots] = judge(sheet, base.losses)
        if not compared:
            continue
        off = switch_off(model, base, [sets.chosen], replacement, advance=advance)
        found.chosen[shots] = judge(sheet, off, 0)
        random = [*sets.matched, *sets.uniform]
        if random:
            few = base.part(0, task.null_rows(shots))
            off = switch_off(model, few, random, replacement, advance=advance)
            for place, own in enumerate([*found.matched, *found.uniform]):
                own[shots] = judge(sheet, off, place)
    return found
