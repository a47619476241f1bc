"""Probe `composition`: which earlier heads the chosen heads read, by path patching."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Annotated, Any, Literal

import numpy as np
from pydantic import Field

from icl_bench.errors import MeasurementError, NotMeasurable
from icl_bench.measures.bounds import UNIT
from icl_bench.probes.design.context import Context
from icl_bench.probes.design.head_selection import (
    check_numbers,
    choose_heads,
    describe_misfit,
    draw_unseen,
    tell_stream,
)
from icl_bench.probes.design.sequential import SequentialSettings
from icl_bench.probes.design.settings import HeadList, HeadSelection
from icl_bench.probes.heads.path_effects import SIDES, Drops, Ends, Side, count_collapsed
from icl_bench.probes.protocol import MetricInfo, Probe
from icl_bench.records.parts import Measurement, Metric

if TYPE_CHECKING:
    from icl_bench.measures.tokens import RepeatedTokens
    from icl_bench.models.circuits.patching import PathEffect
    from icl_bench.models.model import Model

Head = tuple[int, int]


class Settings(SequentialSettings):
    """What a suite may set for the `composition` probe."""

    sequences: Annotated[int, Field(ge=1)] = 8
    """Number of sequences."""
    heads: HeadSelection | HeadList
    """The receivers: heads whose input is patched."""
    senders: HeadList | None = None
    """Heads that are removed, one at a time; every head below a receiver when not given."""
    sides: Annotated[list[Side], Field(min_length=1)] = Field(default_factory=lambda: list(SIDES))
    """Sides of the receivers' input that are patched, each on its own."""
    method: Literal["zero", "mean"] = "zero"
    """Replacement for a sender's output: zero, or its mean."""
    repeats: Annotated[int, Field(ge=2)] = 2
    """Copies of the block in a sequence."""
    threshold: Annotated[float, Field(ge=0, lt=1)] = 0.1
    """Minimum induction score of receivers, so that drops as shares of it are meaningful."""

    @property
    def absent(self) -> dict[str, str]:
        """What is read on sides that are left out."""
        return _explain(set(SIDES) - set(self.sides), "the suite leaves this side out")


def _of_side(side: Side, whole: str) -> dict[str, MetricInfo]:
    up: Literal["up"] | None = "up" if side == "key" else None
    return {
        f"{side}_drop": MetricInfo(
            f"share of {whole} that is lost without one sender on the {side} side: the worst one, "
            "chosen and read on different sequences",
            up,
            "ratio",
        ),
        f"{side}_drop_previous_token": MetricInfo(
            "the same for the sender with the highest previous-token score",
            "up" if side == "key" else "down",
            "ratio",
        ),
        f"{side}_drop_others": MetricInfo(
            "the same, median over all senders but the worst", "down", "ratio"
        ),
    }


METRICS: dict[str, MetricInfo] = {
    "receivers": MetricInfo("number of heads whose input is patched", None, "heads", True),
    "senders": MetricInfo("number of heads that are taken out", None, "heads", True),
    "induction_clean": MetricInfo(
        "mean induction score of the receivers", "up", "probability", bounds=UNIT
    ),
    "value_clean": MetricInfo(
        "what a receiver writes directly towards the correct tokens, mean over receivers",
        "up",
        "logits",
    ),
    **_of_side("key", "the receivers' mean induction score"),
    **_of_side("query", "the receivers' mean induction score"),
    **_of_side("value", "what the receivers write directly towards the correct tokens"),
    "key_sender_previous_token": MetricInfo(
        "previous-token score of the sender that the key side needs most",
        "up",
        "probability",
        bounds=UNIT,
    ),
    "key_collapsed": MetricInfo(
        "receivers that lose more than half of their induction score when one sender, the worst "
        "for each, is taken out of their keys",
        "up",
        "heads",
    ),
    "key_collapsed_share": MetricInfo("the same as a share of the receivers", "up", "ratio"),
}


def measure(model: Model, settings: Settings, context: Context) -> Measurement:
    """Take senders out of the chosen heads' input on sequences that these were not chosen on.

    Args:
        model: the model.
        settings: receivers, senders, sides.
        context: the measurement that heads are chosen from, and progress.

    Raises:
        NotMeasurable: the model has no attention heads, or their input cannot be patched.
        MeasurementError: a head does not exist, a sender lies below no receiver, or the sequences
            do not fit the model.
    """
    from icl_bench.measures import statistics as st
    from icl_bench.measures import tokens as tk
    from icl_bench.models.attention.partial_forward import require_partial_forward
    from icl_bench.probes.design.replacement import HeldOut, prepare_replacement

    require_partial_forward(model)
    tokens = draw_unseen(model, settings, context.upstream)
    receivers = choose_heads(model, settings, context.upstream)
    ends = Ends(receivers, _find_senders(model, settings, receivers))
    result = Measurement(
        probe="composition",
        settings=settings.model_dump(by_alias=True, exclude_none=True)
        | tell_stream(context.upstream),
        metrics={
            "receivers": st.exact_metric(len(receivers)),
            "senders": st.exact_metric(len(ends.senders)),
        },
    )
    if not ends.senders:
        why = "no head lies below the chosen ones"
        _report_nothing(result, why if receivers else describe_misfit(settings.heads))
        return result
    held_out = HeldOut.like(model, settings, tokens.input_ids.shape[1])
    prepared = prepare_replacement(model, settings.method, ends.senders, held_out)
    values = prepared.replacement.values
    result.tokens_sha256 = tk.digest_tokens(tokens.input_ids, *prepared.batches)
    clean, previous = _score(model, tokens, ends)
    effects, lacking = _patch(model, settings, context, tokens, ends, values)
    result.unmeasured |= lacking
    found: dict[Side, Drops] = {
        side: Drops(ends, [e for e in effects if e.side == side])
        for side in SIDES
        if any(effect.side == side for effect in effects)
    }
    result.tables["composition"] = [
        row for side, drops in found.items() for row in drops.rows(side, previous.mean(0))
    ]
    _summarize(result, settings, clean, previous, found)
    return result


