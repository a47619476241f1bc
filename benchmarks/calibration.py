"""How often intervals hold, gates pass by luck, and null p-values are small when nothing is there.

    python benchmarks/calibration.py [--runs 4000] [--gates 1000] [--model SPEC] [--sequences 512]

Numbers only, no times: nothing here depends on the machine. Populations are distributions with a
known mean, and the per-sequence values that a model gave on many sequences, drawn from with
replacement, whose mean is the population's.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
from scipy import stats

from icl_bench.measures import statistics as st
from icl_bench.measures.draws import Draws
from icl_bench.measures.null import matched_sets
from icl_bench.measures.sequential import look_confidence, look_sizes
from icl_bench.records.record import Metric

Samples = Callable[[np.random.Generator, int], np.ndarray]


@dataclass
class Population:
    """Something to draw independent samples from.

    Args:
        name: what it is.
        draw: (generator, n) -> n samples; several columns are paired values or heads.
        truth: what an interval should hold.
    """

    name: str
    draw: Samples
    truth: float


@dataclass
class Case:
    """A population and the metric that is made of its samples."""

    metric: str
    population: Population
    estimate: Callable[[np.ndarray], Metric]


def means() -> list[Population]:
    """Populations for a mean."""
    spread = math.exp(0.5)
    return [
        Population("normal", lambda rng, n: rng.normal(1, 2, n), 1),
        Population("skewed (log-normal)", lambda rng, n: rng.lognormal(0, 1, n), spread),
        Population("bounded (beta 8, 1)", lambda rng, n: rng.beta(8, 1, n), 8 / 9),
    ]


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
    found = [Case("mean_metric", one, st.mean_metric) for one in means()]
    best = Population("model: induction", again(measured["best"]), float(measured["best"].mean()))
    found.append(Case("mean_metric", best, st.mean_metric))

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
    for p in (0.5, 0.9, 0.98):
        one = Population(f"hits, p = {p}", lambda rng, n, p=p: rng.random(n) < p, p)
        found.append(Case("proportion_metric", one, st.proportion_metric))
    levels = np.linspace(0.1, 0.7, 50)
    noisy = Population(
        "50 heads around the threshold",
        lambda rng, n: rng.normal(levels, 0.2, (n, 50)),
        float((levels > 0.4).sum()),
    )
    heads = measured["heads"]
    counted = Population("model: heads", again(heads), float((heads.mean(axis=0) > 0.4).sum()))
    for one in (noisy, counted):
        found.append(Case("count_above", one, lambda values: st.count_above(values, 0.4)))

    def best_of(values: np.ndarray) -> Metric:
        return st.mean_metric(st.cross_fitted_max(values))

    for name, places in {
        "one head leads": np.r_[0.8, np.full(49, 0.1)],
        "50 equal heads": np.full(50, 0.4),
        "10 near ties": np.r_[np.linspace(0.72, 0.8, 10), np.full(40, 0.1)],
    }.items():
        one = Population(
            name,
            lambda rng, n, places=places: rng.normal(places, 0.2, (n, 50)),
            float(places.max()),
        )
        found.append(Case("cross_fitted_max", one, best_of))
    top = Population("model: heads", again(heads), float(heads.mean(axis=0).max()))
    found.append(Case("cross_fitted_max", top, best_of))
    return found


def coverage(case: Case, n: int, runs: int, seed: int = 0) -> tuple[float, float, float]:
    """Share of 95% intervals that hold the truth, that lie above it, that lie below it."""
    rng = np.random.default_rng(seed)
    above = below = 0
    for _ in range(runs):
        metric = case.estimate(case.population.draw(rng, n))
        if metric.ci_low is None or metric.ci_high is None:
            continue
        # An interval of no width holds the truth up to rounding.
        above += metric.ci_low > case.population.truth + 1e-9
        below += metric.ci_high < case.population.truth - 1e-9
    return 1 - (above + below) / runs, above / runs, below / runs


@cache
def pocock_confidence(sizes: tuple[int, ...], draws: int = 200_000, seed: int = 0) -> float:
    """Confidence of each look under Pocock's bound: one level, from the looks' joint normal law."""
    rng = np.random.default_rng(seed)
    steps = np.diff([0, *sizes])
    sums = np.cumsum(rng.normal(size=(draws, len(sizes))) * np.sqrt(steps), axis=1)
    bound = np.quantile(np.abs(sums / np.sqrt(sizes)).max(axis=1), 0.95)
    return float(1 - 2 * stats.norm.sf(bound))


def intervals(values: np.ndarray, sizes: Sequence[int], rule: str) -> list[tuple[float, float]]:
    """Both ends of the interval at every look under a rule, for one stream.

    `split` is the rule of `until: decided`, `split-t` the same by Student's t alone; `asymptotic`
    is the asymptotic confidence sequence of Waudby-Smith et al. 2024, tightest at 64 samples;
    `bernstein` the predictable plug-in empirical Bernstein one of Waudby-Smith & Ramdas 2024 for
    values in [0, 1].
    """
    found = []
    for n in sizes:
        some = values[:n]
        mean, spread = float(some.mean()), float(some.std(ddof=1))
        if rule == "split":
            below, above = st.error_bounds(some, look_confidence(len(sizes)))
            found.append((mean - below, mean + above))
            continue
        if rule == "asymptotic":
            rho2 = (-2 * math.log(0.05) + math.log(1 - 2 * math.log(0.05))) / 64
            grown = n * rho2 + 1
            inside = 2 * grown / (n * n * rho2) * math.log(math.sqrt(grown) / 0.05)
            half = spread * math.sqrt(inside)
        elif rule == "bernstein":
            mean, half = _bernstein(some)
        else:
            levels = {
                "naive": 0.95,
                "split-t": look_confidence(len(sizes)),
                "pocock": pocock_confidence(tuple(sizes)),
            }
            half = st.student_t(n - 1, confidence=levels[rule]) * spread / math.sqrt(n)
        found.append((mean - half, mean + half))
    return found


def _bernstein(values: np.ndarray) -> tuple[float, float]:
    count = np.arange(1, len(values) + 1)
    running = (0.5 + np.cumsum(values)) / (count + 1)
    variance = (0.25 + np.cumsum((values - running) ** 2)) / (count + 1)
    before = np.r_[0.25, variance[:-1]]
    bets = np.minimum(np.sqrt(2 * math.log(40) / (before * count * np.log1p(count))), 0.5)
    surprise = (values - np.r_[0.5, running[:-1]]) ** 2
    cost = float((surprise * (-np.log1p(-bets) - bets)).sum())
    total = float(bets.sum())
    return float((bets * values).sum()) / total, (math.log(40) + cost) / total


RULES = ("naive", "split", "split-t", "pocock", "asymptotic", "bernstein")


def gate(
    population: Population, sizes: Sequence[int], rule: str, gates: int, seed: int = 0
) -> tuple[float, float, float]:
    """False pass and false fail rate of a gate exactly at the truth, and mean width at its end.

    The gate draws until its interval clears the threshold, or the last look is done.
    """
    rng = np.random.default_rng(seed)
    passed = failed = 0
    widths = []
    for _ in range(gates):
        for low, high in intervals(population.draw(rng, sizes[-1]), sizes, rule):
            if low > population.truth:
                passed += 1
                break
            if high < population.truth:
                failed += 1
                break
        widths.append((high - low) / 2)
    return passed / gates, failed / gates, float(np.mean(widths))


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


def print_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print a Markdown table."""
    print("| " + " | ".join(head) + " |")
    print("|" + "---|" * len(head))
    for row in rows:
        print("| " + " | ".join(row) + " |")
    print()


