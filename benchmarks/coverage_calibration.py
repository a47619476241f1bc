"""How often intervals hold, and null p-values are small when nothing is there.

Populations are distributions with a known mean, and the per-sequence values that a model gave on
many sequences, drawn from with replacement, whose mean is the population's. The tables are made by
`benchmarks/calibration.py`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
from scipy import stats

from icl_bench.measures import statistics as st
from icl_bench.measures.bounds import UNIT, Bounds
from icl_bench.measures.draws import Draws
from icl_bench.measures.null import matched_sets
from icl_bench.records.parts import Metric

SIZES = (8, 16, 32)
"""Samples that coverage is simulated for."""
Samples = Callable[[np.random.Generator, int], np.ndarray]


@dataclass
class Population:
    """Something to draw independent samples from.

    Args:
        name: what it is.
        draw: (generator, n) -> n samples; several columns are paired values or heads.
        truth: what an interval should hold; of drawn samples where it depends on them.
        bounds: lowest and highest sample, where there are such.
    """

    name: str
    draw: Samples
    truth: float | Callable[[np.ndarray], float]
    bounds: Bounds | None = None

    def truth_of(self, samples: np.ndarray) -> float:
        """What an interval that is made of these samples should hold."""
        return self.truth(samples) if callable(self.truth) else self.truth


@dataclass
class Case:
    """A population and the metric that is made of its samples."""

    metric: str
    population: Population
    estimate: Callable[[np.ndarray], Metric]


def means() -> list[Population]:
    """Populations for a mean."""

    def hits(p: float) -> Samples:
        return lambda rng, n: (rng.random(n) < p).astype(float)

    return [
        Population("normal", lambda rng, n: rng.normal(1, 2, n), 1),
        Population("Student's t, 3 degrees", lambda rng, n: rng.standard_t(3, n), 0),
        Population("log-normal, sigma 1", lambda rng, n: rng.lognormal(0, 1, n), math.exp(0.5)),
        Population("beta(8, 1)", lambda rng, n: rng.beta(8, 1, n), 8 / 9, UNIT),
        Population("beta(30, .3)", lambda rng, n: rng.beta(30, 0.3, n), 30 / 30.3, UNIT),
        Population(
            ".9, but for 1% zeros",
            lambda rng, n: np.where(rng.random(n) < 0.01, 0.0, 0.9),
            0.891,
            UNIT,
        ),
        *(Population(f"hits, {p:.0%}", hits(p), p, UNIT) for p in (0.5, 0.9, 0.98, 0.05)),
    ]


def best_head(measured: dict[str, np.ndarray]) -> Population:
    """Induction scores of a model's best head."""
    values = measured["best"]
    return Population("model: induction", again(values), float(values.mean()), UNIT)


def measure_population(spec: str, sequences: int, period: int) -> dict[str, np.ndarray]:
    """Per-sequence values of a model: scores of heads, losses clean and without induction heads.

    Args:
        spec: the model.
        sequences: how many.
        period: tokens of a block.
    """
    import torch

    import icl_bench
    from icl_bench.measures.copying import first_targets, repeated_targets, split_losses
    from icl_bench.models.circuits.interventions import switch_off
    from icl_bench.models.clean_run import run_base
    from icl_bench.probes.heads.induction import score_heads

    model = icl_bench.load_model(spec)
    tokens = icl_bench.repeated_tokens(model, sequences=sequences, period=period, seed=11)
    targets = torch.cat([first_targets(tokens), repeated_targets(tokens)])
    run = run_base(model, tokens.input_ids, targets)
    scores = score_heads(model, tokens)["induction"]
    best = int(scores.mean(axis=0).argmax())
    chosen = [model.every_head[i] for i in np.flatnonzero(scores.mean(axis=0) > 0.4)]
    off = switch_off(model, run, [chosen])
    clean = split_losses(tokens, run.losses.nll, run.losses.correct)
    ablated = split_losses(tokens, off.nll[0], off.correct[0])
    return {
        "heads": scores,
        "best": scores[:, best],
        "ratio": np.stack([ablated.repeated, clean.repeated], 1),
        "share": np.stack([ablated.repeated - clean.repeated, clean.gain], 1),
    }