def _report_nothing(result: Measurement, why: str | None) -> None:
    from icl_bench.measures.statistics import exact_metric

    result.reason = why or "no head is chosen"
    result.metrics["key_collapsed"] = exact_metric(0)
    result.unmeasured = dict.fromkeys(METRICS.keys() - result.metrics.keys(), result.reason)


def _score(model: Model, tokens: RepeatedTokens, ends: Ends) -> Iterator[np.ndarray]:
    """Yield the receivers' induction scores and the senders' previous-token scores.

    Both are (sequences, heads).
    """
    from icl_bench.measures import tokens as tk

    pairs = {
        "induction": tk.induction_pairs(tokens),
        "previous_token": tk.previous_token_pairs(tokens),
    }
    scores = model.head_scores(tokens.input_ids, pairs)
    for name, heads in (("induction", ends.receivers), ("previous_token", ends.senders)):
        yield np.stack([scores[name][layer][:, head].double().numpy() for layer, head in heads], 1)


def _find_senders(model: Model, settings: Settings, receivers: list[Head]) -> list[Head]:
    """Return the heads to take out, sorted; none where nothing lies below a receiver.

    Raises:
        MeasurementError: a listed head does not exist, or lies below no receiver.
    """
    highest = max((layer for layer, _ in receivers), default=0)
    if settings.senders is None:
        return [head for head in model.every_head if head[0] < highest]
    senders = check_numbers(model, settings.senders)
    for layer, head in senders if receivers else []:
        if layer >= highest:
            raise MeasurementError(f"sender {layer}.{head} lies below no receiver")
    return senders if receivers else []


def _patch(
    model: Model,
    settings: Settings,
    context: Context,
    tokens: RepeatedTokens,
    ends: Ends,
    values: Any,
) -> tuple[list[PathEffect], dict[str, str]]:
    """Return the effects, and metric -> why it is not measured for the sides left out."""
    from icl_bench.models.circuits.patching import Paths, Scored, patch_paths

    layers = sorted({layer for layer, _ in ends.receivers})
    count = sum(own < layer for layer in layers for own, _ in ends.senders) * settings.sequences

    def patch(sides: Sequence[Side]) -> list[PathEffect]:
        with context.task("paths between heads", count) as advance:
            paths = Paths(layers, [(head,) for head in ends.senders], sides, values)
            return patch_paths(model, Scored.repeats(tokens), paths, advance)

    sides = [side for side in SIDES if side in settings.sides]
    lacking = settings.absent
    try:
        return patch(sides), lacking
    except NotMeasurable as error:
        # What heads write may be unknown where their patterns are not.
        rest = [side for side in sides if side != "value"]
        if len(rest) in (0, len(sides)):
            raise
        return patch(rest), lacking | _explain({"value"}, str(error))


def _explain(sides: set[Side], why: str) -> dict[str, str]:
    return {name: why for name in METRICS for side in sides if name.startswith(f"{side}_")}


def _summarize(
    result: Measurement,
    settings: Settings,
    clean: np.ndarray,
    previous: np.ndarray,
    found: dict[Side, Drops],
) -> None:
    """Fill in the metrics.

    Args:
        result: the measurement.
        settings: its settings.
        clean: induction scores, (sequences, receivers).
        previous: previous-token scores, (sequences, senders).
        found: side -> drops.
    """
    from icl_bench.measures import statistics as st

    metrics, confidence = result.metrics, settings.confidence

    def mean(values: np.ndarray, *, unit: bool = False) -> Metric:
        return st.mean_metric(values, unit=unit, confidence=confidence)

    metrics["induction_clean"] = mean(clean.mean(1), unit=True)
    if "value" in found:
        metrics["value_clean"] = mean(found["value"].clean.mean(1))
    if "key" in found:
        lost = found["key"].lost
        metrics["key_sender_previous_token"] = st.best_metric(
            previous, lost.mean(2), bounds=UNIT, confidence=confidence
        )
        collapsed = count_collapsed(clean, lost, settings.threshold, confidence)
        metrics["key_collapsed"] = collapsed
        metrics["key_collapsed_share"] = st.divide_count(collapsed, clean.shape[1])
    feeder = int(previous.mean(0).argmax())
    for side, drops in found.items():
        why = _explain_nothing(side, metrics, settings.threshold)
        names = [f"{side}_drop{end}" for end in ("", "_previous_token", "_others")]
        if why is not None:
            result.unmeasured |= dict.fromkeys(names, why)
            continue
        shares = drops.shares(feeder, confidence)
        metrics |= dict(zip(names, shares))
        if len(shares) < len(names):
            result.unmeasured[names[-1]] = "there is one sender only"


def _explain_nothing(side: Side, metrics: dict[str, Metric], threshold: float) -> str | None:
    """Return why a drop would be a share of nothing, or None."""
    if side != "value":
        level = metrics["induction_clean"].value
        if level > threshold:
            return None
        return f"the receivers' induction score is {level:.2g}, not above {threshold:g}"
    written = metrics["value_clean"]
    low = written.value if written.ci_low is None else written.ci_low
    if low > 0:
        return None
    return f"what the receivers write directly ({written.value:.2g} logits) is not surely above 0"


PROBE = Probe("composition", Settings, METRICS, measure, gives=("composition",))
