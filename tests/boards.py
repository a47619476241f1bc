"""Small records of many models, which the tests of leaderboards rank."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from icl_bench.records.parts import Check, Environment, Measurement, Metric, ModelInfo, SuiteRef
from icl_bench.records.record import RunRecord

N = 16
NOISE = np.random.default_rng(3).normal(0, 0.05, N)
"""What makes sequences harder or easier, for every model."""


def metric(samples: Sequence[float] | np.ndarray) -> Metric:
    values = np.asarray(samples, dtype=float)
    n = len(values)
    if n == 1:
        return Metric(value=float(values[0]), n=1)
    error = float(values.std(ddof=1) / math.sqrt(n))
    mean = float(values.mean())
    kept = [float(value) for value in values]
    return Metric(
        value=mean,
        stderr=error,
        ci_low=mean - 2 * error,
        ci_high=mean + 2 * error,
        n=n,
        samples=kept,
    )


def around(level: float, seed: int = 0, spread: float = 0.01) -> np.ndarray:
    """Values of one model on the shared sequences."""
    return level + NOISE + np.random.default_rng(seed).normal(0, spread, N)


def make(
    name: str,
    level: float | None,
    *,
    seed: int = 0,
    suite: str = "core",
    sha256: str = "a" * 64,
    tokens: str | None = "t" * 64,
    settings: Mapping[str, Any] | None = None,
    reason: str = "no head to look at",
    model: Mapping[str, Any] | None = None,
    **fields: Any,
) -> RunRecord:
    """A record with `induction_max` around `level`, and a loss ten times as far below 0.

    `level` None: the measurement was skipped for `reason`.
    """
    shown = {"sequences": N, "period": 50, "seed": 0, **(settings or {})}
    repeats = Measurement(probe="induction", status="skipped", reason=reason, settings=shown)
    collapse = Measurement(probe="ablation", status="skipped", reason=reason, settings={"seed": 0})
    if level is not None:
        repeats = Measurement(
            probe="induction",
            settings=shown,
            tokens_sha256=tokens,
            metrics={
                "induction_max": metric(around(level, seed)),
                "induction_heads": Metric(value=8, ci_low=8, ci_high=8, n=N),
                "uniform_level": Metric(value=0.02, exact=True),
            },
            unmeasured={"induction_excess_max": "control: false in the suite"},
            heads=[{"layer": 0, "head": 0, "induction": 0.5}],
        )
        collapse = Measurement(
            probe="ablation",
            settings={"seed": 0},
            tokens_sha256=tokens,
            metrics={
                "repeated_loss": metric(around(-10 * level, seed)),
                "null_p_value": Metric(value=0.01, exact=True, n=99),
            },
        )
    value = None if level is None else level
    checks = [
        Check(
            id="has-induction-heads",
            suite=suite,
            measurement=f"{suite}/repeats",
            metric="induction_max",
            direction="up",
            value=value,
            rule="above",
            threshold=0.4,
            verdict="skipped" if level is None else "pass" if level > 0.4 else "fail",
            reason=reason if level is None else None,
        ),
        Check(
            id="low-loss",
            suite=suite,
            measurement=f"{suite}/collapse",
            metric="repeated_loss",
            direction="down",
            rule="below",
            threshold=0,
            verdict="inconclusive",
        ),
    ]
    info = {"spec": name, "slug": name, "parameters": 1000, "dtype": "float32"}
    info |= {"fingerprint": name, "architecture": "TinyForCausalLM", "attention": "fused"}
    whole: dict[str, Any] = {
        "icl_bench": "0.1.0",
        "created": "2026-01-01T00:00:00+00:00",
        "model": ModelInfo(**{**info, **(model or {})}),
        "environment": Environment(python="3", platform="x", device="cpu"),
        "suites": [SuiteRef(name=suite, sha256=sha256)],
        "measurements": {f"{suite}/repeats": repeats, f"{suite}/collapse": collapse},
        "checks": checks,
    }
    return RunRecord(**{**whole, **fields})


def write(folder: Path, *records: RunRecord) -> Path:
    """Write records into a report folder and return it."""
    for record in records:
        record.write(folder / record.model.slug / "results.json")
    return folder
