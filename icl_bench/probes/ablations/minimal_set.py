"""Probe `minimal_set`: how few heads carry the gain from repetition."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
from pydantic import Field

from icl_bench.errors import NotMeasurable
from icl_bench.probes.ablations.report import report_minimal_set
from icl_bench.probes.design.context import Context
from icl_bench.probes.design.replacement import HeldOut, prepare_replacement
from icl_bench.probes.design.settings import TokenSettings, Writing
from icl_bench.probes.protocol import MetricInfo, Probe
from icl_bench.records.parts import Measurement, Metric

if TYPE_CHECKING:
    from icl_bench.measures.copying import CopyLosses
    from icl_bench.measures.tokens import RepeatedTokens
    from icl_bench.models.attention.ablation import Replacement
    from icl_bench.models.model import Model

Head = tuple[int, int]


class Settings(TokenSettings):
    """What a suite may set for the `minimal_set` probe."""

    sequences: Annotated[int, Field(ge=1)] = 16
    """Held-out sequences that the curve is measured on."""
    choose_sequences: Annotated[int, Field(ge=1)] = 4
    """Sequences for the elimination."""
    share: Annotated[float, Field(gt=0, lt=1)] = 0.9
    """Share of the gain to keep."""
    method: Writing = "mean"
    """What replaces the output of ablated heads."""
    random_orders: Annotated[int, Field(ge=0)] = 8
    """Random sets of the same size to compare with."""


METRICS: dict[str, MetricInfo] = {
    "heads": MetricInfo("heads in the minimal set", "down", "heads", True),
    "heads_share": MetricInfo("share of all heads in the minimal set", "down", "ratio", True),
    "gain": MetricInfo("first_loss - repeated_loss of the clean model", "up", "nats"),
    "copying_kept": MetricInfo(
        "1 - copying_lost with all other heads off, on held-out sequences", "up", "ratio"
    ),
    "gain_kept": MetricInfo("gain with all other heads off / clean gain", "up", "ratio"),
    "copying_kept_by_effect": MetricInfo(
        "the same for as many heads with the largest effects on their own", None, "ratio"
    ),
    "copying_kept_by_induction": MetricInfo(
        "the same for as many heads with the highest induction scores", None, "ratio"
    ),
    "copying_kept_random_max": MetricInfo(
        "the largest of the same for random sets of as many heads", None, "ratio", True
    ),
}


def measure(model: Model, settings: Settings, context: Context) -> Measurement:
    """Eliminate heads on some sequences and measure what is left on others.

    Args:
        model: the model.
        settings: what to keep.
        context: progress.

    Raises:
        NotMeasurable: the model has no attention heads, or gains nothing from repetition.
        MeasurementError: the sequences do not fit the model.
    """
    from icl_bench.measures import tokens as tk
    from icl_bench.measures.statistics import exact_metric, mean_metric

    model.require_heads()
    choose, test = _draw(model, settings)
    most = max(settings.sequences, settings.choose_sequences)
    held_out = HeldOut.like(model, settings, test.input_ids.shape[1], most)
    prepared = prepare_replacement(model, settings.method, model.every_head, held_out)
    found = find_minimal_set(model, choose, settings.share, prepared.replacement, context)
    size, heads = len(found.kept), model.every_head
    orders = _order_heads(model, settings, choose, found)
    losses = _Keeping(model, test, prepared.replacement)
    clean = losses(heads, len(heads))
    rows, kept = _measure_curve(losses, orders, size, clean, context)
    kept_heads = [{"layer": layer, "head": head} for layer, head in found.kept]
    result = Measurement(
        probe="minimal_set",
        settings=settings.model_dump(),
        tokens_sha256=tk.digest_tokens(choose.input_ids, test.input_ids, *prepared.batches),
        metrics={
            "heads": exact_metric(size),
            "heads_share": exact_metric(size / len(heads)),
            "gain": mean_metric(clean.gain),
            "copying_kept": kept["elimination"],
            "gain_kept": _gain_kept(clean, losses(found.order, size)),
            "copying_kept_by_effect": kept["effect"],
            "copying_kept_by_induction": kept["induction"],
        },
        tables={"kept_heads": kept_heads, "curve": rows},
    )
    _compare_with_random(result, [kept[name].value for name in orders if name.startswith("random")])
    return result


def _draw(model: Model, settings: Settings) -> tuple[RepeatedTokens, RepeatedTokens]:
    """Draw the sequences to choose heads on, and those to measure on."""
    from icl_bench.measures.tokens import draw_repeated

    pool, bos = model.pool(settings.token_pool), model.choose_bos(settings.bos)
    drawn: dict[str, Any] = {"period": settings.period, "seed": settings.seed, "bos": bos}
    choose = draw_repeated(pool, sequences=settings.choose_sequences, **drawn)
    return choose, draw_repeated(pool, sequences=settings.sequences, stream="test", **drawn)


def _compare_with_random(result: Measurement, kept: list[float]) -> None:
    from icl_bench.measures.statistics import exact_metric

    if kept:
        result.metrics["copying_kept_random_max"] = exact_metric(max(kept), len(kept))
    else:
        result.unmeasured["copying_kept_random_max"] = "random_orders: 0 in the suite"


def _order_heads(
    model: Model, settings: Settings, choose: RepeatedTokens, found: Any
) -> dict[str, list[Head]]:
    """Return name -> all heads in the order in which they are kept."""
    from icl_bench.measures.draws import Draws
    from icl_bench.probes.heads.induction import score_heads

    heads, scores = model.every_head, score_heads(model, choose)["induction"].mean(axis=0)
    orders = {
        "elimination": found.order,
        "effect": sorted(heads, key=lambda head: -found.effects[head]),
        "induction": [heads[i] for i in np.argsort(-scores, kind="stable")],
    }
    for index in range(settings.random_orders):
        order = Draws(settings.seed, "orders", index).choose(heads, len(heads))
        orders[f"random {index + 1}"] = order
    return orders


def find_minimal_set(
    model: Model,
    tokens: RepeatedTokens,
    share: float,
    replacement: Replacement,
    context: Context,
) -> Any:
    """Eliminate heads while the loss on repeats keeps a share of the gain.

    Args:
        model: the model.
        tokens: the sequences to choose on.
        share: share of the clean gain to keep.
        replacement: what becomes of heads that are off.
        context: progress.

    Returns:
        an `Elimination`.

    Raises:
        NotMeasurable: the clean model gains nothing from repetition.
    """
    from icl_bench.measures import copying
    from icl_bench.models.clean_run import run_base
    from icl_bench.probes.ablations.backward_elimination import eliminate

    targets = copying.repeated_targets(tokens)
    first = model.losses(tokens.input_ids, copying.first_targets(tokens)).nll.double().mean()
    base = run_base(model, tokens.input_ids, targets, range(model.layers))
    clean = float(base.losses.nll.double().mean())
    gain = float(first) - clean
    if gain <= 0:
        raise NotMeasurable(
            f"the model gains nothing from repetition (gain {gain:.3g} nats): nothing to keep"
        )
    with context.task("eliminating heads", len(model.every_head)) as advance:
        return eliminate(model, base, clean + (1 - share) * gain, replacement, advance)


def curve_sizes(total: int, size: int) -> list[int]:
    """Return the set sizes at which the curve is measured: powers of two, `size`, and all."""
    sizes = {0, size, total}
    step = 1
    while step < total:
        sizes.add(step)
        step *= 2
    return sorted(sizes)


@dataclass
class _Keeping:
    """Losses with the first few heads of an order kept and all others off, each set run once.

    Args:
        model: the model.
        tokens: the sequences.
        replacement: what becomes of heads that are off.
        known: the sets that were run. Orders share sets: none, all, and often the first few.
    """

    model: Model
    tokens: RepeatedTokens
    replacement: Replacement
    known: dict[frozenset[Head], CopyLosses] = field(default_factory=dict)

    def __call__(self, order: list[Head], size: int) -> CopyLosses:
        import torch

        from icl_bench.measures import copying
        from icl_bench.probes.ablations.backward_elimination import keep_only

        kept = frozenset(order[:size])
        if kept not in self.known:
            parts = [copying.first_targets(self.tokens), copying.repeated_targets(self.tokens)]
            ids = self.tokens.input_ids
            run = keep_only(self.model, ids, torch.cat(parts), order, size, self.replacement)
            losses = copying.split_losses(self.tokens, run.losses.nll, run.losses.correct)
            self.known[kept] = losses
        return self.known[kept]


def _copying_kept(clean: CopyLosses, off: CopyLosses) -> Metric:
    from icl_bench.measures.statistics import share_metric

    return share_metric(clean.gain - (off.repeated - clean.repeated), clean.gain)


def _gain_kept(clean: CopyLosses, off: CopyLosses) -> Metric:
    from icl_bench.measures.statistics import share_metric

    return share_metric(off.gain, clean.gain)


def _measure_curve(
    losses: _Keeping,
    orders: dict[str, list[Head]],
    size: int,
    clean: CopyLosses,
    context: Context,
) -> tuple[list[dict[str, Any]], dict[str, Metric]]:
    """Rows of the curve, and for each order the share kept by its first `size` heads."""
    rows: list[dict[str, Any]] = []
    kept: dict[str, Metric] = {}
    sizes = {
        name: [size] if name.startswith("random") else curve_sizes(len(order), size)
        for name, order in orders.items()
    }
    points = sum(len(some) for some in sizes.values())
    with context.task("curve of kept heads", points) as advance:
        for name, order in orders.items():
            for count in sizes[name]:
                off = losses(order, count)
                metric = _copying_kept(clean, off)
                if count == size:
                    kept[name] = metric
                rows.append(
                    {
                        "order": name,
                        "heads": count,
                        "repeated_loss": float(off.repeated.mean()),
                        "copying_kept": metric.value,
                        "ci_low": metric.ci_low,
                        "ci_high": metric.ci_high,
                    }
                )
                advance(1)
    return rows, kept


PROBE = Probe("minimal_set", Settings, METRICS, measure, report=report_minimal_set)
