"""Probe `phase_change`: when in training the induction circuit formed, and how suddenly."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated

import numpy as np
from pydantic import Field

from icl_bench.errors import NotMeasurable
from icl_bench.probes.design.context import Context
from icl_bench.probes.design.settings import StrictSettings
from icl_bench.probes.protocol import MetricInfo, Probe
from icl_bench.probes.training.change_points import ABSENT, Changes
from icl_bench.probes.training.phase_curves import (
    QUANTITIES,
    SOURCES,
    curve_of,
    read_samples,
    tabulate_curves,
    why_skipped,
)
from icl_bench.records.parts import Measurement, Metric
from icl_bench.records.steps import Series

if TYPE_CHECKING:
    from icl_bench.measures.phase import Curve

__all__ = ["METRICS", "SOURCES", "Settings", "measure_series"]

THINNED = 200
"""Points of the recorded training loss that the record keeps at most."""


class Settings(StrictSettings):
    """What a suite may set for the `phase_change` probe."""

    scores: Annotated[str, Field(min_length=1)]
    """Name of the `induction` measurement of the suite that attention scores are read from."""
    losses: Annotated[str, Field(min_length=1)]
    """Name of the `losses` measurement of the suite."""
    text: Annotated[str, Field(min_length=1)] | None = None
    """Name of an `icl_score` measurement of the suite, for the ICL score on text."""
    by_step: Annotated[int, Field(ge=1)] | None = None
    """Last step that `size_by_step` counts; the last checkpoint when not given."""
    minimum_score: Annotated[float, Field(gt=0, lt=1)] = 0.1
    """Rise of an attention score below which there is no change to locate."""
    minimum_loss: Annotated[float, Field(gt=0)] = 0.5
    """Fall of the loss on repeats, or rise of the gain, below which there is none, nats."""
    minimum_text: Annotated[float, Field(gt=0)] = 0.1
    """Fall of the ICL score on text below which there is none, nats."""
    null_draws: Annotated[int, Field(ge=0)] = 999
    """Gradual curves to compare with; 0 for none."""
    seed: Annotated[int, Field(ge=0)] = 0
    """Seed of these curves."""

    @property
    def sources(self) -> dict[str, str]:
        """Role -> name of the measurement of the same suite that is read."""
        named = {"scores": self.scores, "losses": self.losses, "text": self.text}
        return {role: name for role, name in named.items() if name is not None}

    @property
    def absent(self) -> dict[str, str]:
        """What is read on text, and beside gradual curves, where these are left out."""
        absent = {}
        if self.text is None:
            absent = {name: ABSENT["text"] for name in METRICS if name.startswith("text_")}
        if self.null_draws == 0:
            names = [name for name in METRICS if "null_" in name]
            absent |= dict.fromkeys(names, "null_draws: 0 in the suite")
        return absent


METRICS: dict[str, MetricInfo] = {
    "size": MetricInfo("rise of the induction score, first to last step", "up", "probability"),
    "size_by_step": MetricInfo("its rise until the step asked for", "up", "probability"),
    "excess_size": MetricInfo("rise of the score above its control", "up", "probability"),
    "onset_step": MetricInfo("step at which 10% of the rise is reached", None, "steps"),
    "midpoint_step": MetricInfo("step at which half of the rise is reached", None, "steps"),
    "end_step": MetricInfo("step at which 90% of the rise is reached", None, "steps"),
    "sharpness": MetricInfo("share of the rise in the steepest tenth of log-steps", "up", "ratio"),
    "null_p_value": MetricInfo(
        "rank of the sharpness among gradual curves at the same steps", "down", "probability", True
    ),
    "null_median_sharpness": MetricInfo("median sharpness of these curves", None, "ratio", True),
    "null_max_sharpness": MetricInfo("largest sharpness of these curves", None, "ratio", True),
    "previous_token_size": MetricInfo("rise of the previous-token score", "up", "probability"),
    "previous_token_midpoint_step": MetricInfo("step of half of that rise", None, "steps"),
    "previous_token_distance": MetricInfo(
        "doublings of the step from the previous-token midpoint to that of induction",
        None,
        "doublings",
    ),
    "previous_token_onset_distance": MetricInfo(
        "the same from onset to onset: above 0 where the previous-token score rises first",
        None,
        "doublings",
    ),
    "icl_size": MetricInfo("rise of the gain from repetition", "up", "nats"),
    "icl_midpoint_step": MetricInfo("step of half of that rise", None, "steps"),
    "icl_distance": MetricInfo(
        "doublings of the step from the gain's midpoint to that of induction", None, "doublings"
    ),
    "text_size": MetricInfo("fall of the windowed ICL score on text", "up", "nats"),
    "text_midpoint_step": MetricInfo("step of half of that fall", None, "steps"),
    "text_distance": MetricInfo(
        "doublings of the step from that midpoint to that of induction", None, "doublings"
    ),
    "loss_size": MetricInfo("fall of the loss on repeats", "up", "nats"),
    "loss_step": MetricInfo("step at which the loss on repeats falls fastest", None, "steps"),
    "loss_sharpness": MetricInfo("share of that fall in its steepest tenth", "up", "ratio"),
    "loss_null_p_value": MetricInfo(
        "rank of that among gradual curves at the same steps", "down", "probability", True
    ),
    "loss_distance": MetricInfo(
        "doublings of the step from loss_step to the midpoint of induction", None, "doublings"
    ),
    "training_loss_bump": MetricInfo(
        "height of the recorded loss above its convex minorant", None, "nats", True
    ),
    "training_loss_step": MetricInfo("step at which that bump falls", None, "steps", True),
    "training_loss_distance": MetricInfo(
        "doublings of the step from there to the midpoint of induction", None, "doublings"
    ),
    "checkpoints": MetricInfo("steps that curves are fitted to", None, "steps", True),
}


def measure_series(series: Series, settings: Settings, context: Context) -> Measurement:
    """Find the phase change of a training run in its curves.

    Args:
        series: what was measured at every step.
        settings: which measurements, and what counts as a change.
        context: progress.

    Raises:
        NotMeasurable: fewer than two checkpoints from step 1 on, or a source was skipped.
        MeasurementError: a source is missing, broken, or not paired over steps.
    """
    from icl_bench.measures.statistics import exact_metric

    steps = np.array(series.steps)
    if (steps >= 1).sum() < 2:
        raise NotMeasurable("a change needs two checkpoints or more, from step 1 on")
    samples = read_samples(series, settings.sources)
    curves = {name: curve_of(steps, values, QUANTITIES[name]) for name, values in samples.items()}
    result = Measurement(
        probe="phase_change",
        settings=settings.model_dump(exclude_none=True),
        metrics={"checkpoints": exact_metric(int((steps >= 1).sum()))},
        tables={"curves": tabulate_curves(steps, samples)},
    )
    _add_sizes(result, curves, settings)
    minima = {
        "score": settings.minimum_score,
        "loss": settings.minimum_loss,
        "text": settings.minimum_text,
    }
    changes = Changes(curves, minima)
    result.reason = changes.reasons.get("induction")
    with context.task("phase change", 0):
        _add_induction(result, changes, settings)
        for name, prefix in _BESIDE.items():
            _add_beside(result, changes, name, prefix)
        _add_loss(result, changes, settings)
        _add_training_loss(result, changes, series.training_loss)
    result.tables["changes"] = changes.rows()
    if settings.text and (why := why_skipped(series, "text", settings.text)):
        told = result.unmeasured.items()
        result.unmeasured |= {name: why for name, reason in told if reason == ABSENT["text"]}
    return result


_BESIDE = {"previous_token": "previous_token", "gain": "icl", "text": "text"}
"""Curve -> prefix of its metrics."""


def _add_sizes(result: Measurement, curves: dict[str, Curve], settings: Settings) -> None:
    induction = curves["induction"]
    result.metrics["size"] = induction.rise()
    last = settings.by_step or int(induction.steps[-1])
    until = int(np.searchsorted(induction.steps, last, side="right")) - 1
    if last > induction.steps[-1]:
        why = f"the last checkpoint is that of step {int(induction.steps[-1])}, before step {last}"
        result.unmeasured["size_by_step"] = why
    elif until >= 1:
        result.metrics["size_by_step"] = induction.rise(until)
    else:
        result.unmeasured["size_by_step"] = f"there are no two checkpoints until step {last}"
    sizes = {"induction_excess": "excess_size", "repeated_loss": "loss_size"}
    sizes |= {name: f"{prefix}_size" for name, prefix in _BESIDE.items()}
    for name, metric in sizes.items():
        if name in curves:
            result.metrics[metric] = curves[name].rise()
        else:
            result.unmeasured[metric] = ABSENT[name]


def _add_induction(result: Measurement, changes: Changes, settings: Settings) -> None:
    names = ["onset_step", "midpoint_step", "end_step", "sharpness", "null_p_value"]
    if reason := changes.reasons.get("induction"):
        names += ["null_median_sharpness", "null_max_sharpness"]
        result.unmeasured |= dict.fromkeys(names, reason)
        return
    change = changes.find("induction")
    found = (change.onset, change.midpoint, change.end, change.sharpness)
    result.metrics |= dict(zip(names, found))
    _compare(result, changes, "induction", settings)


def _add_beside(result: Measurement, changes: Changes, name: str, prefix: str) -> None:
    """Add where another curve changes, and how far from there induction does."""
    from icl_bench.measures.phase import doublings_between

    step, distance = f"{prefix}_midpoint_step", f"{prefix}_distance"
    onset = f"{prefix}_onset_distance" if name == "previous_token" else None
    distances = [one for one in (distance, onset) if one]
    if reason := changes.reasons.get(name):
        result.unmeasured |= dict.fromkeys([step, *distances], reason)
        return
    result.metrics[step] = changes.find(name).midpoint
    if reason := changes.reasons.get("induction"):
        result.unmeasured |= dict.fromkeys(distances, reason)
        return
    # Two intervals of 97.5% each hold together 95% of the time.
    ours, other = changes.find("induction", 0.975), changes.find(name, 0.975)
    result.metrics[distance] = doublings_between(other.midpoint, ours.midpoint)
    if onset:
        result.metrics[onset] = doublings_between(other.onset, ours.onset)


def _add_loss(result: Measurement, changes: Changes, settings: Settings) -> None:
    from icl_bench.measures.phase import doublings_between

    names = ["loss_step", "loss_sharpness", "loss_null_p_value"]
    if reason := changes.reasons.get("repeated_loss"):
        result.unmeasured |= dict.fromkeys([*names, "loss_distance"], reason)
        return
    change = changes.find("repeated_loss")
    result.metrics |= {"loss_step": change.fastest, "loss_sharpness": change.sharpness}
    _compare(result, changes, "repeated_loss", settings)
    if reason := changes.reasons.get("induction"):
        result.unmeasured["loss_distance"] = reason
        return
    ours, other = changes.find("induction", 0.975), changes.find("repeated_loss", 0.975)
    result.metrics["loss_distance"] = doublings_between(other.fastest, ours.midpoint)


def _compare(result: Measurement, changes: Changes, name: str, settings: Settings) -> None:
    """Add how the sharpness of `induction` or `repeated_loss` ranks among gradual curves."""
    from icl_bench.measures.gradual import FEWEST, compare_with_gradual
    from icl_bench.measures.statistics import exact_metric

    names = ["null_p_value", "null_median_sharpness", "null_max_sharpness"]
    if name == "repeated_loss":
        names = ["loss_null_p_value"]
    curve, draws = changes.curves[name], settings.null_draws
    if draws == 0 or len(curve.steps) < FEWEST:
        why = f"gradual curves are fitted to {FEWEST} checkpoints or more"
        result.unmeasured |= dict.fromkeys(names, why if draws else "null_draws: 0 in the suite")
        return
    null = compare_with_gradual(curve.positions, curve.mean, draws, settings.seed)
    changes.p_values[name] = null.p_value
    numbers = (null.p_value, float(np.median(null.drawn)), max(null.drawn))
    for metric, value in zip(names, numbers):
        result.metrics[metric] = exact_metric(value, draws)


def _add_training_loss(result: Measurement, changes: Changes, losses: Mapping[int, float]) -> None:
    from icl_bench.measures.bump import FEWEST, find_bump, smooth_losses
    from icl_bench.measures.phase import doublings_between
    from icl_bench.measures.statistics import exact_metric

    names = ["training_loss_bump", "training_loss_step", "training_loss_distance"]
    recorded = {step: loss for step, loss in losses.items() if step >= 1}
    if len(recorded) < FEWEST:
        why = f"a bump needs {FEWEST} recorded training losses, there are {len(recorded)}"
        result.unmeasured |= dict.fromkeys(names, why if recorded else "no training loss recorded")
        return
    thinned = zip(*smooth_losses(recorded, THINNED)[:2])
    result.tables["training_loss"] = [
        {"step": float(step), "loss": float(loss)} for step, loss in thinned
    ]
    bump = find_bump(recorded)
    result.metrics[names[0]] = exact_metric(bump.height if bump else 0.0)
    if bump is None or not bump.significant:
        height = f"{bump.height:.3f} ± {bump.stderr:.3f} nats" if bump else "nowhere"
        why = f"the recorded loss has no bump: it lies {height} above a convex curve"
        result.unmeasured |= dict.fromkeys(names[1:], why)
        return
    result.metrics[names[1]] = exact_metric(bump.step)
    if reason := changes.reasons.get("induction"):
        result.unmeasured[names[2]] = reason
        return
    known = Metric(value=bump.step, stderr=0.0, ci_low=bump.step, ci_high=bump.step)
    result.metrics[names[2]] = doublings_between(known, changes.find("induction").midpoint)


PROBE = Probe("phase_change", Settings, METRICS, None, measure_series, SOURCES)
