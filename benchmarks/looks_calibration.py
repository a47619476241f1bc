"""How often gates err on metrics other than means, on pools in an order, and within strata.

The tables are made by `benchmarks/calibration.py`; the rules for means are in
`gate_calibration.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from coverage_calibration import NEAR_TIES, Population, read_truth

from icl_bench.measures import statistics as st
from icl_bench.measures.bounds import SIGNED
from icl_bench.measures.sequential import look_confidence, look_sizes
from icl_bench.measures.strata import stratified_metric
from icl_bench.probes.heads.offset_profile import locate_peak
from icl_bench.records.parts import Metric

MIXED = ((0.02, 0.1), (0.1, 0.5), (0, 0.9), (0.1, 0.3), (0, 0.3), (0.2, 0.2), (0, 0))
TASKS: dict[str, tuple[tuple[float, float], ...]] = {
    "0 to .9, mixed": MIXED,
    "all .3": ((0, 0.3),) * 7,
    "all .95": ((0, 0.95),) * 7,
    "all .03": ((0, 0.03),) * 7,
}
"""Tasks -> chance that a query loses by examples, and that it gains, of each."""


@dataclass
class Look:
    """What one look at a growing sample makes of it: a metric with an interval of a confidence.

    Args:
        metric: what it is called.
        population: what is drawn; `truth` is what the intervals should hold.
        estimate: samples and confidence -> metric.
    """

    metric: str
    population: Population
    estimate: Callable[[np.ndarray, float], Metric]


def looks() -> list[Look]:
    """Metrics of the probes that draw until decided, other than plain means."""

    def paired(rng: np.random.Generator, n: int) -> np.ndarray:
        whole = rng.gamma(9, 1 / 3, n)
        return np.stack([whole / 2 + rng.normal(0, 0.5, n), whole], 1)

    def skewed(rng: np.random.Generator, n: int) -> np.ndarray:
        whole = rng.lognormal(0, 0.5, n)
        return np.stack([whole * rng.beta(8, 1, n), whole], 1)

    def lead(rng: np.random.Generator, n: int) -> np.ndarray:
        return rng.normal(np.r_[0.8, np.full(49, 0.1)], 0.2, (n, 50))

    def near(rng: np.random.Generator, n: int) -> np.ndarray:
        return rng.normal(NEAR_TIES, 0.2, (n, 50))

    def peak(rng: np.random.Generator, n: int) -> np.ndarray:
        return rng.normal([0.1, 0.5, 0.47, 0.1, 0.1], 0.15, (n, 5))

    def share(values: np.ndarray, confidence: float) -> Metric:
        return st.share_metric(values[:, 0], values[:, 1], confidence=confidence)

    def best(values: np.ndarray, confidence: float) -> Metric:
        return st.best_metric(values, confidence=confidence)

    def place(values: np.ndarray, confidence: float) -> Metric:
        return locate_peak(values, list(range(5)), confidence)

    return [
        Look("`share_metric`", Population("shares of gamma totals", paired, 0.5), share),
        Look("`share_metric`", Population("shares of log-normal totals", skewed, 8 / 9), share),
        Look("`cross_fitted_max`", Population("one head leads", lead, 0.8), best),
        Look("`cross_fitted_max`", Population("10 near ties", near, read_truth(NEAR_TIES)), best),
        Look(
            "`cross_fitted_max`", Population("10 near ties, for the highest mean", near, 0.8), best
        ),
        Look("`offset_peak`", Population("two offsets .03 apart", peak, 1), place),
    ]


def ordered_pool(rng: np.random.Generator, size: int, order: str) -> np.ndarray:
    """A text's documents: independent, with a trend over their places in the text.

    Args:
        rng: generator.
        size: documents.
        order: `given`, as they stand in the text, or `random`.
    """
    values = rng.normal(0, 1, size) + np.linspace(-0.5, 0.5, size)
    return values if order == "given" else rng.permutation(values)


def gate_metric(look: Look, sizes: Sequence[int], gates: int, seed: int = 0) -> tuple[float, float]:
    """False pass and false fail rate of a gate exactly at the truth, under the rule of the probes.

    Every look makes its metric of the first samples anew, at confidence 1 - 0.05/K.
    """
    rng = np.random.default_rng(seed)
    passed = failed = 0
    for _ in range(gates):
        values = look.population.draw(rng, sizes[-1])
        for n in sizes:
            metric = look.estimate(values[:n], look_confidence(len(sizes)))
            assert metric.ci_low is not None and metric.ci_high is not None
            truth = look.population.truth_of(values[:n])
            if metric.ci_low > truth:
                passed += 1
                break
            if metric.ci_high < truth:
                failed += 1
                break
    return passed / gates, failed / gates


@dataclass
class Coverage:
    """How often intervals of a stratified mean hold, lie above and below, and how wide they are.

    Args:
        measured: share of runs that have one.
        above: share of these that lie above the truth.
        below: share that lie below it.
        half: mean half width.
        half_over: mean half width of the interval over tasks.
    """

    measured: float
    above: float
    below: float
    half: float
    half_over: float


def cover_strata(
    chances: Sequence[tuple[float, float]], queries: int, runs: int, seed: int = 1
) -> Coverage:
    """Simulate gains (-1, 0 or 1) of queries of fixed tasks; the truth is the tasks' mean gain.

    Args:
        chances: of each task, that a query loses and that it gains.
        queries: queries of a task.
        runs: intervals wanted.
        seed: of the draws.
    """
    rng = np.random.default_rng(seed)
    lose, gain = np.array(chances).T[:, :, None]
    truth = float((gain - lose).mean())
    above = below = 0
    halves, over = [], []
    for _ in range(runs):
        drawn = rng.random((len(chances), queries))
        gains = (drawn > 1 - gain).astype(float) - (drawn < lose)
        wide = st.mean_metric(gains.mean(axis=1), bounds=SIGNED)
        over.append(((wide.ci_high or 0) - (wide.ci_low or 0)) / 2)
        if not gains.var(axis=1).any():
            continue  # not measured
        found = stratified_metric(list(gains), SIGNED)
        assert found.ci_low is not None and found.ci_high is not None
        above += found.ci_low > truth
        below += found.ci_high < truth
        halves.append((found.ci_high - found.ci_low) / 2)
    count = len(halves)
    return Coverage(
        count / runs, above / count, below / count, float(np.mean(halves)), float(np.mean(over))
    )


LOOKS_HEAD = ["metric", "population", "looks at n", "false pass", "false fail"]
TASKS_HEAD = [
    *("tasks' chances to gain", "queries", "not measured", "interval holds"),
    *("half width", "half width over tasks"),
]


def look_rows(gates: int) -> list[list[str]]:
    """One row per metric, population and looks: how often gates err.

    Args:
        gates: to simulate.
    """
    pools = [
        Look(
            "`mean_metric`",
            Population(
                f"pool of 256 with a trend, order {order}",
                lambda rng, n, order=order: ordered_pool(rng, n, order),
                0,
            ),
            lambda values, confidence: st.mean_metric(values, confidence=confidence),
        )
        for order in ("given", "random")
    ]
    rows = []
    for look in [*looks(), *pools]:
        for sizes in (look_sizes(8, 256), look_sizes(32, 256)):
            good, bad = gate_metric(look, sizes, gates)
            names = [look.metric, look.population.name, " ".join(map(str, sizes))]
            rows.append([*names, f"{good:.1%}", f"{bad:.1%}"])
    return rows


def task_rows(runs: int) -> list[list[str]]:
    """One row per kind of tasks and number of queries: how often stratified intervals hold.

    Args:
        runs: intervals to simulate.
    """
    rows = []
    for name, chances in TASKS.items():
        for queries in (4, 8, 16):
            found = cover_strata(chances, queries, runs)
            held = 1 - found.above - found.below
            sides = f"{found.above:.1%} above, {found.below:.1%} below"
            cells = [name, str(queries), f"{1 - found.measured:.1%}", f"{held:.1%} ({sides})"]
            rows.append([*cells, f"{found.half:.3f}", f"{found.half_over:.3f}"])
    return rows
