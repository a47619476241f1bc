"""Probe `logit_attribution`: what each head writes directly towards the correct token."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
from pydantic import Field

from icl_bench.probes.design.context import Context
from icl_bench.probes.design.head_selection import (
    choose_heads,
    describe_misfit,
    draw_unseen,
    tell_stream,
)
from icl_bench.probes.design.sequential import SequentialSettings
from icl_bench.probes.design.settings import HeadList, HeadSelection
from icl_bench.probes.protocol import MetricInfo, Probe
from icl_bench.records.parts import Measurement, Metric

if TYPE_CHECKING:
    from icl_bench.models.model import Model

Head = tuple[int, int]


class Settings(SequentialSettings):
    """What a suite may set for the `logit_attribution` probe."""

    heads: HeadSelection | HeadList
    """The heads whose output the metrics describe; all are measured."""
    repeats: Annotated[int, Field(ge=2)] = 2
    """Copies of the block in a sequence."""
    threshold: Annotated[float, Field(gt=0)] = 0.1
    """Logits below which a head is silent: it may attend, but writes almost nothing."""


METRICS: dict[str, MetricInfo] = {
    "selected": MetricInfo("number of chosen heads", None, "heads", True),
    "logit": MetricInfo(
        "the correct token's logit minus the mean over the vocabulary", "up", "logits"
    ),
    "heads_logit": MetricInfo("the part that all heads write", None, "logits"),
    "mlps_logit": MetricInfo("the part that MLPs write, and layers without heads", None, "logits"),
    "logit_max": MetricInfo(
        "the part of the head that writes most, chosen and read on different sequences",
        "up",
        "logits",
    ),
    "selected_logit": MetricInfo("the part that the chosen heads write", "up", "logits"),
    "selected_share": MetricInfo("selected_logit / heads_logit", "up", "ratio"),
    "selected_max": MetricInfo(
        "the part of the chosen head that writes most, chosen and read on different sequences",
        "up",
        "logits",
    ),
    "selected_silent": MetricInfo(
        "chosen heads that write less than the threshold", "down", "heads"
    ),
    "selected_silent_share": MetricInfo("the same as a share of the chosen heads", "down", "ratio"),
    "negative_heads": MetricInfo(
        "chosen heads that write against the correct token: their whole interval is below 0",
        None,
        "heads",
    ),
}


def measure(model: Model, settings: Settings, context: Context) -> Measurement:
    """Split the correct tokens' logits on sequences that the heads were not chosen on.

    Args:
        model: the model.
        settings: which heads, and how.
        context: the measurement that heads are chosen from, and progress.

    Raises:
        NotMeasurable: the model has no attention heads, or its logits are not the sum of parts
            that are known.
        MeasurementError: a head does not exist, or the sequences do not fit the model.
    """
    from icl_bench.measures import statistics as st
    from icl_bench.measures import tokens as tk
    from icl_bench.measures.copying import repeated_targets
    from icl_bench.models.circuits.attribution import attribute_logits

    model.require_heads()
    tokens = draw_unseen(model, settings, context.upstream)
    chosen = choose_heads(model, settings, context.upstream)
    with context.task("what every head writes", settings.sequences) as advance:
        parts = attribute_logits(model, tokens.input_ids, repeated_targets(tokens), advance=advance)
    written = np.concatenate([parts.heads[layer].double().numpy() for layer in model.heads], 1)
    mlps = sum((part.double().numpy() for part in parts.rest.values()), np.zeros(len(written)))
    confidence = settings.confidence

    def mean(values: np.ndarray) -> Metric:
        return st.mean_metric(values, confidence=confidence)

    result = Measurement(
        probe="logit_attribution",
        settings=settings.model_dump(by_alias=True, exclude_none=True)
        | tell_stream(context.upstream),
        tokens_sha256=tk.digest_tokens(tokens.input_ids),
        metrics={
            "selected": st.exact_metric(len(chosen)),
            "logit": mean(parts.total.double().numpy()),
            "heads_logit": mean(written.sum(1)),
            "mlps_logit": mean(mlps),
            "logit_max": st.best_metric(written, confidence=settings.confidence),
        },
        heads=_head_rows(model, written),
        tables={"selected_heads": [{"layer": layer, "head": head} for layer, head in chosen]},
    )
    if chosen:
        columns = [model.every_head.index(head) for head in chosen]
        _summarize(result, written, written[:, columns], settings)
    else:
        result.reason = describe_misfit(settings.heads) or "no head is chosen"
        result.metrics["selected_logit"] = st.exact_metric(0)
        result.unmeasured = dict.fromkeys(METRICS.keys() - result.metrics.keys(), result.reason)
    return result


def _summarize(
    result: Measurement, written: np.ndarray, own: np.ndarray, settings: Settings
) -> None:
    """Fill in what is said of the chosen heads.

    Args:
        result: the measurement.
        written: logits, (sequences, heads).
        own: the same of the chosen heads.
        settings: with the logits below which a head is silent, and how sure intervals are.
    """
    from icl_bench.measures import statistics as st

    metrics, confidence = result.metrics, settings.confidence
    metrics["selected_logit"] = st.mean_metric(own.sum(1), confidence=confidence)
    metrics["selected_max"] = st.best_metric(own, confidence=confidence)
    silent = st.count_above(-own, -settings.threshold, confidence=confidence)
    metrics["selected_silent"] = silent
    metrics["selected_silent_share"] = st.divide_count(silent, own.shape[1])
    _report_negative(result, own, confidence)
    whole = metrics["heads_logit"]
    if (whole.value if whole.ci_low is None else whole.ci_low) > 0:
        metrics["selected_share"] = st.share_metric(
            own.sum(1), written.sum(1), confidence=confidence
        )
    else:
        why = f"what all heads write ({whole.value:.2g} logits) is not surely above 0"
        result.unmeasured["selected_share"] = why


def _report_negative(result: Measurement, own: np.ndarray, confidence: float) -> None:
    """Count and name the chosen heads that write against the correct token.

    Source: McDougall et al. 2023, Copy suppression: heads that attend to a token that came before
    and write against it.

    Args:
        result: the measurement; the metric and the table `negative_heads` are added.
        own: logits of the chosen heads, (sequences, heads).
        confidence: of the heads' intervals together.
    """
    from icl_bench.measures import statistics as st

    count, heads = own.shape
    if count == 1:
        result.unmeasured["negative_heads"] = "one sequence does not say how sure a sign is"
        return
    half = st.student_t(count - 1, heads, confidence) * own.std(axis=0, ddof=1) / count**0.5
    high, low = own.mean(axis=0) + half, own.mean(axis=0) - half
    surely, perhaps = int((high < 0).sum()), int((low < 0).sum())
    result.metrics["negative_heads"] = Metric(value=surely, ci_low=surely, ci_high=perhaps, n=count)
    result.tables["negative_heads"] = [
        {**place, "logit": float(own[:, column].mean()), "logit_high": float(high[column])}
        for column, place in enumerate(result.tables["selected_heads"])
        if high[column] < 0
    ]


def _head_rows(model: Model, written: np.ndarray) -> list[dict[str, Any]]:
    """One row per head: what it writes, in logits, and the standard error."""
    from icl_bench.measures.statistics import mean_metric

    rows: list[dict[str, Any]] = []
    for column, (layer, head) in enumerate(model.every_head):
        metric = mean_metric(written[:, column], keep=False)
        row = {"layer": layer, "head": head, "logit": metric.value}
        if metric.stderr is not None:
            row["logit_stderr"] = metric.stderr
        rows.append(row)
    return rows


PROBE = Probe("logit_attribution", Settings, METRICS, measure)
