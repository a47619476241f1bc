"""Probe `copying`: whether chosen heads raise the logits of the tokens that they attend to."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, Any, Literal

import numpy as np
from pydantic import Field

from icl_bench.errors import NotMeasurable
from icl_bench.measures.bounds import SIGNED
from icl_bench.probes.design.context import Context
from icl_bench.probes.design.sequential import SequentialSettings
from icl_bench.probes.design.settings import HeadList, HeadSelection
from icl_bench.probes.protocol import MetricInfo, Probe
from icl_bench.records.parts import Measurement, Metric

if TYPE_CHECKING:
    from torch import Tensor

    from icl_bench.models.model import Model


class Settings(SequentialSettings):
    """What a suite may set for the `copying` probe."""

    heads: HeadSelection | HeadList
    """The heads whose scores the metrics are about."""
    period: Annotated[int, Field(ge=3)] = 25
    """Tokens in a block."""
    repeats: Annotated[int, Field(ge=2)] = 2
    """Copies of the block in a sequence."""
    states: Literal["token", "embedding"] = "token"
    """Vector that represents a token in the weights."""


METRICS: dict[str, MetricInfo] = {
    "heads": MetricInfo("number of heads chosen", None, "heads", True),
    "ov_eigenvalue_mean": MetricInfo(
        "mean over the chosen heads of sum(eigenvalues) / sum(|eigenvalues|) of the OV circuit",
        "up",
        "ratio",
        True,
    ),
    "ov_eigenvalue_max": MetricInfo("largest of the chosen heads", "up", "ratio", True),
    "ov_eigenvalue_others": MetricInfo("mean over all other heads", None, "ratio", True),
    "ov_behaviour_mean": MetricInfo(
        "mean over the chosen heads of the attended tokens' share of the logits that they raise, "
        "scaled to [-1, 1]",
        "up",
        "ratio",
        bounds=SIGNED,
    ),
    "ov_behaviour_max": MetricInfo(
        "highest of the chosen heads, chosen and read on different sequences",
        "up",
        "ratio",
        bounds=SIGNED,
    ),
    "ov_behaviour_others": MetricInfo("mean over all other heads", None, "ratio", bounds=SIGNED),
    "ov_behaviour_chance": MetricInfo(
        "the same for a head that writes without regard to what it attends to",
        None,
        "ratio",
        True,
    ),
}

CHOSEN, OTHERS = "the chosen heads", "all other heads"
WRITES_NOTHING = "the OV circuit of {} is 0"
RAISES_NOTHING = "{} raise no logit of the sample's tokens"
NONE_CHOSEN = "no head was chosen"


def measure(model: Model, settings: Settings, context: Context) -> Measurement:
    """Score every head's OV circuit by weights and by behaviour.

    Args:
        model: the model.
        settings: which heads the metrics are about, and on what.
        context: the measurement that heads are chosen from, and progress.

    Raises:
        NotMeasurable: the model has no heads, or neither score can be had; each on its own is
            left out with the reason.
        MeasurementError: a head does not exist, or the sequences do not fit the model.
    """
    from icl_bench.measures import statistics as st
    from icl_bench.measures import tokens as tk
    from icl_bench.models.circuits.ovcircuit import copying_chance, ov_behaviour, ov_eigenvalues
    from icl_bench.probes.design.head_selection import choose_heads, draw_unseen, tell_stream

    model.require_heads()
    tokens = draw_unseen(model, settings, context.upstream)
    chosen = choose_heads(model, settings, context.upstream)
    own = np.array([head in set(chosen) for head in model.every_head])
    result = Measurement(
        probe="copying",
        settings=settings.model_dump(by_alias=True, exclude_none=True)
        | tell_stream(context.upstream),
        tokens_sha256=tk.digest_tokens(tokens.input_ids),
        metrics={
            "heads": st.exact_metric(len(chosen)),
            "ov_behaviour_chance": st.exact_metric(copying_chance(tokens)),
        },
        heads=[{"layer": layer, "head": head} for layer, head in model.every_head],
        tables={"chosen_heads": [{"layer": layer, "head": head} for layer, head in chosen]},
    )
    failed = []
    try:
        with context.task("eigenvalues of OV circuits", len(model.vocabulary)) as advance:
            values = _flatten(ov_eigenvalues(model, settings.states, advance=advance))
        _report_weights(result, values, own)
    except NotMeasurable as error:
        failed.append(str(error))
        _leave_out(result, "ov_eigenvalue", str(error))
    try:
        with context.task("what heads raise", settings.sequences) as advance:
            samples = _flatten(ov_behaviour(model, tokens, advance=advance))
        _report_behaviour(result, samples, own, settings.confidence)
    except NotMeasurable as error:
        failed.append(str(error))
        _leave_out(result, "ov_behaviour", str(error))
    if len(failed) == 2:
        raise NotMeasurable(failed[0])
    return result


def _flatten(scores: dict[int, Tensor]) -> np.ndarray:
    """Return (..., heads of all layers in order)."""
    return np.concatenate([scores[layer].numpy() for layer in sorted(scores)], axis=-1)


def _leave_out(result: Measurement, score: str, why: str) -> None:
    names = [f"{score}_{which}" for which in ("mean", "max", "others")]
    result.unmeasured |= dict.fromkeys(names, why)


def _report_weights(result: Measurement, values: np.ndarray, own: np.ndarray) -> None:
    """Put the eigenvalue scores (heads,) into rows and metrics."""
    from icl_bench.measures.statistics import exact_metric

    for row, value in zip(result.heads, values):
        if np.isfinite(value):
            row["ov_eigenvalue"] = float(value)

    def report(name: str, group: np.ndarray, whose: str, how: Any) -> None:
        found = values[group & np.isfinite(values)]
        if len(found):
            result.metrics[name] = exact_metric(float(how(found)), len(found))
        else:
            why = WRITES_NOTHING.format(whose) if group.any() else _empty(whose)
            result.unmeasured[name] = why

    report("ov_eigenvalue_mean", own, CHOSEN, np.mean)
    report("ov_eigenvalue_max", own, CHOSEN, np.max)
    report("ov_eigenvalue_others", ~own, OTHERS, np.mean)


def _empty(whose: str) -> str:
    return NONE_CHOSEN if whose == CHOSEN else "every head was chosen"


def _report_behaviour(
    result: Measurement, samples: np.ndarray, own: np.ndarray, confidence: float
) -> None:
    """Put the behaviour scores (sequences, heads) into rows and metrics."""
    from icl_bench.measures.statistics import best_metric, mean_metric

    # A head is left out if it raises nothing on any sequence: its other ones are a biased choice.
    known = np.isfinite(samples).all(0)
    for row, values, there in zip(result.heads, samples.T, known):
        if there:
            metric = mean_metric(values, keep=False)
            row["ov_behaviour"] = metric.value
            if metric.stderr is not None:
                row["ov_behaviour_stderr"] = metric.stderr

    def mean(found: np.ndarray, **options: Any) -> Metric:
        return mean_metric(found.mean(1), **options)

    def report(name: str, group: np.ndarray, whose: str, how: Callable[..., Metric]) -> None:
        found = samples[:, group & known]
        if found.shape[1]:
            result.metrics[name] = how(found, bounds=SIGNED, confidence=confidence)
        else:
            why = RAISES_NOTHING.format(whose) if group.any() else _empty(whose)
            result.unmeasured[name] = why

    report("ov_behaviour_mean", own, CHOSEN, mean)
    report("ov_behaviour_max", own, CHOSEN, best_metric)
    report("ov_behaviour_others", ~own, OTHERS, mean)


PROBE = Probe("copying", Settings, METRICS, measure)
