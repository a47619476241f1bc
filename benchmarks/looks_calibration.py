"""How often gates err on metrics other than means, on pools in an order, and within strata.

    python benchmarks/looks_calibration.py [--gates 1000] [--runs 4000]

Numbers only, no times; the rules for means are simulated by `benchmarks/calibration.py`.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from calibration import Population, print_table

from icl_bench.measures import statistics as st
from icl_bench.measures.sequential import look_confidence, look_sizes
from icl_bench.measures.strata import stratified_metric
from icl_bench.probes.heads.offset_profile import locate_peak
from icl_bench.records.record import Metric

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
        levels = np.r_[np.linspace(0.72, 0.8, 10), np.full(40, 0.1)]
        return rng.normal(levels, 0.2, (n, 50))

    def peak(rng: np.random.Generator, n: int) -> np.ndarray:
        return rng.normal([0.1, 0.5, 0.47, 0.1, 0.1], 0.15, (n, 5))

    def share(values: np.ndarray, confidence: float) -> Metric:
        return st.share_metric(values[:, 0], values[:, 1], confidence=confidence)

    def best(values: np.ndarray, confidence: float) -> Metric:
        return st.mean_metric(st.cross_fitted_max(values), confidence=confidence)

    def place(values: np.ndarray, confidence: float) -> Metric:
        return locate_peak(values, list(range(5)), confidence)

    return [
        Look("`share_metric`", Population("shares of gamma totals", paired, 0.5), share),
        Look("`share_metric`", Population("shares of log-normal totals", skewed, 8 / 9), share),
        Look("`cross_fitted_max`", Population("one head leads", lead, 0.8), best),
        Look("`cross_fitted_max`", Population("10 near ties", near, 0.8), best),
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
    truth = look.population.truth
    for _ in range(gates):
        values = look.population.draw(rng, sizes[-1])
        for n in sizes:
            metric = look.estimate(values[:n], look_confidence(len(sizes)))
            assert metric.ci_low is not None and metric.ci_high is not None
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
        wide = st.mean_metric(gains.mean(axis=1))
        over.append(((wide.ci_high or 0) - (wide.ci_low or 0)) / 2)
        if not gains.var(axis=1).any():
            continue  # not measured
        found = stratified_metric(list(gains))
        assert found.ci_low is not None and found.ci_high is not None
        above += found.ci_low > truth
        below += found.ci_high < truth
        halves.append((found.ci_high - found.ci_low) / 2)
    count = len(halves)
    return Coverage(
        count / runs, above / count, below / count, float(np.mean(halves)), float(np.mean(over))
    )


def main() -> None:
    """Simulate and print tables of docs/statistics.md."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--gates", type=int, default=1000, help="gates per cell")
    parser.add_argument("--runs", type=int, default=4000, help="intervals per cell")
    given = parser.parse_args()
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
            good, bad = gate_metric(look, sizes, given.gates)
            names = [look.metric, look.population.name, " ".join(map(str, sizes))]
            rows.append([*names, f"{good:.1%}", f"{bad:.1%}"])
    print_table(["metric", "population", "looks at n", "false pass", "false fail"], rows)

    rows = []
    for name, chances in TASKS.items():
        for queries in (4, 8, 16):
            found = cover_strata(chances, queries, given.runs)
            held = 1 - found.above - found.below
            sides = f"{found.above:.1%} above, {found.below:.1%} below"
            cells = [name, str(queries), f"{1 - found.measured:.1%}", f"{held:.1%} ({sides})"]
            rows.append([*cells, f"{found.half:.3f}", f"{found.half_over:.3f}"])
    head = ["tasks' chances to gain", "queries", "not measured", "interval holds"]
    print_table([*head, "half width", "half width over tasks"], rows)


if __name__ == "__main__":
    main()