def again(values: np.ndarray) -> Samples:
    """Draw from measured values with replacement."""
    return lambda rng, n: values[rng.integers(0, len(values), n)]


def cases(measured: dict[str, np.ndarray]) -> list[Case]:
    """Every metric with the populations that it is tried on."""
    found = []
    for one in [*means(), best_head(measured)]:
        hits = one.name.startswith("hits")
        estimate = st.proportion_metric if hits else partial(st.mean_metric, bounds=one.bounds)
        found.append(Case("proportion_metric" if hits else "mean_metric", one, estimate))

    def paired(rng: np.random.Generator, n: int) -> np.ndarray:
        base = rng.gamma(9, 1 / 3, n)
        return np.stack([base * 4 + rng.normal(0, 1, n), base], 1)

    def skewed(rng: np.random.Generator, n: int) -> np.ndarray:
        return np.stack([4 * rng.lognormal(-0.5, 1, n), rng.lognormal(-0.5, 1, n)], 1)

    def ratio(values: np.ndarray) -> Metric:
        return st.ratio_metric(values[:, 0], values[:, 1])

    def share(values: np.ndarray) -> Metric:
        return st.share_metric(values[:, 0], values[:, 1])

    def of(name: str) -> Population:
        values = measured[name]
        truth = values[:, 0].mean() / values[:, 1].mean()
        return Population(f"model: {name}", again(values), float(truth))

    found += [
        Case("ratio_metric", Population("paired losses (gamma)", paired, 4), ratio),
        Case("ratio_metric", Population("unpaired, log-normal", skewed, 4), ratio),
        Case("ratio_metric", of("ratio"), ratio),
        Case("share_metric", Population("paired losses (gamma)", paired, 4), share),
        Case("share_metric", of("share"), share),
    ]
    for gone, come in ((0.06, 0.0), (0.3, 0.05)):
        one = Population(
            f"{gone:.0%} lost, {come:.0%} won",
            lambda rng, n, ends=(gone, 1 - come): np.digitize(rng.random(n), ends),
            gone - come,
        )
        # Of every item 0 is lost, 1 stays, 2 is won.
        found.append(
            Case(
                "proportion_lost_metric",
                one,
                lambda kinds: st.proportion_lost_metric(kinds < 2, kinds > 0),
            )
        )
    levels = np.linspace(0.1, 0.7, 50)
    noisy = Population(
        "50 heads around the threshold",
        lambda rng, n: rng.normal(levels, 0.2, (n, 50)),
        float((levels > 0.4).sum()),
    )
    heads = measured["heads"]
    counted = Population("model: heads", again(heads), float((heads.mean(axis=0) > 0.4).sum()))
    for one, bounds in ((noisy, None), (counted, UNIT)):
        count = partial(st.count_above, threshold=0.4, bounds=bounds)
        found.append(Case("count_above", one, count))

    def best_of(bounds: Bounds | None) -> Callable[[np.ndarray], Metric]:
        return lambda values: st.best_metric(values, bounds=bounds)

    def spread(places: np.ndarray) -> Samples:
        return lambda rng, n: rng.normal(places, 0.2, (n, len(places)))

    for name, places in {
        "one head leads": np.r_[0.8, np.full(49, 0.1)],
        "50 equal heads": np.full(50, 0.4),
        "10 near ties": NEAR_TIES,
    }.items():
        one = Population(name, spread(places), read_truth(places))
        found.append(Case("cross_fitted_max", one, best_of(None)))
    ties = Population("10 near ties, for the highest mean", spread(NEAR_TIES), NEAR_TIES.max())
    found.append(Case("cross_fitted_max", ties, best_of(None)))
    top = Population("model: heads", again(heads), read_truth(heads.mean(axis=0)), UNIT)
    found.append(Case("cross_fitted_max", top, best_of(UNIT)))
    return found


