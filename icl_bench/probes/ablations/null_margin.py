"""The null of the `ablation` probe that gates: each of some other sets does less damage."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from icl_bench.errors import NotMeasurable
from icl_bench.measures.null import HeadSet, NullSets, disjoint_sets
from icl_bench.measures.tokens import Pairs
from icl_bench.models.circuits.interventions import require_support
from icl_bench.probes.ablations.copy_runs import CopyRun, knocked_out
from icl_bench.probes.ablations.margins import (
    FIRST_LOOK,
    Margins,
    Rises,
    SetMargin,
    measure_margins,
)
from icl_bench.records.parts import Measurement
from icl_bench.records.rows import list_heads

if TYPE_CHECKING:
    from icl_bench.models.attention.ablation import Replacement
    from icl_bench.models.model import Model
    from icl_bench.probes.design.context import Advance, Context

Head = tuple[int, int]
FEEDS = 0.4
"""A head that attends so much to the token before may feed an induction head."""
MARGIN_METRICS = ("null_margin", "null_margin_fed")
COPIES = 0.1
"""From this induction score on, a null head's score is shown."""
EDGES = (0, 2, 3)
"""Offsets from the earlier occurrence whose edges are cut where there are no other heads."""


@dataclass(frozen=True)
class MarginNull:
    """What the chosen heads are compared with.

    Args:
        apart: sets without heads that feed the chosen ones.
        fed: sets from the same layers that hold such a head.
        feeders: those heads.
    """

    apart: NullSets
    fed: list[HeadSet]
    feeders: list[Head]

    @property
    def heads(self) -> list[Head]:
        """All heads of all sets."""
        return sorted({head for some in (*self.apart.sets, *self.fed) for head in some})


def draw_null(
    heads: Sequence[Head], model: Model, draws: int, seed: int, feeders: Collection[Head]
) -> MarginNull:
    """Draw the sets that chosen heads are compared with.

    Args:
        heads: the chosen heads.
        model: the model.
        draws: sets wanted; 0 for none.
        seed: seed of the draws.
        feeders: heads that feed the chosen ones.
    """
    if draws == 0 or not heads:
        return MarginNull(NullSets([], 0), [], [])
    apart = disjoint_sets(heads, model.heads, draws, seed, feeders)
    mixed = disjoint_sets(heads, model.heads, draws, seed)
    fed = [some for some in mixed.sets if not set(some).isdisjoint(feeders)]
    return MarginNull(apart, fed, sorted(set(feeders)))


@dataclass(frozen=True)
class Damage:
    """What switching the chosen heads off did, on one run.

    Args:
        model: the model.
        context: progress.
        where: the sequences.
        heads: the chosen heads.
        replacement: what becomes of heads that are off.
        rises: of the loss on later copies, nats, shape (sequences,).
    """

    model: Model
    context: Context
    where: CopyRun
    heads: list[Head]
    replacement: Replacement
    rises: np.ndarray

    def of_sets(self, sets: list[HeadSet]) -> Rises:
        """Return a function that measures what other sets of heads do.

        Args:
            sets: the sets.
        """

        def rises(numbers: list[int], start: int, stop: int) -> np.ndarray:
            wanted, rows = [sets[number] for number in numbers], len(numbers) * (stop - start)
            with self.context.task("other heads of the same layers", rows) as advance:
                return self.where.rises(self.model, wanted, self.replacement, start, stop, advance)

        return rises

    def of_edges(self) -> Rises:
        """Return a function that measures what the chosen heads lose without edges of `EDGES`."""

        def rises(numbers: list[int], start: int, stop: int) -> np.ndarray:
            rows = len(numbers) * (stop - start)
            with self.context.task("other edges of the same heads", rows) as advance:
                return np.concatenate(
                    [self.without_edge(EDGES[i], start, stop, advance) for i in numbers]
                )

        return rises

    def without_edge(
        self, offset: int, start: int = 0, stop: int | None = None, advance: Advance | None = None
    ) -> np.ndarray:
        """Return what the chosen heads lose without one edge of each query, (1, sequences).

        Args:
            offset: of the key, from the earlier occurrence.
            start: the first sequence.
            stop: the one after the last; None for all.
            advance: called with the number of sequences done.
        """
        edges = knocked_out(self.where, offset)
        return self.where.rises(self.model, [self.heads], edges, start, stop, advance)


