"""How often gates exactly at the truth pass or fail by mistake, under several rules.

Fixed sizes and growing samples; and suites of many gates. The tables are made by
`benchmarks/calibration.py`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cache

import numpy as np
from coverage_calibration import Population
from scipy import stats

from icl_bench.measures import statistics as st
from icl_bench.measures.intervals import mean_interval
from icl_bench.measures.sequential import look_confidence, look_sizes

RULES = ("naive", "split", "split-t", "pocock", "asymptotic", "bernstein")
SUITE = 10
"""Gates of a simulated suite."""


@cache
def pocock_confidence(sizes: tuple[int, ...], draws: int = 200_000, seed: int = 0) -> float:
    """Confidence of each look under Pocock's bound: one level, from the looks' joint normal law."""
    rng = np.random.default_rng(seed)
    steps = np.diff([0, *sizes])
    sums = np.cumsum(rng.normal(size=(draws, len(sizes))) * np.sqrt(steps), axis=1)
    bound = np.quantile(np.abs(sums / np.sqrt(sizes)).max(axis=1), 0.95)
    return float(1 - 2 * stats.norm.sf(bound))


def ends_at(
    values: np.ndarray, sizes: tuple[int, ...], rule: str, population: Population
) -> tuple[np.ndarray, np.ndarray]:
    """Both ends of the interval at one look under a rule, for many streams.

    `split` is the rule of `until: decided`, and `naive` the same at 95% at every look; `split-t`
    is Student's t alone, without bounds; `asymptotic` is the asymptotic confidence sequence of
    Waudby-Smith et al. 2024, tightest at 64 samples; `bernstein` the predictable plug-in empirical
    Bernstein one of Waudby-Smith & Ramdas 2024 for values in [0, 1].

    Args:
        values: what has been drawn until this look, shape (n, streams).
        sizes: of all looks.
        rule: one of `RULES`.
        population: what is drawn from.
    """
    n, mean, spread = len(values), values.mean(axis=0), values.std(axis=0, ddof=1)
    if rule in ("naive", "split"):
        level = 0.95 if rule == "naive" else look_confidence(len(sizes))
        return mean_interval(values, level, population.bounds)
    if rule == "bernstein":
        mean, half = _bernstein(values)
    elif rule == "asymptotic":
        rho2 = (-2 * math.log(0.05) + math.log(1 - 2 * math.log(0.05))) / 64
        grown = n * rho2 + 1
        inside = 2 * grown / (n * n * rho2) * math.log(math.sqrt(grown) / 0.05)
        half = spread * math.sqrt(inside)
    else:
        level = look_confidence(len(sizes)) if rule == "split-t" else pocock_confidence(sizes)
        half = st.student_t(n - 1, confidence=level) * spread / math.sqrt(n)
    return mean - half, mean + half


def _bernstein(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    count = np.arange(1, len(values) + 1)[:, None]
    start = np.full((1, values.shape[1]), 0.5)
    running = (0.5 + np.cumsum(values, axis=0)) / (count + 1)
    variance = (0.25 + np.cumsum((values - running) ** 2, axis=0)) / (count + 1)
    before = np.concatenate([start / 2, variance[:-1]])
    bets = np.minimum(np.sqrt(2 * math.log(40) / (before * count * np.log1p(count))), 0.5)
    surprise = (values - np.concatenate([start, running[:-1]])) ** 2
    cost = (surprise * (-np.log1p(-bets) - bets)).sum(axis=0)
    total = bets.sum(axis=0)
    return (bets * values).sum(axis=0) / total, (math.log(40) + cost) / total


def gate(
    population: Population, sizes: Sequence[int], rule: str, gates: int, seed: int = 0
) -> tuple[float, float, float]:
    """False pass and false fail rate of a gate exactly at the truth, and its mean half width.

    The gate draws until its interval clears the threshold, or the last look is done.
    """
    rng = np.random.default_rng(seed)
    values = population.draw(rng, sizes[-1] * gates).reshape(gates, sizes[-1]).T
    truth, looks = population.truth_of(values), tuple(sizes)
    open_still = np.ones(gates, bool)
    passed, failed, width = np.zeros(gates, bool), np.zeros(gates, bool), np.zeros(gates)
    for n in looks:
        low, high = ends_at(values[:n], looks, rule, population)
        width[open_still] = (high - low)[open_still] / 2
        # An interval of no width holds the truth up to rounding.
        passed |= open_still & (low > truth + 1e-9)
        failed |= open_still & (high < truth - 1e-9)
        open_still &= ~(passed | failed)
    return float(passed.mean()), float(failed.mean()), float(width.mean())


def gate_rows(populations: Sequence[Population], gates: int) -> list[list[str]]:
    """One row per population, looks and rule: how often its gates err, and how wide they end."""
    rows = []
    for population in populations:
        for sizes in ([8], [32], look_sizes(8, 256), look_sizes(32, 256)):
            for rule in RULES if len(sizes) > 1 else ("naive",):
                if rule == "bernstein" and population.bounds is None:
                    continue  # not in [0, 1]
                good, bad, width = gate(population, sizes, rule, gates)
                looks = " ".join(str(size) for size in sizes)
                name = rule if len(sizes) > 1 else "fixed n"
                row = [population.name, looks, name, f"{good:.1%}", f"{bad:.1%}"]
                rows.append([*row, f"{width:.3g}"])
    return rows


def suite_of(
    population: Population, distance: float, suites: int, n: int = 32, seed: int = 0
) -> tuple[float, float, float]:
    """How a suite of independent gates `above` a threshold ends, all of them at one distance.

    Args:
        population: what every gate measures.
        distance: of the truth above the threshold, in mean half widths of the interval.
        suites: to simulate.
        n: samples of a gate.
        seed: of the draws.

    Returns:
        The distance in the metric's unit, and how often at least one gate fails, and at least one
        does not pass.
    """
    rng = np.random.default_rng(seed)
    count = suites * SUITE
    values = population.draw(rng, n * count).reshape(count, n).T
    low, high = mean_interval(values, bounds=population.bounds)
    apart = distance * float((high - low).mean()) / 2
    threshold = population.truth_of(values) - apart
    failed = (high < threshold - 1e-9).reshape(suites, SUITE).any(axis=1)
    red = (low <= threshold + 1e-9).reshape(suites, SUITE).any(axis=1)
    return apart, float(failed.mean()), float(red.mean())


def suite_rows(populations: Sequence[Population], suites: int) -> list[list[str]]:
    """One row per population and distance: how often a suite whose gates all hold turns red."""
    rows = []
    for population in populations:
        for distance in (0.0, 0.5, 1.0, 1.5, 2.0):
            apart, failed, red = suite_of(population, distance, suites)
            row = [population.name, f"{distance:g}", f"{apart:.3g}"]
            rows.append([*row, f"{failed:.1%}", f"{red:.1%}"])
    return rows
