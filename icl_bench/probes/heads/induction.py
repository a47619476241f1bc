"""Probe `induction`: per-head attention scores on repeated random tokens."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
from pydantic import Field

from icl_bench.measures.bounds import SIGNED, UNIT, Bounds
from icl_bench.probes.design.bare_tokens import remark_bare
from icl_bench.probes.design.context import Advance, Context
from icl_bench.probes.design.sequential import SequentialSettings
from icl_bench.probes.heads.first_half import explain_first_half
from icl_bench.probes.protocol import MetricInfo, Probe
from icl_bench.records.parts import Measurement, Metric

if TYPE_CHECKING:
    from icl_bench.measures.tokens import Pairs, RepeatedTokens
    from icl_bench.models.model import Model


class Settings(SequentialSettings):
    """What a suite may set for the `induction` probe."""

    repeats: Annotated[int, Field(ge=2)] = 2
    """Copies of the block in a sequence."""
    threshold: Annotated[float, Field(gt=0, lt=1)] = 0.4
    """Score above which a head counts as an induction head."""
    control: bool = True
    """Whether the positional controls are measured."""

    @property
    def absent(self) -> dict[str, str]:
        """What the controls give, where they are left out."""
        names = ("induction_control", "induction_excess_max", "induction_varied_max")
        return {} if self.control else dict.fromkeys(names, "control: false in the suite")


CHOSEN_BY = ("induction", "induction_excess", "induction_varied")
"""The chosen head is the one whose smallest of these is largest, chosen and read on different
sequences."""

METRICS: dict[str, MetricInfo] = {
    "induction_max": MetricInfo(
        "induction score of the chosen head", "up", "probability", bounds=UNIT
    ),
    "induction_all_max": MetricInfo(
        "highest attention to the successors of all earlier occurrences, summed",
        "up",
        "probability",
        bounds=UNIT,
    ),
    "induction_excess_max": MetricInfo(
        "induction score of the chosen head minus its positional control",
        "up",
        "probability",
        bounds=SIGNED,
    ),
    "induction_varied_max": MetricInfo(
        "score of the chosen head where the block comes again at varied distance",
        "up",
        "probability",
        bounds=UNIT,
    ),
    "induction_control": MetricInfo(
        "positional control of the chosen head", "down", "probability", bounds=UNIT
    ),
    "induction_heads": MetricInfo(
        "number of heads with an induction score above the threshold", "up", "heads"
    ),
    "induction_share": MetricInfo(
        "share of all heads with an induction score above the threshold", "up", "ratio"
    ),
    "induction_median": MetricInfo(
        "median induction score over heads", None, "probability", bounds=UNIT
    ),
    "previous_token_max": MetricInfo(
        "highest previous-token score", "up", "probability", bounds=UNIT
    ),
    "duplicate_token_max": MetricInfo(
        "highest duplicate-token score", None, "probability", bounds=UNIT
    ),
    "first_token_mean": MetricInfo(
        "mean attention to the first position", None, "probability", bounds=UNIT
    ),
    "induction_without_previous": MetricInfo(
        "score of the chosen head while no head below it attends to the token before",
        None,
        "probability",
        bounds=UNIT,
    ),
    "uniform_level": MetricInfo(
        "induction score of a head that attends evenly to all it can see", None, "probability", True
    ),
}


def measure(model: Model, settings: Settings, context: Context) -> Measurement:
    """Score every head on repeats, and on the two positional controls.

    Args:
        model: the model.
        settings: what to measure.
        context: progress.

    Raises:
        NotMeasurable: the model has no attention heads.
        MeasurementError: the sequences do not fit the model or its vocabulary.
    """
    from icl_bench.measures import tokens as tk
    from icl_bench.measures.varied import draw_varied

    model.require_heads()
    drawn: dict[str, Any] = {
        "sequences": settings.sequences,
        "period": settings.period,
        "seed": settings.seed,
        "bos": model.choose_bos(settings.bos),
    }
    repeated = tk.draw_repeated(model.pool(settings.token_pool), repeats=settings.repeats, **drawn)
    model.require_context(repeated.input_ids.shape[1])
    model.require_reach(settings.period)
    batches = [repeated.input_ids]
    passes = settings.sequences * (3 if settings.control else 1)
    with context.task("attention of every head", passes) as advance:
        scores = score_heads(model, repeated, advance)
        if settings.control:
            shuffled = tk.shuffle_copies(repeated, settings.seed)
            varied = draw_varied(model.pool(settings.token_pool), reach=model.reach, **drawn)
            batches += [shuffled, varied.input_ids]
            same_offsets = {"induction_control": tk.induction_pairs(repeated)}
            scores |= _flatten(model.head_scores(shuffled, same_offsets, advance=advance))
            targets = {"induction_varied": varied.pairs()}
            scores |= _flatten(model.head_scores(varied.input_ids, targets, advance=advance))
            scores["induction_excess"] = scores["induction"] - scores["induction_control"]

    metrics, unmeasured = _summarize(scores, settings, repeated)
    decisive = [scores[name].mean(axis=0) for name in CHOSEN_BY if name in scores]
    explain_first_half(model, settings, repeated, np.min(decisive, axis=0), metrics, unmeasured)
    return Measurement(
        probe="induction",
        settings=settings.model_dump(exclude_none=True),
        tokens_sha256=tk.digest_tokens(*batches),
        metrics=metrics,
        unmeasured=unmeasured,
        heads=head_rows(model, scores, settings.confidence),
        remarks=remark_bare(model, settings.token_pool, "induction_max", "induction_varied_max"),
    )


def _summarize(
    scores: dict[str, np.ndarray], settings: Settings, repeated: RepeatedTokens
) -> tuple[dict[str, Metric], dict[str, str]]:
    """Return the metrics, and why some are absent.

    Args:
        scores: name -> (sequences, heads).
        settings: the measurement's.
        repeated: the sequences.
    """
    from icl_bench.measures import statistics as st
    from icl_bench.measures import tokens as tk

    confidence = settings.confidence

    def mean(values: np.ndarray, bounds: Bounds = UNIT) -> Metric:
        return st.mean_metric(values, bounds=bounds, confidence=confidence)

    # The head that is an induction head by all that is known: it attends there, does not where the
    # copy is shuffled, and does at other distances. Each is read of it, not of the best head each.
    decisive = [scores[name] for name in CHOSEN_BY if name in scores]

    def chosen(name: str) -> Metric:
        bounds = SIGNED if name == "induction_excess" else UNIT
        return st.best_metric(scores[name], decisive, bounds=bounds, confidence=confidence)

    def best(name: str) -> Metric:
        return st.best_metric(scores[name], bounds=UNIT, confidence=confidence)

    induction = scores["induction"]
    metrics = {
        "induction_max": chosen("induction"),
        "induction_all_max": best("induction_all"),
        "induction_heads": st.count_above(
            induction, settings.threshold, bounds=UNIT, confidence=confidence
        ),
        "induction_median": mean(np.median(induction, axis=1)),
        "previous_token_max": best("previous_token"),
        "duplicate_token_max": best("duplicate_token"),
        "first_token_mean": mean(scores["first_token"].mean(axis=1)),
        "uniform_level": st.exact_metric(tk.uniform_level(repeated)),
    }
    heads = induction.shape[1]
    metrics["induction_share"] = st.divide_count(metrics["induction_heads"], heads)
    unmeasured = {}
    if settings.control:
        metrics["induction_control"] = chosen("induction_control")
        metrics["induction_varied_max"] = chosen("induction_varied")
        metrics["induction_excess_max"] = chosen("induction_excess")
    else:
        unmeasured = settings.absent
    return metrics, unmeasured


def score_pairs(tokens: RepeatedTokens) -> dict[str, Pairs]:
    """The pairs behind each per-head score on repeated tokens."""
    from icl_bench.measures import tokens as tk

    return {
        "induction": tk.induction_pairs(tokens),
        "previous_token": tk.previous_token_pairs(tokens),
        "duplicate_token": tk.duplicate_token_pairs(tokens),
        "first_token": tk.first_token_pairs(tokens),
    }


def score_heads(
    model: Model, tokens: RepeatedTokens, advance: Advance | None = None
) -> dict[str, np.ndarray]:
    """Score name -> per-sequence means, shape (sequences, heads of all layers in order)."""
    from icl_bench.measures.tokens import successor_pairs

    pairs = score_pairs(tokens)
    if tokens.repeats > 2:
        pairs["induction_all"] = successor_pairs(tokens)
    # Where heads have sink logits, what these take stands beside what the first token does.
    sinks = pairs["first_token"].query
    found = model.head_scores(tokens.input_ids, pairs, sink_queries=sinks, advance=advance)
    scores = _flatten(found)
    if tokens.repeats == 2:
        return scores | {"induction_all": scores["induction"]}
    # The mean over pairs becomes the mean over queries of the sum over earlier occurrences.
    per_query = len(pairs["induction_all"].query) / len(pairs["induction"].query)
    return scores | {"induction_all": scores["induction_all"] * per_query}


def _flatten(scores: dict[str, dict[int, Any]]) -> dict[str, np.ndarray]:
    return {
        name: np.concatenate([layers[layer].double().numpy() for layer in sorted(layers)], axis=1)
        for name, layers in scores.items()
    }


def head_rows(
    model: Model, scores: dict[str, np.ndarray], confidence: float = 0.95
) -> list[dict[str, Any]]:
    """One row per head: layer, head, every score, its standard error, and induction's interval."""
    from icl_bench.measures.statistics import mean_metric

    rows: list[dict[str, Any]] = []
    numbered = [
        (layer, head) for layer in sorted(model.heads) for head in range(model.heads[layer])
    ]
    for column, (layer, head) in enumerate(numbered):
        row: dict[str, Any] = {"layer": layer, "head": head}
        for name, values in scores.items():
            metric = mean_metric(
                values[:, column],
                keep=False,
                bounds=SIGNED if name == "induction_excess" else UNIT,
                confidence=confidence,
            )
            row[name] = metric.value
            if metric.stderr is not None:
                row[f"{name}_stderr"] = metric.stderr
                if name == "induction":
                    row["induction_ci_low"] = metric.ci_low
                    row["induction_ci_high"] = metric.ci_high
        rows.append(row)
    return rows


PROBE = Probe("induction", Settings, METRICS, measure)