NEAR_TIES = np.r_[np.linspace(0.72, 0.8, 10), np.full(40, 0.1)]
"""True means of heads, of which ten are within .08 of each other."""


def read_truth(means_of_heads: np.ndarray) -> Callable[[np.ndarray], float]:
    """Return what a cross-fitted maximum of some samples is an estimate of.

    That is the true mean of the head that each half reads, not the highest mean of all: which head
    is read is part of the metric, and what is said is said of that head.

    Args:
        means_of_heads: true means, shape (heads,).
    """

    def truth(samples: np.ndarray) -> float:
        known = np.broadcast_to(means_of_heads, samples.shape)
        return float(st.read_cross_fitted(samples, known).mean())

    return truth


def coverage(case: Case, n: int, runs: int, seed: int = 0) -> tuple[float, float, float]:
    """Share of 95% intervals that hold the truth, that lie above it, that lie below it."""
    rng = np.random.default_rng(seed)
    above = below = 0
    for _ in range(runs):
        samples = case.population.draw(rng, n)
        metric, truth = case.estimate(samples), case.population.truth_of(samples)
        if metric.ci_low is None or metric.ci_high is None:
            continue
        # An interval of no width holds the truth up to rounding.
        above += metric.ci_low > truth + 1e-9
        below += metric.ci_high < truth - 1e-9
    return 1 - (above + below) / runs, above / runs, below / runs


def null_p_values(
    chosen: dict[int, int], heads: dict[int, int], draws: int, runs: int, seed: int = 0
) -> np.ndarray:
    """p-values where heads do damage at random, each its own amount, and the chosen are any heads.

    Damage adds up over a set. The null is the one of the `ablation` probe.

    Args:
        chosen: layer -> number of chosen heads.
        heads: layer -> number of heads.
        draws: sets of the null.
        runs: p-values wanted.
        seed: of everything.
    """
    rng = np.random.default_rng(seed)
    found = []
    for run in range(runs):
        damage = {(layer, h): rng.exponential() for layer in heads for h in range(heads[layer])}
        picked = [
            (layer, head)
            for layer, count in chosen.items()
            for head in Draws(run, "heads", layer).choose(list(range(heads[layer])), count)
        ]
        sets = matched_sets(picked, heads, draws, 0.05, seed=run).sets
        null = [sum(damage[head] for head in some) for some in sets]
        found.append(st.monte_carlo_p(sum(damage[head] for head in picked), null))
    return np.array(found)


def coverage_rows(some: Sequence[Case], runs: int) -> list[list[str]]:
    """One row per case: how often its interval holds, lies above and below, at each size."""
    rows = []
    for case in some:
        row = [f"`{case.metric}`", case.population.name]
        for n in SIZES:
            held, above, below = coverage(case, n, runs)
            row.append(f"{held:.1%} ({above:.1%} above, {below:.1%} below)")
        rows.append(row)
    return rows


def null_rows(runs: int) -> list[list[str]]:
    """One row per choice of heads: how often its p-value is small where nothing is there."""
    rows = []
    nine = dict.fromkeys(range(30), 9)
    for name, chosen in {
        "one head": {5: 1},
        "four heads, one a layer": {5: 1, 6: 1, 9: 1, 12: 1},
        "eight heads: 3, 2, 1, 2 of 9": {17: 3, 18: 2, 20: 1, 23: 2},
    }.items():
        ps = null_p_values(chosen, nine, 99, runs)
        cells = [f"{(ps <= level + 1e-9).mean():.1%}" for level in (0.01, 0.05, 0.25, 0.5)]
        rows.append([name, *cells, f"{stats.kstest(ps, 'uniform').pvalue:.2g}"])
    return rows
