"""Probe `ablation`: ablate heads and measure how much copying is lost, beyond random heads."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from pydantic import Field, model_validator

from icl_bench.errors import MeasurementError, NotMeasurable
from icl_bench.measures.bounds import UNIT
from icl_bench.probes.ablations.report import report_ablation
from icl_bench.probes.design.context import Context
from icl_bench.probes.design.head_selection import (
    choose_heads,
    draw_unseen,
    tell_stream,
)
from icl_bench.probes.design.replacement import Method, Patterns
from icl_bench.probes.design.sequential import SequentialSettings
from icl_bench.probes.design.settings import HeadList, HeadSelection, explain_few_draws
from icl_bench.probes.protocol import MetricInfo, Probe
from icl_bench.records.parts import Measurement

if TYPE_CHECKING:
    from icl_bench.models.attention.ablation import Component
    from icl_bench.models.model import Model

Head = tuple[int, int]


class Settings(SequentialSettings):
    """What a suite may set for the `ablation` probe."""

    heads: HeadSelection | HeadList | None = None
    """Which heads to ablate."""
    mlps: list[int] = Field(default_factory=list)
    """Layers whose MLP blocks are ablated; -1 is the last layer, -2 the one before it."""
    layers: list[int] = Field(default_factory=list)
    """Layers that are ablated whole, counted in the same way."""
    method: Method = "mean"
    """What replaces a head's output."""
    patterns: Patterns = "free"
    """Whether every head attends as in the clean run (`frozen`)."""
    keep_only: bool = False
    """Ablate every head except the chosen ones."""
    repeats: Annotated[int, Field(ge=2)] = 2
    """Copies of the block in a sequence."""
    varied: bool = True
    """Whether copying at varied distance is measured too."""
    null_sets: Annotated[int, Field(ge=0)] | None = None
    """Sets of other heads of the same layers that `null_margin` compares with; 0 for none. When
    not given, 19, and none with `until: decided`."""
    null_draws: Annotated[int, Field(ge=0)] = 0
    """Layer-matched random sets of all heads for `null_p_value`; 0 for none."""
    null_sequences: Annotated[int, Field(ge=1)] = 8
    """Sequences that `null_draws` and `uniform_draws` are measured on (at most `sequences`)."""
    uniform_draws: Annotated[int, Field(ge=0)] = 0
    """Random sets from any layer, reported and never used in a verdict."""
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
        if self.null_sets is None:
            self.null_sets = 19 if self.until is None else 0
        if self.until is not None and (self.null_sets or self.null_draws or self.uniform_draws):
            raise ValueError(
                "'until: decided' is for measurements without other sets of heads: leave "
                "null_sets, null_draws and uniform_draws out and put them into a measurement of "
                "its own"
            )
        if self.method == "edge_knockout" and self.patterns == "frozen":
            raise ValueError("edge_knockout changes patterns: it cannot have 'patterns: frozen'")
        return self

    @property
    def absent(self) -> dict[str, str]:
        """The p-value, where too few sets are drawn for it."""
        return explain_few_draws(["null_p_value"], self.null_draws, self.alpha)


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
    "gain_varied": MetricInfo(
        "loss on a block's first copy minus loss on its second, at varied distance",
        "up",
        "nats",
        needs="varied",
    ),
    "copying_lost_varied": MetricInfo(
        "rise of the loss on the second copy / gain_varied", "up", "ratio", needs="varied"
    ),
    "null_margin": MetricInfo(
        "smallest lead of the damage over that of other heads, as a share of the gain",
        "up",
        "ratio",
        needs="null_sets",
    ),
    "null_margin_fed": MetricInfo(
        "the same with heads that feed the chosen ones among the others",
        None,
        "ratio",
        needs="null_sets",
    ),
    "null_p_value": MetricInfo(
        "p-value of the damage against layer-matched random heads",
        "down",
        "probability",
        exact=True,
        needs="null_draws",
    ),
    "null_observed_ratio": MetricInfo(
        "loss_ratio of the chosen heads on the null's sequences",
        "up",
        "ratio",
        exact=True,
        needs="null_draws",
    ),
    "null_median_ratio": MetricInfo(
        "median loss_ratio of the null", None, "ratio", exact=True, needs="null_draws"
    ),
    "null_max_ratio": MetricInfo(
        "largest loss_ratio of the null", None, "ratio", exact=True, needs="null_draws"
    ),
    "uniform_median_ratio": MetricInfo(
        "median loss_ratio of random heads of any layer",
        None,
        "ratio",
        exact=True,
        needs="uniform_draws",
    ),
    "uniform_max_ratio": MetricInfo(
        "largest loss_ratio of random heads of any layer",
        None,
        "ratio",
        exact=True,
        needs="uniform_draws",
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
    from icl_bench.models.circuits.interventions import require_support
    from icl_bench.probes.ablations.case import plan_case, report_case

    if settings.heads is not None:
        model.require_heads()
    tokens = draw_unseen(model, settings, context.upstream)
    chosen = choose_heads(model, settings, context.upstream)
    rest = [head for head in model.every_head if head not in set(chosen)]
    heads = rest if settings.keep_only else chosen
    components = _components(model, settings)
    case = plan_case(model, settings, context, tokens, (heads, components))
    require_support(model, case.prepared.replacement)
    result = Measurement(
        probe="ablation",
        settings=settings.model_dump(by_alias=True, exclude_none=True)
        | tell_stream(context.upstream)
        | {f"{kind}s": [n for one, n in components if one == kind] for kind in ("mlp", "layer")},
        tables={
            "ablated_heads": [{"layer": layer, "head": head} for layer, head in heads],
            "chosen_heads": [{"layer": layer, "head": head} for layer, head in chosen],
        },
    )
    report_case(result, case)
    known = result.metrics.keys() | result.unmeasured.keys()
    result.unmeasured |= dict.fromkeys(METRICS.keys() - known, result.reason or "not measured")
    return result


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


PROBE = Probe("ablation", Settings, METRICS, measure, report=report_ablation)
