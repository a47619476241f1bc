"""Probe `losses`: the loss on random tokens, the first time and when they come again."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
from pydantic import Field

from icl_bench.measures.bounds import UNIT
from icl_bench.probes.design.context import Context
from icl_bench.probes.design.sequential import SequentialSettings
from icl_bench.probes.protocol import MetricInfo, Probe
from icl_bench.records.record import Measurement, Metric

if TYPE_CHECKING:
    from icl_bench.measures.tokens import RepeatedTokens
    from icl_bench.models.model import Model


class Settings(SequentialSettings):
    """What a suite may set for the `losses` probe."""

    repeats: Annotated[int, Field(ge=2)] = 2
    """Copies of the block in a sequence."""


METRICS: dict[str, MetricInfo] = {
    "first_loss": MetricInfo("loss on the first copy", "down", "nats"),
    "repeated_loss": MetricInfo("loss on later copies", "down", "nats"),
    "gain": MetricInfo("first_loss - repeated_loss", "up", "nats"),
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
        context: progress.

    Raises:
        MeasurementError: the sequences do not fit the model or its vocabulary.
    """
    import torch

    from icl_bench.measures import statistics as st
    from icl_bench.measures import tokens as tk
    from icl_bench.measures.copying import first_targets, repeated_targets, split_losses

    tokens = tk.draw_repeated(
        model.vocabulary,
        sequences=settings.sequences,
        period=settings.period,
        repeats=settings.repeats,
        seed=settings.seed,
        bos=model.choose_bos(settings.bos),
    )
    model.require_context(tokens.input_ids.shape[1])
    targets = torch.arange(1, settings.period * settings.repeats) + tokens.prefix
    with context.task("losses on repeats", settings.sequences) as advance:
        found = model.losses(tokens.input_ids, targets, advance=advance)
    parts = torch.cat([first_targets(tokens), repeated_targets(tokens)]) - tokens.prefix - 1
    split = split_losses(tokens, found.nll[:, parts], found.correct[:, parts])
    nll = found.nll.double().numpy()
    # The first token of copy 2 cannot be predicted; of a later copy it can.
    whole = settings.period - (settings.repeats == 2)
    last = nll[:, -whole:].mean(axis=1)

    def mean(values: np.ndarray, *, unit: bool = False) -> Metric:
        return st.mean_metric(values, unit=unit, confidence=settings.confidence)

    return Measurement(
        probe="losses",
        settings=settings.model_dump(exclude_none=True),
        tokens_sha256=tk.digest_tokens(tokens.input_ids),
        metrics={
            "first_loss": mean(split.first),
            "repeated_loss": mean(split.repeated),
            "gain": mean(split.gain),
            "icl_score": mean(last - split.first),
            "copy_accuracy": mean(split.accuracy, unit=True),
        },
        tables={"positions": _rows(tokens, nll)},
    )


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
