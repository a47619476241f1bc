"""Probe `sweep`: the effect of every head on its own."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
from pydantic import Field, model_validator

from icl_bench.probes.ablations.report import report_sweep
from icl_bench.probes.design.context import Context
from icl_bench.probes.design.replacement import HeldOut, prepare_replacement
from icl_bench.probes.design.sequential import SequentialSettings
from icl_bench.probes.design.settings import Writing
from icl_bench.probes.protocol import MetricInfo, Probe
from icl_bench.records.parts import Measurement

if TYPE_CHECKING:
    from icl_bench.models.model import Model
    from icl_bench.probes.ablations.sweeping import Sweep


class Settings(SequentialSettings):
    """What a suite may set for the `sweep` probe."""

    sequences: Annotated[int, Field(ge=1)] = 8
    """Number of sequences."""
    repeats: Annotated[int, Field(ge=2)] = 2
    """Copies of the block in a sequence."""
    method: Writing = "zero"
    """What replaces a head's output."""
    exact: bool = True
    """Measure every head on every sequence; otherwise only the undecided ones on more."""
    top: Annotated[int, Field(ge=1)] = 10
    """How many heads an adaptive sweep searches for."""
    threshold: Annotated[float, Field(gt=0)] = 0.5
    """Rise of the loss, in nats, above which a head counts."""

    @model_validator(mode="after")
    def _looks_are_whole(self) -> Settings:
        if self.until is not None and not self.exact:
            raise ValueError(
                "'until: decided' is for exact sweeps: an adaptive one draws as it needs by itself"
            )
        return self


METRICS: dict[str, MetricInfo] = {
    "repeated_loss": MetricInfo("clean loss on the later copies", "down", "nats"),
    "delta_max": MetricInfo(
        "largest rise of the loss by one head, chosen and read on different sequences",
        "up",
        "nats",
    ),
    "delta_median": MetricInfo("median rise over heads", None, "nats"),
    "heads_above": MetricInfo("heads whose rise is above the threshold", None, "heads"),
    "rows": MetricInfo(
        "sequences x heads measured in full, as a share of all", None, "ratio", True
    ),
}


def measure(model: Model, settings: Settings, context: Context) -> Measurement:
    """Switch every head off on its own.

    Args:
        model: the model.
        settings: how.
        context: progress.

    Raises:
        NotMeasurable: the model has no attention heads.
        MeasurementError: the sequences do not fit the model.
    """
    from icl_bench.measures import tokens as tk
    from icl_bench.probes.ablations.sweeping import sweep_adaptively, sweep_exactly

    model.require_heads()
    tokens = tk.draw_repeated(
        model.pool(settings.token_pool),
        sequences=settings.sequences,
        period=settings.period,
        repeats=settings.repeats,
        seed=settings.seed,
        bos=model.choose_bos(settings.bos),
    )
    held_out = HeldOut.like(model, settings, tokens.input_ids.shape[1])
    prepared = prepare_replacement(model, settings.method, model.every_head, held_out)
    rows = len(model.every_head) * settings.sequences
    with context.task("every head on its own", rows) as advance:
        if settings.exact:
            sweep = sweep_exactly(model, tokens, prepared.replacement, advance)
        else:
            sweep = sweep_adaptively(
                model, tokens, prepared.replacement, settings.top, settings.seed, advance
            )
    result = Measurement(
        probe="sweep",
        settings=settings.model_dump(exclude_none=True),
        tokens_sha256=tk.digest_tokens(tokens.input_ids, *prepared.batches),
        heads=sweep_rows(sweep),
    )
    _summarize(result, sweep, settings, rows)
    return result


def _summarize(result: Measurement, sweep: Sweep, settings: Settings, rows: int) -> None:
    from icl_bench.measures import statistics as st

    confidence, metrics = settings.confidence, result.metrics
    metrics["repeated_loss"] = st.mean_metric(sweep.clean, confidence=confidence)
    metrics["rows"] = st.exact_metric(sweep.counts.sum() / rows)
    if sweep.full.all():
        deltas = sweep.deltas.T
        metrics["delta_max"] = st.best_metric(deltas, confidence=confidence)
        metrics["delta_median"] = st.mean_metric(np.median(deltas, axis=1), confidence=confidence)
        metrics["heads_above"] = st.count_above(deltas, settings.threshold, confidence=confidence)
    else:
        best = sweep.order()[0]
        metrics["delta_max"] = st.mean_metric(sweep.deltas[best], confidence=confidence)
        why = "exact: false in the suite: most heads were measured on few tokens"
        result.unmeasured = dict.fromkeys(("delta_median", "heads_above"), why)


def sweep_rows(sweep: Sweep) -> list[dict[str, Any]]:
    """One row per head: its effect, standard error, bounds, and sequences; None where unknown."""
    columns = zip(
        sweep.heads,
        sweep.losses.tolist(),
        sweep.means.tolist(),
        sweep.stderrs.tolist(),
        sweep.low.tolist(),
        sweep.high.tolist(),
        sweep.counts.tolist(),
    )
    return [
        {
            "layer": layer,
            "head": head,
            "repeated_loss": loss,
            "delta": delta,
            "delta_stderr": None if np.isnan(stderr) else stderr,
            "delta_low": low,
            "delta_high": high,
            "sequences": count,
        }
        for (layer, head), loss, delta, stderr, low, high, count in columns
    ]


PROBE = Probe("sweep", Settings, METRICS, measure, report=report_sweep)