def main() -> None:
    """Simulate and print the tables of docs/statistics.md."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=4000, help="intervals per cell")
    parser.add_argument("--gates", type=int, default=1000, help="gates per cell")
    parser.add_argument("--model", default="builtin:induction-2l", help="spec of the model")
    parser.add_argument("--sequences", type=int, default=512, help="sequences of the model")
    parser.add_argument("--period", type=int, default=20, help="tokens of a block")
    parser.add_argument(
        "--measured-only", action="store_true", help="only intervals of the model's own values"
    )
    given = parser.parse_args()
    measured = measure_population(given.model, given.sequences, given.period)

    rows = []
    for case in cases(measured):
        if given.measured_only and not case.population.name.startswith("model"):
            continue
        cells = [f"`{case.metric}`", case.population.name]
        for n in (8, 32):
            held, above, below = coverage(case, n, given.runs)
            cells.append(f"{held:.1%} ({above:.1%} above, {below:.1%} below)")
        rows.append(cells)
    print_table(["metric", "population", "n = 8", "n = 32"], rows)

    if given.measured_only:
        return
    best = Population("model: induction", again(measured["best"]), float(measured["best"].mean()))
    rows = []
    for population in [*means(), best]:
        for sizes in ([8], [32], look_sizes(8, 256), look_sizes(32, 256)):
            for rule in RULES if len(sizes) > 1 else ("naive",):
                if rule == "bernstein" and "normal" in population.name:
                    continue  # not in [0, 1]
                good, bad, width = gate(population, sizes, rule, given.gates)
                looks = " ".join(str(size) for size in sizes)
                name = rule if len(sizes) > 1 else "fixed n"
                rows.append([population.name, looks, name, f"{good:.1%}", f"{bad:.1%}"])
                rows[-1].append(f"{width:.3g}")
    print_table(
        ["population", "looks at n", "rule", "false pass", "false fail", "half width"], rows
    )

    rows = []
    nine = dict.fromkeys(range(30), 9)
    for name, chosen in {
        "one head": {5: 1},
        "four heads, one a layer": {5: 1, 6: 1, 9: 1, 12: 1},
        "eight heads: 3, 2, 1, 2 of 9": {17: 3, 18: 2, 20: 1, 23: 2},
    }.items():
        ps = null_p_values(chosen, nine, 99, given.gates)
        test = stats.kstest(ps, "uniform")
        cells = [f"{(ps <= level + 1e-9).mean():.1%}" for level in (0.01, 0.05, 0.25, 0.5)]
        rows.append([name, *cells, f"{test.pvalue:.2g}"])
    print_table(["chosen", "p <= .01", "p <= .05", "p <= .25", "p <= .5", "KS p"], rows)


if __name__ == "__main__":
    main()
