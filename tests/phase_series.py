"""Training runs made by hand: what the probes would have measured at every checkpoint."""

from __future__ import annotations

from typing import Any

import numpy as np

from icl_bench.measures.statistics import mean_metric
from icl_bench.records.parts import Measurement
from icl_bench.records.steps import Series

STEPS = (0, 1, 4, 16, 64, 128, 200, 300, *range(400, 1001, 50), 1250, 1500, 2000)


def rise(steps: Any, midpoint: float, doublings: float = 0.5) -> np.ndarray:
    """A logistic in log(step) from 0 to 1, 10% to 90% in so many doublings of the step."""
    x = np.log2(np.maximum(np.array(steps, dtype=float), 0.5))
    return np.asarray(1 / (1 + np.exp(-(x - np.log2(midpoint)) * 4.394 / doublings)))


def make_series(
    *,
    steps: tuple[int, ...] = STEPS,
    induction: np.ndarray | float = 0.0,
    previous_token: np.ndarray | float = 0.0,
    copying: np.ndarray | float = 0.0,
    text: np.ndarray | float | None = None,
    sequences: int = 32,
    training_loss: dict[int, float] | None = None,
    noise: float = 0.01,
) -> Series:
    """Return a series with measurements `repeats`, `losses` and, when given, `text`.

    Args:
        steps: of the checkpoints.
        induction: share of its final score 0.9 at every step.
        previous_token: the same.
        copying: share of the loss on repeats, 6 nats, that is gone.
        text: share of an ICL score of -1 nat.
        sequences: of each measurement.
        training_loss: recorded losses.
        noise: standard deviation of a sequence's value at a step, as a share.
    """
    rng = np.random.default_rng(0)

    def sample(height: float, share: np.ndarray | float, base: float = 0.0) -> np.ndarray:
        curve = np.broadcast_to(share, (len(steps),))
        return base + height * (curve + rng.normal(0, noise, (sequences, len(steps))))

    scores = {
        "induction_max": sample(0.9, induction, 0.02),
        "induction_excess_max": sample(0.9, induction),
        "previous_token_max": sample(0.9, previous_token, 0.03),
    }
    first, repeated = sample(0.0, 0.0, 6.0), sample(-6.0, copying, 6.0)
    losses = {
        "first_loss": first,
        "repeated_loss": repeated,
        "gain": first - repeated,
        "copy_accuracy": sample(1.0, copying),
    }
    taken = {
        "repeats": _measured("induction", scores),
        "losses": _measured("losses", losses),
    }
    if text is not None:
        taken["text"] = _measured("icl_score", {"icl_score_windowed": sample(-1.0, text)})
    return Series(steps, taken, training_loss or {})


def _measured(probe: str, columns: dict[str, np.ndarray]) -> tuple[Measurement, ...]:
    count = next(iter(columns.values())).shape[1]
    return tuple(
        Measurement(
            probe=probe,
            tokens_sha256="a",
            metrics={name: mean_metric(values[:, i]) for name, values in columns.items()},
        )
        for i in range(count)
    )
