"""Probe `losses`: the loss on random tokens, the first time and when they are repeated."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
from pydantic import Field

from icl_bench.errors import MeasurementError
from icl_bench.measures.bounds import UNIT, Bounds
from icl_bench.probes.design.bare_tokens import remark_bare
from icl_bench.probes.design.context import Advance, Context
from icl_bench.probes.design.sequential import SequentialSettings
from icl_bench.probes.protocol import MetricInfo, Probe
from icl_bench.records.parts import Measurement, Metric

if TYPE_CHECKING:
    from torch import Tensor

    from icl_bench.measures.tokens import RepeatedTokens
    from icl_bench.models.model import Model
    from icl_bench.probes.ablations.copy_runs import RepeatedRun


class Settings(SequentialSettings):
    """What a suite may set for the `losses` probe."""

    repeats: Annotated[int, Field(ge=2)] = 2
    """Copies of the block in a sequence."""
    varied: bool = True
    """Whether copying at varied distance, and by order, is measured too."""


METRICS: dict[str, MetricInfo] = {
    "first_loss": MetricInfo("loss on the first copy", "down", "nats"),
    "repeated_loss": MetricInfo("loss on later copies", "down", "nats"),
    "gain": MetricInfo("first_loss - repeated_loss", "up", "nats"),
    "gain_below_uniform": MetricInfo(
        "gain, with no more of the first loss than the logarithm of the vocabulary", "up", "nats"
    ),
    "gain_varied": MetricInfo(
        "loss on a block's first copy minus loss on its second, at varied distance",
        "up",
        "nats",
        needs="varied",
    ),
    "order_share": MetricInfo(
        "share of gain_varied that goes when the second copy has another order",
        "up",
        "ratio",
        needs="varied",
    ),
    "icl_score": MetricInfo("loss on the last copy minus that on the first", "down", "nats"),
    "copy_accuracy": MetricInfo(
        "share of repeated tokens ranked first", "up", "ratio", bounds=UNIT
    ),
}


def measure(model: Model, settings: Settings, context: Context) -> Measurement:
    """Measure the losses on a random block and its copies, with nothing switched off.

    Args:
        model: the model; it needs no attention heads.
        settings: which sequences.
        context: clean runs that others have made, and progress.

    Raises:
        MeasurementError: the sequences do not fit the model or its vocabulary.
    """
    from icl_bench.measures import tokens as tk
    from icl_bench.probes.ablations.copy_runs import run_repeats

    bos = model.choose_bos(settings.bos)
    tokens = tk.draw_repeated(
        model.pool(settings.token_pool),
        sequences=settings.sequences,
        period=settings.period,
        repeats=settings.repeats,
        seed=settings.seed,
        bos=bos,
        stream="test",
    )
    model.require_context(tokens.input_ids.shape[1])
    model.require_reach(settings.period)
    result = Measurement(
        probe="losses",
        settings=settings.model_dump(exclude_none=True),
        remarks=remark_bare(model, settings.token_pool, "gain", "gain_varied"),
    )
    batches = [tokens.input_ids]
    rows = settings.sequences * (3 if settings.varied else 1)
    with context.task("losses on repeats", rows) as advance:
        run = run_repeats(model, context, tokens, advance=advance)
        if settings.varied:
            batches += _measure_varied(result, model, settings, context, advance)
        else:
            why = "varied: false in the suite"
            result.unmeasured |= dict.fromkeys(("gain_varied", "order_share"), why)
    result.tokens_sha256 = tk.digest_tokens(*batches)
    _summarize(result, settings, run, math.log(model.embedding.shape[0]))
    return result


def _summarize(result: Measurement, settings: Settings, run: RepeatedRun, uniform: float) -> None:
    """Add the losses of each copy.

    Args:
        result: gets metrics and the table of positions.
        settings: the suite's.
        run: the clean run.
        uniform: loss of a model that gives every token the same probability, nats.
    """
    from icl_bench.measures import statistics as st

    nll, losses = run.run.losses.nll.double().numpy(), run.losses
    # The first token of copy 2 cannot be predicted; of a later copy it can.
    whole = settings.period - (settings.repeats == 2)
    last = nll[:, -whole:].mean(axis=1)

    def mean(values: np.ndarray, bounds: Bounds | None = None) -> Metric:
        return st.mean_metric(values, bounds=bounds, confidence=settings.confidence)

    result.metrics |= {
        "first_loss": mean(losses.first),
        "repeated_loss": mean(losses.repeated),
        "gain": mean(losses.gain),
        "gain_below_uniform": mean(np.minimum(losses.first, uniform) - losses.repeated),
        "icl_score": mean(last - losses.first),
        "copy_accuracy": mean(losses.accuracy, UNIT),
    }
    result.tables["positions"] = _rows(run.tokens, nll)


def _measure_varied(
    result: Measurement, model: Model, settings: Settings, context: Context, advance: Advance
) -> list[Tensor]:
    """Report what repetition gains at varied distance, and how much of it by order.

    Returns:
        the sequences that were measured.
    """
    from icl_bench.measures import statistics as st
    from icl_bench.probes.ablations.copy_runs import run_varied

    try:
        run = run_varied(model, context, settings, model.choose_bos(settings.bos), (), advance)
    except MeasurementError as error:
        result.unmeasured |= dict.fromkeys(("gain_varied", "order_share"), str(error))
        return []
    gain = st.mean_metric(run.gain, confidence=settings.confidence)
    result.metrics["gain_varied"] = gain
    shuffled = run.tokens.reorder(settings.seed)
    nll = model.losses(shuffled, run.targets, advance=advance).nll
    other = run.average(nll, 0, len(nll))
    if gain.value > 0:
        by_order = np.minimum(other, run.first) - run.repeated
        result.metrics["order_share"] = st.share_metric(
            by_order, run.gain, confidence=settings.confidence
        )
    else:
        why = f"repetition gains nothing at varied distance ({gain.value:.3g} nats)"
        result.unmeasured["order_share"] = why
    return [run.tokens.input_ids, shuffled]


def _rows(tokens: RepeatedTokens, nll: np.ndarray) -> list[dict[str, Any]]:
    """One row per content position from 1 on: its copy, mean loss and standard error, nats."""
    count = len(nll)
    errors = None if count == 1 else nll.std(axis=0, ddof=1) / count**0.5
    rows: list[dict[str, Any]] = []
    for column, loss in enumerate(nll.mean(axis=0)):
        position = column + 1
        row = {"position": position, "copy": position // tokens.period + 1, "loss": float(loss)}
        if errors is not None:
            row["loss_stderr"] = float(errors[column])
        rows.append(row)
    return rows


PROBE = Probe("losses", Settings, METRICS, measure)
