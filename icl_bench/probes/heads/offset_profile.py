"""Probe `offset_profile`: attention around the induction target, one place after the other."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
from pydantic import Field, field_validator

from icl_bench.errors import MeasurementError
from icl_bench.measures.bounds import SIGNED, UNIT
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
    """What a suite may set for the `offset_profile` probe."""

    heads: HeadSelection | HeadList | None = None
    """Heads whose mean profile is read; the one with the highest peak when not given."""
    offsets: Annotated[list[int], Field(min_length=2)] = Field(
        default_factory=lambda: list(range(-3, 6))
    )
    """Places k: 0 is the earlier occurrence, 1 the token after it."""
    repeats: Annotated[int, Field(ge=2)] = 2
    """Copies of the block in a sequence."""

    @field_validator("offsets")
    @classmethod
    def _once_each(cls, offsets: list[int]) -> list[int]:
        if len(set(offsets)) < len(offsets):
            raise ValueError("an offset is listed twice")
        return sorted(offsets)

    @property
    def absent(self) -> dict[str, str]:
        """Heights at offsets that are not looked at."""
        return {
            name: f"{offset} is not among the offsets of the suite"
            for name, offset in HEIGHTS.items()
            if offset not in self.offsets
        }


HEIGHTS = {"height_at_one": 1, "backward_copy": -1}
"""Metric -> the offset that it is read at."""
METRICS: dict[str, MetricInfo] = {
    "offset_peak": MetricInfo("the offset k that is attended to most", None, "tokens"),
    "peak_height": MetricInfo(
        "attention there, the offset (and head) chosen and read on different sequences",
        "up",
        "probability",
        bounds=UNIT,
    ),
    "height_at_one": MetricInfo(
        "attention at k = 1, the induction target", "up", "probability", bounds=UNIT
    ),
    "backward_copy": MetricInfo(
        "attention at k = -1, the token before the earlier occurrence",
        "down",
        "probability",
        bounds=UNIT,
    ),
    "peak_margin": MetricInfo(
        "attention at the peak minus that at the next highest offset",
        "up",
        "probability",
        bounds=SIGNED,
    ),
}


def measure(model: Model, settings: Settings, context: Context) -> Measurement:
    """Read attention from a repeated token to the places around its earlier occurrence.

    Args:
        model: the model.
        settings: which heads and places.
        context: the measurement that heads are chosen from, and progress.

    Raises:
        NotMeasurable: the model has no attention heads.
        MeasurementError: an offset is no smaller than the period, a head does not exist, or the
            sequences do not fit the model.
    """
    from icl_bench.measures import tokens as tk

    model.require_heads()
    offsets, period = settings.offsets, settings.period
    for offset in offsets:
        if not -period < offset < period:
            raise MeasurementError(f"offset {offset} lies outside a block of {period} tokens")
    tokens = draw_unseen(model, settings, context.upstream)
    chosen = choose_heads(model, settings, context.upstream)
    pairs = {str(offset): tk.induction_pairs(tokens, offset) for offset in offsets}
    with context.task("attention around the target", settings.sequences) as advance:
        found = model.head_scores(tokens.input_ids, pairs, advance=advance)
    attention = np.stack(
        [
            np.concatenate([found[str(k)][layer].double().numpy() for layer in model.heads], 1)
            for k in offsets
        ],
        axis=2,
    )
    result = Measurement(
        probe="offset_profile",
        settings=settings.model_dump(by_alias=True, exclude_none=True)
        | tell_stream(context.upstream),
        tokens_sha256=tk.digest_tokens(tokens.input_ids),
        tables={"offset_profile": _rows(model.every_head, offsets, attention)},
    )
    if settings.heads is not None and not chosen:
        result.reason = describe_misfit(settings.heads) or "no head is chosen"
        result.unmeasured = dict.fromkeys(METRICS, result.reason)
        return result
    if chosen:
        columns = [model.every_head.index(head) for head in chosen]
        profile = attention[:, columns].mean(axis=1)
    else:
        profile = _read_best(attention)
    result.tables["profile_heads"] = [
        {"layer": layer, "head": head}
        for layer, head in chosen or [model.every_head[int(attention.mean(0).max(1).argmax())]]
    ]
    _summarize(result, profile, settings)
    return result


def _summarize(result: Measurement, profile: np.ndarray, settings: Settings) -> None:
    """Report where and how high the profile's peak is.

    Args:
        result: gets the metrics.
        profile: (sequences, offsets) attention.
        settings: the measurement's.
    """
    from icl_bench.measures import statistics as st

    offsets, confidence = settings.offsets, settings.confidence
    result.metrics["offset_peak"] = locate_peak(profile, offsets, confidence)
    result.metrics["peak_height"] = st.best_metric(profile, bounds=UNIT, confidence=confidence)
    order = profile.mean(axis=0).argsort()
    margin = profile[:, order[-1]] - profile[:, order[-2]]
    result.metrics["peak_margin"] = st.mean_metric(margin, bounds=SIGNED, confidence=confidence)
    for name, offset in HEIGHTS.items():
        if offset in offsets:
            there = profile[:, offsets.index(offset)]
            result.metrics[name] = st.mean_metric(there, unit=True, confidence=confidence)
    result.unmeasured |= settings.absent


def locate_peak(profile: np.ndarray, offsets: list[int], confidence: float = 0.95) -> Metric:
    """Offset with the highest mean, and the range of offsets that may be the highest.

    An offset may be, unless it is below the highest by more than the interval of their paired
    difference (`mean_interval`, Bonferroni-corrected over the other offsets).

    Args:
        profile: (sequences, offsets).
        offsets: in ascending order.
        confidence: of the interval.
    """
    from icl_bench.measures.intervals import mean_interval

    count = len(profile)
    best = int(profile.mean(axis=0).argmax())
    if count == 1:
        return Metric(value=float(offsets[best]), n=1)
    behind = profile[:, [best]] - profile
    each = 1 - (1 - confidence) / (len(offsets) - 1)
    least, _ = mean_interval(behind, each, SIGNED)
    possible = [k for place, k in enumerate(offsets) if place == best or least[place] <= 0]
    return Metric(
        value=float(offsets[best]),
        ci_low=float(min(possible)),
        ci_high=float(max(possible)),
        n=count,
    )


def _read_best(attention: np.ndarray) -> np.ndarray:
    """Each half's profile (sequences, offsets) of the head with the other half's highest peak."""
    count = len(attention)
    if count == 1:
        return attention[:, int(attention[0].max(1).argmax())]
    first, second = attention[: count // 2], attention[count // 2 :]
    best_first, best_second = (int(half.mean(0).max(1).argmax()) for half in (first, second))
    return np.concatenate([first[:, best_second], second[:, best_first]])


def _rows(heads: list[Head], offsets: list[int], attention: np.ndarray) -> list[dict[str, Any]]:
    """One row per head and offset."""
    mean, count = attention.mean(0), len(attention)
    spread = None if count == 1 else attention.std(0, ddof=1) / count**0.5
    return [
        {
            "layer": layer,
            "head": head,
            "offset": offset,
            "attention": float(mean[row, column]),
            "attention_stderr": None if spread is None else float(spread[row, column]),
        }
        for row, (layer, head) in enumerate(heads)
        for column, offset in enumerate(offsets)
    ]


PROBE = Probe("offset_profile", Settings, METRICS, measure)
