"""Probe `ablation`: switch heads off and see what copying loses, beyond random heads."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from pydantic import Field, model_validator

from icl_bench.errors import MeasurementError, NotMeasurable
from icl_bench.measures.bounds import UNIT
from icl_bench.probes.ablations.ablation_null import (
    NULL_METRICS,
    UNIFORM_METRICS,
    compare_with_null,
    compared_heads,
)
from icl_bench.probes.design.context import Context
from icl_bench.probes.design.head_selection import (
    choose_heads,
    draw_unseen,
    explain_empty,
    tell_stream,
)
from icl_bench.probes.design.replacement import Method, Patterns, prepare_replacement
from icl_bench.probes.design.sequential import SequentialSettings
from icl_bench.probes.design.settings import HeadList, HeadSelection
from icl_bench.probes.protocol import MetricInfo, Probe
from icl_bench.records.record import Measurement, Metric

if TYPE_CHECKING:
    import numpy as np

    from icl_bench.measures.copying import CopyLosses
    from icl_bench.measures.tokens import RepeatedTokens
    from icl_bench.models.attention.ablation import Component, Part, Replacement
    from icl_bench.models.clean_run import BaseRun
    from icl_bench.models.model import Model

Head = tuple[int, int]


class Settings(SequentialSettings):
    """What a suite may set for the `ablation` probe."""

    heads: HeadSelection | HeadList | None = None
    """Which heads to switch off."""
    mlps: list[int] = Field(default_factory=list)
    """Layers whose MLP blocks are switched off; -1 is the last layer, -2 the one before it."""
    layers: list[int] = Field(default_factory=list)
    """Layers that are switched off whole, counted in the same way."""
    method: Method = "mean"
    """What replaces a head's output."""
    patterns: Patterns = "free"
    """Whether every head attends as in the clean run (`frozen`)."""
    keep_only: bool = False
    """Switch every head off except the chosen ones."""
    repeats: Annotated[int, Field(ge=2)] = 2
    """Copies of the block in a sequence."""
    null_draws: Annotated[int, Field(ge=0)] = 99
    """Layer-matched random sets to compare with; 0 for none."""
    null_sequences: Annotated[int, Field(ge=1)] = 8
    """Sequences that the null is measured on (at most `sequences`)."""
    uniform_draws: Annotated[int, Field(ge=0)] = 0
    """Random sets from any layer, reported and never gated on."""
    alpha: Annotated[float, Field(gt=0, lt=1)] = 0.05
    """Level that the null must be able to reach for its p-value to count."""

    @model_validator(mode="after")
    def _settings_agree(self) -> Settings:
        if self.heads is None and not self.mlps and not self.layers:
            raise ValueError("give 'heads', 'mlps' or 'layers': what to switch off")
        if (self.mlps or self.layers) and self.method in ("resample", "edge_knockout"):
            raise ValueError(f"{self.method} is for heads; MLPs and layers take zero or mean")
        if self.keep_only and (self.heads is None or self.mlps or self.layers):
            raise ValueError("keep_only is for heads alone")
        if self.until is not None and (self.null_draws or self.uniform_draws):
            raise ValueError(
                "'until: decided' is for measurements without random sets: set null_draws: 0 and "
                "put the null into a measurement of its own"
            )
        if self.method == "edge_knockout" and self.patterns == "frozen":
            raise ValueError("edge_knockout changes patterns: it cannot have 'patterns: frozen'")
        return self


