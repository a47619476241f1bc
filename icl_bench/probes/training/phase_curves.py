"""The curves of a training run that `phase_change` looks at, read from what was measured."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from icl_bench.errors import MeasurementError, NotMeasurable
from icl_bench.measures.bounds import SIGNED, UNIT, Bounds
from icl_bench.records.parts import Measurement
from icl_bench.records.steps import Series

if TYPE_CHECKING:
    from icl_bench.measures.phase import Curve


@dataclass(frozen=True)
class Quantity:
    """A metric that is followed through a training run.

    Args:
        role: which of the probe's sources it is from.
        metric: its name there.
        sign: 1 where learning makes it rise, -1 where it falls.
        told: what a change of it is called.
        kind: which minimum says whether it changes: `score`, `loss` or `text`.
        bounds: lowest and highest value of it, where there are such.
    """

    role: str
    metric: str
    sign: int
    told: str
    kind: str
    bounds: Bounds | None = None


QUANTITIES: dict[str, Quantity] = {
    "induction": Quantity(
        "scores", "induction_max", 1, "the rise of the induction score", "score", UNIT
    ),
    "induction_excess": Quantity(
        "scores",
        "induction_excess_max",
        1,
        "the rise of the score above its control",
        "score",
        SIGNED,
    ),
    "previous_token": Quantity(
        "scores", "previous_token_max", 1, "the rise of the previous-token score", "score", UNIT
    ),
    "first_loss": Quantity(
        "losses", "first_loss", -1, "the fall of the loss on the first copy", "loss"
    ),
    "repeated_loss": Quantity(
        "losses", "repeated_loss", -1, "the fall of the loss on repeats", "loss"
    ),
    "gain": Quantity("losses", "gain", 1, "the rise of the gain from repetition", "loss"),
    "copy_accuracy": Quantity(
        "losses", "copy_accuracy", 1, "the rise of copy accuracy", "score", UNIT
    ),
    "text": Quantity("text", "icl_score_windowed", -1, "the fall of the ICL score on text", "text"),
}
"""Name of a curve -> what it is; `induction_excess` and `text` may be absent."""
OPTIONAL = ("induction_excess", "text")
SOURCES = {"scores": "induction", "losses": "losses", "text": "icl_score"}
"""Role -> the probe that a source has to be of."""


def read_samples(series: Series, sources: dict[str, str]) -> dict[str, np.ndarray]:
    """Return name of a curve -> values, shape (samples, steps), in their own sign.

    Args:
        series: the run; the order of its steps is kept.
        sources: role -> name of a measurement.

    Raises:
        NotMeasurable: a source was skipped.
        MeasurementError: a source is missing, of another probe, broken, or was measured on
            different tokens at different steps.
    """
    found = {
        role: _measured(series, role, name)
        for role, name in sources.items()
        if why_skipped(series, role, name) is None
    }
    curves: dict[str, np.ndarray] = {}
    for name, quantity in QUANTITIES.items():
        if quantity.role not in found:
            continue
        metrics = [one.metrics.get(quantity.metric) for one in found[quantity.role]]
        samples = [metric.samples for metric in metrics if metric and metric.samples]
        if len(samples) == len(metrics):
            curves[name] = np.array(samples).T
        elif name not in OPTIONAL:
            source = sources[quantity.role]
            raise MeasurementError(f"{source!r} has no samples of {quantity.metric} at every step")
    return curves


def why_skipped(series: Series, role: str, name: str) -> str | None:
    """Return why a source that may be missing is, at every step; None where it is there.

    Args:
        series: the run.
        role: what it is read for.
        name: of the measurement.
    """
    taken = series.measurements.get(name, ())
    if role != "text" or not taken or any(one.status != "skipped" for one in taken):
        return None
    return f"{name}: {taken[0].reason}"


def curve_of(steps: np.ndarray, samples: np.ndarray, quantity: Quantity) -> Curve:
    """Return a curve without step 0, which has no logarithm, turned so that it should rise.

    Args:
        steps: of all checkpoints, shape (steps,).
        samples: shape (samples, steps).
        quantity: what it is.
    """
    from icl_bench.measures.phase import Curve

    fitted = steps >= 1
    ends = quantity.bounds and sorted(quantity.sign * end for end in quantity.bounds)
    bounds = (ends[0], ends[1]) if ends else None
    return Curve(steps[fitted], quantity.sign * samples[:, fitted], bounds)


def tabulate_curves(steps: np.ndarray, curves: dict[str, np.ndarray]) -> list[dict[str, Any]]:
    """One row per step: every curve's mean and its 95% interval.

    Args:
        steps: shape (steps,).
        curves: name -> samples, shape (samples, steps).
    """
    from icl_bench.measures.statistics import mean_metric

    rows: list[dict[str, Any]] = []
    for column, step in enumerate(steps):
        row: dict[str, Any] = {"step": int(step)}
        for name, samples in curves.items():
            bounds = QUANTITIES[name].bounds
            metric = mean_metric(samples[:, column], keep=False, bounds=bounds)
            row[name] = metric.value
            if metric.ci_low is not None:
                row |= {f"{name}_ci_low": metric.ci_low, f"{name}_ci_high": metric.ci_high}
        rows.append(row)
    return rows


def _measured(series: Series, role: str, name: str) -> tuple[Measurement, ...]:
    if name not in series.measurements:
        raise MeasurementError(f"'{role}: {name}' names no measurement of this suite")
    taken = series.measurements[name]
    for step, one in zip(series.steps, taken):
        if one.probe != SOURCES[role]:
            raise MeasurementError(
                f"'{role}' needs a measurement of the probe '{SOURCES[role]}', not '{one.probe}'"
            )
        if one.status == "skipped":
            raise NotMeasurable(f"{name}: {one.reason}")
        if one.status == "error":
            raise MeasurementError(f"{name} at step {step}: {one.reason}")
    if len({one.tokens_sha256 for one in taken}) > 1:
        raise MeasurementError(
            f"{name!r} was not measured on the same tokens at every step, so steps cannot be "
            "compared sequence by sequence; 'until' draws as many as each step needs, leave it out"
        )
    return taken
