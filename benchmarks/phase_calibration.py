"""How often intervals of a phase change hold, and how often a gradual curve passes for a sharp one.

The tables are made by `benchmarks/calibration.py`. The truth is a curve in log(step) that is known
between checkpoints too; every sequence has a height and a midpoint of its own.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy import stats
from scipy.special import expit

from icl_bench.measures.gradual import compare_with_gradual
from icl_bench.measures.phase import (
    Curve,
    cross,
    find_change,
    fit_monotone,
    jackknife,
    sharpness,
)
from icl_bench.measures.statistics import student_t

GRIDS = {
    "dense around the change": np.array(
        [1, 4, 16, 64, 128, 200, 300, *range(400, 1001, 50), 1100, 1250, 1500, 1750, 2000]
    ),
    "powers of two, then every 1000": np.array(
        [*(2**k for k in range(10)), *range(1000, 20001, 1000)]
    ),
    "40 linear": np.arange(50, 2001, 50),
    "1 and 40 linear": np.array([1, *range(50, 2001, 50)]),
}
"""Name -> steps of checkpoints."""
_MIDDLE = 2 * math.log(9)


@dataclass(frozen=True)
class Learner:
    """A population of sequences whose score rises.

    Args:
        steps: of the checkpoints.
        midpoint: step at which half of the rise is reached, of the middle sequence.
        width: share of the range of log(step) from 10% to 90%.
        spread: standard deviation of the sequences' log(midpoint), as a share of the range.
        noise: standard deviation of a sequence's score at one checkpoint.
    """

    steps: np.ndarray
    midpoint: float
    width: float
    spread: float = 0.01
    noise: float = 0.05

    def draw(self, rng: np.random.Generator, count: int) -> np.ndarray:
        """Scores, shape (count, checkpoints)."""
        x = np.log(self.steps)
        span = x[-1] - x[0]
        heights = rng.beta(12, 2, (count, 1))
        middles = math.log(self.midpoint) + self.spread * span * rng.normal(0, 1, (count, 1))
        rise = expit((x - middles) * _MIDDLE / (self.width * span))
        return heights * rise + rng.normal(0, self.noise, (count, len(x)))

    def truth(self) -> tuple[np.ndarray, np.ndarray]:
        """The mean curve at the checkpoints, and densely: two columns, log(step) and height."""
        quantiles = stats.norm.ppf((np.arange(400) + 0.5) / 400)[:, None]

        def mean(x: np.ndarray) -> np.ndarray:
            span = math.log(self.steps[-1] / self.steps[0])
            middles = math.log(self.midpoint) + self.spread * span * quantiles
            rise = expit((x - middles) * _MIDDLE / (self.width * span)).mean(axis=0)
            return np.asarray(12 / 14 * rise)

        dense = np.linspace(math.log(self.steps[0]), math.log(self.steps[-1]), 4001)
        return mean(np.log(self.steps)), np.stack([dense, mean(dense)], 1)


def coverage(learner: Learner, sequences: int, runs: int, seed: int = 0) -> dict[str, float]:
    """How often 95% intervals hold the truth of the curve itself, and of its checkpoints alone.

    Args:
        learner: the population.
        sequences: in a sample.
        runs: samples.
        seed: of the simulation.
    """
    rng = np.random.default_rng(seed)
    x = np.log(learner.steps)
    at_steps, dense = learner.truth()
    half = (dense[0, 1] + dense[-1, 1]) / 2
    midpoint = math.exp(cross(dense[:, 0], dense[:, 1], half))
    sharp = sharpness(dense[:, 0], dense[:, 1])
    read = np.array([_midpoint(x, at_steps), sharpness(x, at_steps)])
    held: dict[str, int] = dict.fromkeys(
        ["midpoint", "sharpness", *(f"{rule} {name}" for rule in RULES for name in NAMES)], 0
    )
    for _ in range(runs):
        samples = learner.draw(rng, sequences)
        change = find_change(Curve(learner.steps, samples))
        held["midpoint"] += _holds(change.midpoint.ci_low, change.midpoint.ci_high, midpoint)
        held["sharpness"] += _holds(change.sharpness.ci_low, change.sharpness.ci_high, sharp)
        for rule, interval in RULES.items():
            low, high = interval(x, samples, rng)
            for name, one, other, truth in zip(NAMES, low, high, read):
                held[f"{rule} {name}"] += bool(one <= truth <= other)
    return {name: count / runs for name, count in held.items()}


NAMES = ("midpoint", "sharpness")


def _midpoint(x: np.ndarray, values: np.ndarray) -> float:
    rising = fit_monotone(values)
    return cross(x, rising, (rising[0] + rising[-1]) / 2)


def _read(x: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
    return lambda values: np.array([_midpoint(x, values), sharpness(x, values)])


Interval = tuple[np.ndarray, np.ndarray]


def by_jackknife(x: np.ndarray, samples: np.ndarray, rng: np.random.Generator) -> Interval:
    """Estimate ± Student's t times the jackknife's standard error."""
    values, errors = jackknife(samples, _read(x))
    assert errors is not None
    half = student_t(len(samples) - 1) * errors
    return values - half, values + half


def by_bootstrap(x: np.ndarray, samples: np.ndarray, rng: np.random.Generator) -> Interval:
    """Percentiles of 400 resamples."""
    count = len(samples)
    drawn = [_read(x)(samples[rng.integers(0, count, count)].mean(axis=0)) for _ in range(400)]
    low, high = np.quantile(drawn, [0.025, 0.975], axis=0)
    return low, high


def by_bca(x: np.ndarray, samples: np.ndarray, rng: np.random.Generator) -> Interval:
    """Bias-corrected and accelerated percentiles of 400 resamples."""
    indices = np.arange(len(samples))
    ends = []
    for place in range(len(NAMES)):

        def read(chosen: np.ndarray, place: int = place) -> float:
            return float(_read(x)(samples[chosen].mean(axis=0))[place])

        found = stats.bootstrap(
            (indices,), read, n_resamples=400, vectorized=False, random_state=rng
        ).confidence_interval
        ends.append((found.low, found.high))
    low, high = np.array(ends).T
    return low, high


RULES: dict[str, Callable[[np.ndarray, np.ndarray, np.random.Generator], Interval]] = {
    "jackknife": by_jackknife,
    "percentile": by_bootstrap,
    "BCa": by_bca,
}


def _holds(low: float | None, high: float | None, truth: float) -> bool:
    assert low is not None and high is not None
    return low * (1 - 1e-9) <= truth <= high * (1 + 1e-9)


@dataclass(frozen=True)
class Shape:
    """A true curve on the unit interval of log(step), and whether it is gradual."""

    name: str
    height: Callable[[np.ndarray], np.ndarray]
    gradual: bool


def logistic(width: float, midpoint: float = 0.6) -> Callable[[np.ndarray], np.ndarray]:
    """A logistic that takes `width` from 10% to 90%."""
    return lambda x: np.asarray(expit((x - midpoint) * _MIDDLE / width))


def proportional(span: float) -> Callable[[np.ndarray], np.ndarray]:
    """Growth in proportion to the step: exp(x) over a range of `span`."""
    return lambda x: np.asarray(np.exp((x - 1) * span))


def shapes(span: float) -> list[Shape]:
    """Curves to try on a grid whose log(step) covers `span`."""
    return [
        Shape("straight in log(step)", lambda x: x, True),
        Shape("logistic, width .8", logistic(0.8), True),
        Shape("logistic, width .5", logistic(0.5), True),
        Shape("flattening, 1 - exp(-3x)", lambda x: 1 - np.exp(-3 * x), True),
        Shape("in proportion to the step", proportional(span), True),
        Shape("logistic, width .3", logistic(0.3, 0.85), False),
        Shape("logistic, width .1", logistic(0.1, 0.85), False),
        Shape("logistic, width .05", logistic(0.05, 0.85), False),
    ]


def p_values(
    steps: np.ndarray, shape: Shape, noise: float, tests: int, draws: int = 99, seed: int = 0
) -> np.ndarray:
    """p-values of noisy curves, shape (tests,).

    Args:
        steps: of the checkpoints.
        shape: the true curve.
        noise: standard deviation of what is not smooth, as a share of the rise.
        tests: number of curves.
        draws: gradual curves that each is compared with.
        seed: of the simulation.
    """
    rng = np.random.default_rng(seed)
    x = np.log(steps)
    unit = (x - x[0]) / (x[-1] - x[0])
    height = shape.height(unit)
    height = height / np.ptp(height)
    found = [
        compare_with_gradual(x, height + rng.normal(0, noise, len(x)), draws, run).p_value
        for run in range(tests)
    ]
    return np.array(found)


def coverage_table(runs: int) -> tuple[list[str], list[list[str]]]:
    """Head and rows: how often intervals hold the truth, for each grid, width and sample size.

    Args:
        runs: samples per cell.
    """
    rows = []
    for name in ("dense around the change", "powers of two, then every 1000"):
        steps = GRIDS[name]
        for width in (0.05, 0.2, 0.6):
            learner = Learner(steps, 700 if name.startswith("dense") else 3300, width)
            for count in (8, 32):
                held = coverage(learner, count, runs)
                shares = [f"{one:.1%}" for one in held.values()]
                rows.append([name, f"{width}", f"{count}", *shares])
    return ["checkpoints", "width", "n", *held], rows


def null_table(tests: int, noise: float = 0.03) -> tuple[list[str], list[list[str]]]:
    """Head and rows: how often p-values are small, for each grid and shape of the true curve.

    Args:
        tests: curves per cell.
        noise: standard deviation of what is not smooth, as a share of the rise.
    """
    rows = []
    for name, steps in GRIDS.items():
        for shape in shapes(math.log(steps[-1] / steps[0])):
            ps = p_values(steps, shape, noise, tests)
            cells = [f"{(ps <= level + 1e-9).mean():.1%}" for level in (0.01, 0.05, 0.25, 0.5)]
            kind = "gradual" if shape.gradual else "sharper"
            rows.append([name, shape.name, kind, *cells])
    return ["checkpoints", "curve", "", "p <= .01", "p <= .05", "p <= .25", "p <= .5"], rows