METRICS: dict[str, MetricInfo] = {
    "heads": MetricInfo("number of heads switched off", None, "heads", True),
    "first_loss": MetricInfo("clean loss on the first copy", None, "nats"),
    "repeated_loss": MetricInfo("clean loss on the later copies", "down", "nats"),
    "gain": MetricInfo("first_loss - repeated_loss of the clean model", "up", "nats"),
    "first_loss_ablated": MetricInfo("first_loss with the heads off", None, "nats"),
    "repeated_loss_ablated": MetricInfo("repeated_loss with the heads off", None, "nats"),
    "gain_ablated": MetricInfo("gain with the heads off", None, "nats"),
    "delta_first": MetricInfo("rise of first_loss", "down", "nats"),
    "delta_repeated": MetricInfo("rise of repeated_loss", "up", "nats"),
    "loss_ratio": MetricInfo("repeated_loss ablated / clean", "up", "ratio"),
    "copying_lost": MetricInfo("delta_repeated / gain", "up", "ratio"),
    "icl_share": MetricInfo("1 - gain ablated / gain clean", "up", "ratio"),
    "copy_accuracy": MetricInfo(
        "share of repeated targets ranked first, clean", "up", "ratio", bounds=UNIT
    ),
    "copy_accuracy_ablated": MetricInfo(
        "the same with the heads off", "down", "ratio", bounds=UNIT
    ),
    "null_p_value": MetricInfo(
        "p-value of the damage against layer-matched random heads", "down", "probability", True
    ),
    "null_observed_ratio": MetricInfo(
        "loss_ratio of the chosen heads on the null's sequences", "up", "ratio", True
    ),
    "null_median_ratio": MetricInfo("median loss_ratio of the null", None, "ratio", True),
    "null_max_ratio": MetricInfo("largest loss_ratio of the null", None, "ratio", True),
    "uniform_median_ratio": MetricInfo(
        "median loss_ratio of random heads of any layer", None, "ratio", True
    ),
    "uniform_max_ratio": MetricInfo(
        "largest loss_ratio of random heads of any layer", None, "ratio", True
    ),
}


def measure(model: Model, settings: Settings, context: Context) -> Measurement:
    """Switch the chosen heads off on sequences that they were not chosen on.

    Args:
        model: the model.
        settings: what to switch off, and how.
        context: the measurement that heads are chosen from, and progress.

    Raises:
        NotMeasurable: the model has no attention heads, or they cannot be changed in this way.
        MeasurementError: a head does not exist, or the sequences do not fit the model.
    """
    from icl_bench.measures import tokens as tk
    from icl_bench.models.circuits.interventions import require_support

    if settings.heads is not None:
        model.require_heads()
    tokens = draw_unseen(model, settings, context.upstream)
    chosen = choose_heads(model, settings, context.upstream)
    rest = [head for head in model.every_head if head not in set(chosen)]
    heads = rest if settings.keep_only else chosen
    components = _components(model, settings)
    parts: list[Part] = [*heads, *components]
    alone = bool(heads) and not settings.keep_only and len(parts) == len(heads)
    prepared = prepare_replacement(
        model,
        settings.method,
        parts=[*parts, *(compared_heads(model, settings, heads) if alone else [])],
        sequences=settings.sequences,
        length=tokens.input_ids.shape[1],
        bos=model.choose_bos(settings.bos),
        seed=settings.seed,
        patterns=settings.patterns,
        edges=tk.induction_pairs(tokens),
    )
    replacement = prepared.replacement
    require_support(model, replacement)
    run, clean, ablated = _run(model, context, tokens, parts, replacement)
    result = Measurement(
        probe="ablation",
        settings=settings.model_dump(by_alias=True, exclude_none=True)
        | tell_stream(context.upstream)
        | {f"{kind}s": [n for one, n in components if one == kind] for kind in ("mlp", "layer")},
        tokens_sha256=tk.digest_tokens(tokens.input_ids, *prepared.batches),
        tables={
            "ablated_heads": [{"layer": layer, "head": head} for layer, head in heads],
            "chosen_heads": [{"layer": layer, "head": head} for layer, head in chosen],
        },
    )
    if ablated is None:
        _report_nothing_ablated(result, clean, settings)
        return result
    _compare(result, clean, ablated, settings.confidence)
    if not alone:
        why = "the null is made of heads that are switched off alone"
        result.unmeasured |= dict.fromkeys((*NULL_METRICS, *UNIFORM_METRICS), why)
    else:
        compare_with_null(
            result, model, settings, context, tokens, heads, replacement, run, clean, ablated
        )
    return result


def _run(
    model: Model,
    context: Context,
    tokens: RepeatedTokens,
    parts: list[Part],
    replacement: Replacement,
) -> tuple[BaseRun, CopyLosses, CopyLosses | None]:
    """Return the clean run, its losses, and those without the parts; None if there are none."""
    import torch

    from icl_bench.measures import copying
    from icl_bench.models.attention.ablation import layer_of
    from icl_bench.models.circuits.interventions import switch_off

    targets = torch.cat([copying.first_targets(tokens), copying.repeated_targets(tokens)])
    rows = len(tokens.input_ids) * (2 if parts else 1)
    with context.task("losses, clean and ablated", rows) as advance:
        first = {min(map(layer_of, parts))} if parts else set()
        run = context.base_run(model, tokens.input_ids, targets, first, advance)
        clean = copying.split_losses(tokens, run.losses.nll, run.losses.correct)
        if not parts:
            return run, clean, None
        off = switch_off(model, run, [parts], replacement, advance=advance)
    return run, clean, copying.split_losses(tokens, off.nll[0], off.correct[0])