def compare_margins(
    result: Measurement, damage: Damage, null: MarginNull, scores: dict[Head, float]
) -> None:
    """Report how much more the chosen heads do than other heads of their layers.

    Args:
        result: the measurement; `null_margin` and its table are added.
        damage: what the chosen heads did.
        null: the sets that they are compared with.
        scores: induction scores of heads, where they are known.
    """
    gain = float(damage.where.gain.mean())
    if gain <= 0:
        why = f"the clean model gains nothing from repetition (gain {gain:.3g} nats)"
        result.unmeasured |= dict.fromkeys(MARGIN_METRICS, why)
        return
    if not null.apart.sets:
        _compare_edges(result, damage, gain)
        return
    sets = null.apart.sets
    margins = measure_margins(damage.rises, gain, len(sets), damage.of_sets(sets))
    result.metrics["null_margin"] = result.metrics["null_margin_fed"] = margins.metric()
    result.tables["null_margins"] = _tabulate(margins, sets, scores, "")
    if null.apart.radius:
        near = f"null heads come from up to {null.apart.radius} layers away"
        result.reason = f"{result.reason}; {near}" if result.reason else near
    if null.fed:
        few = damage.rises[:FIRST_LOOK]
        fed = measure_margins(few, gain, len(null.fed), damage.of_sets(null.fed))
        # With the confidence of the others, in the table as in the metric.
        both = replace(margins, sets=[*margins.sets, *fed.sets])
        result.metrics["null_margin_fed"] = both.metric()
        beside = replace(margins, sets=fed.sets)
        result.tables["null_margins"] += _tabulate(beside, null.fed, scores, "feeds them")


def _compare_edges(result: Measurement, damage: Damage, gain: float) -> None:
    """No other heads: the edge to the induction target against other edges of the same heads."""
    none = "there are no other heads to compare with"
    result.unmeasured["null_margin_fed"] = none
    try:
        require_support(damage.model, knocked_out(damage.where, 1))
    except NotMeasurable as error:
        result.unmeasured["null_margin"] = f"not applicable: {none}, and {error}"
        return
    chosen = damage.without_edge(1)[0]
    margins = measure_margins(chosen, gain, len(EDGES), damage.of_edges())
    result.metrics["null_margin"] = margins.metric()
    result.remarks["null_margin"] = (
        f"{none}: what the chosen heads lose without their attention to the token after the "
        "earlier occurrence is compared with what they lose without other edges"
    )
    result.tables["null_margins"] = [
        {"draw": number, "heads": f"edges at offset {offset}", **_row(margins, one)}
        for number, (offset, one) in enumerate(zip(EDGES, margins.sets))
    ]


def _tabulate(
    margins: Margins, sets: list[HeadSet], scores: dict[Head, float], note: str
) -> list[dict[str, Any]]:
    """A row for each set: its heads, the margin over it, and its heads that copy a little."""
    rows = []
    for number, (some, one) in enumerate(zip(sets, margins.sets)):
        copying = [head for head in some if scores.get(head, 0) >= COPIES]
        told = ", ".join(f"{layer}.{head} {scores[layer, head]:.2f}" for layer, head in copying)
        named = list_heads([{"layer": layer, "head": head} for layer, head in some])
        rows.append(
            {"draw": number, "heads": named, **_row(margins, one), "note": note, "scores": told}
        )
    return rows


def _row(margins: Margins, one: SetMargin) -> dict[str, Any]:
    row: dict[str, Any] = {"margin": one.value, "sequences": len(one.margins)}
    low, high = one.low(margins.low_confidence), one.high(margins.high_confidence)
    return row if low is None or high is None else {**row, "ci_low": low, "ci_high": high}


def feeding_heads(model: Model, upstream: Measurement | None, input_ids: Tensor) -> list[Head]:
    """Return the heads that may feed induction heads: they attend to the token before.

    Args:
        model: the model.
        upstream: the measurement that heads were chosen from.
        input_ids: sequences to read where it has not scored them, (sequences, length).
    """
    rows = upstream.heads if upstream is not None else []
    if rows and all("previous_token" in row for row in rows):
        return [(r["layer"], r["head"]) for r in rows if r["previous_token"] >= FEEDS]
    query = torch.arange(2, input_ids.shape[1])
    pairs = {"previous_token": Pairs(query, query - 1)}
    scores = model.head_scores(input_ids[:FIRST_LOOK], pairs)["previous_token"]
    return [
        (layer, head)
        for layer, values in scores.items()
        for head, value in enumerate(values.mean(dim=0).tolist())
        if value >= FEEDS
    ]