def _components(model: Model, settings: Settings) -> list[Component]:
    """Return the MLPs and layers that the settings name.

    Raises:
        MeasurementError: the model has no such layer.
        NotMeasurable: it has not so many, counted from the last one, or no MLP there.
    """
    count = model.layers
    if there := [number % count for number in settings.mlps if -count <= number < count]:
        model.anatomy.require_mlps(sorted(there))
    mlps: list[Component] = [("mlp", layer) for layer in _place(model, settings.mlps)]
    return mlps + [("layer", layer) for layer in _place(model, settings.layers)]


def _place(model: Model, numbers: list[int]) -> list[int]:
    """Numbers of layers, sorted; those below 0 count from the last one."""
    count = model.layers
    for number in numbers:
        if number >= count:
            raise MeasurementError(f"the model has no layer {number}: it has {count}")
        if number < -count:
            raise NotMeasurable(f"the model has {count} layers, the suite means the last {-number}")
    return sorted({number % count for number in numbers})


def _report_nothing_ablated(result: Measurement, clean: CopyLosses, settings: Settings) -> None:
    """No head is to be switched off: what an empty ablation changes needs no measuring."""
    from icl_bench.measures.statistics import exact_metric, mean_metric

    confidence = settings.confidence
    result.reason = explain_empty(settings.heads)
    result.metrics = {
        "heads": exact_metric(0),
        "first_loss": mean_metric(clean.first, confidence=confidence),
        "repeated_loss": mean_metric(clean.repeated, confidence=confidence),
        "gain": mean_metric(clean.gain, confidence=confidence),
        "copy_accuracy": mean_metric(clean.accuracy, unit=True, confidence=confidence),
        "loss_ratio": exact_metric(1),
        "copying_lost": exact_metric(0),
        "icl_share": exact_metric(0),
        "delta_first": exact_metric(0),
        "delta_repeated": exact_metric(0),
    }
    result.unmeasured = dict.fromkeys(METRICS.keys() - result.metrics.keys(), result.reason)


def _compare(
    result: Measurement, clean: CopyLosses, ablated: CopyLosses, confidence: float
) -> None:
    from icl_bench.measures import statistics as st

    def mean(values: np.ndarray, *, unit: bool = False) -> Metric:
        return st.mean_metric(values, unit=unit, confidence=confidence)

    delta = ablated.repeated - clean.repeated
    result.metrics = {
        "heads": st.exact_metric(len(result.tables["ablated_heads"])),
        "first_loss": mean(clean.first),
        "repeated_loss": mean(clean.repeated),
        "gain": mean(clean.gain),
        "first_loss_ablated": mean(ablated.first),
        "repeated_loss_ablated": mean(ablated.repeated),
        "gain_ablated": mean(ablated.gain),
        "delta_first": mean(ablated.first - clean.first),
        "delta_repeated": mean(delta),
        "copy_accuracy": mean(clean.accuracy, unit=True),
        "copy_accuracy_ablated": mean(ablated.accuracy, unit=True),
    }
    if clean.repeated.mean() > 0 and ablated.repeated.mean() > 0:
        result.metrics["loss_ratio"] = st.ratio_metric(
            ablated.repeated, clean.repeated, confidence=confidence
        )
    else:
        result.unmeasured["loss_ratio"] = "the clean loss on repeats is 0: nothing to divide by"
    gain = result.metrics["gain"]
    if gain.value > 0:
        result.metrics["copying_lost"] = st.share_metric(delta, clean.gain, confidence=confidence)
        lost = clean.gain - ablated.gain
        result.metrics["icl_share"] = st.share_metric(lost, clean.gain, confidence=confidence)
    else:
        why = f"the clean model gains nothing from repetition (gain {gain.value:.3g} nats)"
        result.unmeasured |= {"copying_lost": why, "icl_share": why}


PROBE = Probe("ablation", Settings, METRICS, measure)
