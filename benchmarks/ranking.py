"""How often all rank ranges of a board hold the true ranks at once, and how much they say.

    python benchmarks/ranking.py [--boards 1000] [--models 10] [--samples 32]

Numbers only, no times: nothing here depends on the machine. Every board has models with known true
means, two of them tied, and the samples of every model; the ranges should hold all true ranks on
at least 95% of the boards. A model with ties has several true ranks, and its range should hold
all of them. `one by one` is the same without the correction for the number of pairs.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

from icl_bench.ranking.entries import Figure
from icl_bench.ranking.pairs import rank_ranges, tell_apart


@dataclass
class World:
    """Models with known means.

    Args:
        name: what their samples are like.
        draw: (generator, true means, n) -> samples, shape (models, n).
        truth: (generator, models) -> true means, all in the range that `draw` can take.
        paired: whether all models measured the same tokens.
    """

    name: str
    draw: Callable[[np.random.Generator, np.ndarray, int], np.ndarray]
    truth: Callable[[np.random.Generator, int], np.ndarray]
    paired: bool


def levels(rng: np.random.Generator, models: int) -> np.ndarray:
    """True means that are partly far apart, partly close, and two of them equal."""
    return rng.normal(0, 0.4, models)


def shares(rng: np.random.Generator, models: int) -> np.ndarray:
    """True shares of hits, many of them near 1."""
    return rng.beta(3, 1, models)


def equal(rng: np.random.Generator, models: int) -> np.ndarray:
    """All models the same: the worst case, in which every pair that is told apart is a mistake."""
    return np.zeros(models)


def equal_shares(rng: np.random.Generator, models: int) -> np.ndarray:
    """The same for hits."""
    return np.full(models, 0.8)


def shared_noise(rng: np.random.Generator, truth: np.ndarray, n: int) -> np.ndarray:
    """Normal values; sequences are harder or easier for every model."""
    return truth[:, None] + rng.normal(0, 1, n) + rng.normal(0, 0.3, (len(truth), n))


def own_noise(rng: np.random.Generator, truth: np.ndarray, n: int) -> np.ndarray:
    """Normal values, independent, with a spread of each model's own."""
    spread = rng.uniform(0.2, 1.5, (len(truth), 1))
    return truth[:, None] + spread * rng.normal(0, 1, (len(truth), n))


def skewed(rng: np.random.Generator, truth: np.ndarray, n: int) -> np.ndarray:
    """Log-normal values around the means, sequences shared."""
    noise = rng.lognormal(0, 0.7, (len(truth), n)) - np.exp(0.7**2 / 2)
    return truth[:, None] + rng.normal(0, 0.5, n) + 0.5 * noise


def skewed_apart(rng: np.random.Generator, truth: np.ndarray, n: int) -> np.ndarray:
    """Log-normal values, independent, some models' far more spread: no difference is symmetric."""
    noise = rng.lognormal(0, 0.7, (len(truth), n)) - np.exp(0.7**2 / 2)
    return truth[:, None] + rng.uniform(0.1, 1.5, (len(truth), 1)) * noise


def hits(rng: np.random.Generator, truth: np.ndarray, n: int) -> np.ndarray:
    """Items that are hit or not, harder or easier for every model (a Gaussian copula)."""
    common = np.sqrt(0.6) * rng.normal(0, 1, n)
    own = np.sqrt(0.4) * rng.normal(0, 1, (len(truth), n))
    return (common + own < stats.norm.ppf(truth)[:, None]).astype(float)


WORLDS = [
    World("normal, same tokens", shared_noise, levels, True),
    World("normal, other tokens, unequal spreads", own_noise, levels, False),
    World("skewed (log-normal), same tokens", skewed, levels, True),
    World("skewed, same tokens, unequal spreads", skewed_apart, levels, True),
    World("skewed, other tokens, unequal spreads", skewed_apart, levels, False),
    World("hits, same items", hits, shares, True),
    World("hits, other items", hits, shares, False),
    World("all equal: normal, same tokens", shared_noise, equal, True),
    World("all equal: normal, other tokens, unequal spreads", own_noise, equal, False),
    World("all equal: skewed, same tokens", skewed, equal, True),
    World("all equal: skewed, same tokens, unequal spreads", skewed_apart, equal, True),
    World("all equal: skewed, other tokens, unequal spreads", skewed_apart, equal, False),
    World("all equal: hits, same items", hits, equal_shares, True),
    World("all equal: hits, other items", hits, equal_shares, False),
]


def figure(samples: np.ndarray) -> Figure:
    """One model's number, as a record has it."""
    n = len(samples)
    error = float(samples.std(ddof=1) / np.sqrt(n))
    return Figure(float(samples.mean()), error or None, n=n, samples=samples)


def true_ranks(truth: np.ndarray) -> list[tuple[int, int]]:
    """The best and the worst rank that each model shares with those tied to it."""
    m = len(truth)
    return [(1 + int((truth > one).sum()), m - int((truth < one).sum())) for one in truth]


def holds(ranges: Sequence[tuple[int, int]], truth: np.ndarray) -> bool:
    """Whether every range holds all true ranks of its model."""
    pairs = zip(ranges, true_ranks(truth), strict=True)
    return all(low <= best and worst <= high for (low, high), (best, worst) in pairs)


def simulate(world: World, boards: int, models: int, n: int, seed: int) -> list[float]:
    """Return shares of boards held (with and without correction), width, and pairs told apart."""
    rng = np.random.default_rng(seed)
    held, one_by_one, width, apart = [], [], [], []
    alone = models * (models - 1) // 2
    for _ in range(boards):
        truth = world.truth(rng, models)
        truth[1] = truth[0]
        figures = [figure(samples) for samples in world.draw(rng, truth, n)]
        tokens = ["same" if world.paired else str(index) for index in range(models)]
        pairs = tell_apart(figures, tokens)
        ranges = rank_ranges(pairs.better("up"))
        held.append(holds(ranges, truth))
        width.append(np.mean([high - low + 1 for low, high in ranges]))
        apart.append(pairs.better("up").sum() / alone)
        half = pairs.half * _narrower(alone, n)
        naive = rank_ranges(pairs.centre > half)
        one_by_one.append(holds(naive, truth))
    return [float(np.mean(values)) for values in (held, one_by_one, width, apart)]


def _narrower(pairs: int, n: int) -> float:
    """How much narrower an interval of 95% is than one of 1 - 0.05/pairs."""
    return float(stats.t.isf(0.025, n - 1) / stats.t.isf(0.025 / pairs, n - 1))


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--boards", type=int, default=1000)
    parser.add_argument("--models", type=int, nargs="+", default=[10, 40])
    parser.add_argument("--samples", type=int, nargs="+", default=[8, 32])
    given = parser.parse_args()
    header = ["samples of", "models", "n", "held", "one by one", "mean width", "pairs told apart"]
    print("| " + " | ".join(header) + " |\n" + "|---" * len(header) + "|")
    for seed, world in enumerate(WORLDS):
        for models in given.models:
            for n in given.samples:
                held, alone, width, apart = simulate(world, given.boards, models, n, seed)
                cells = [world.name, str(models), str(n), f"{held:.1%}", f"{alone:.1%}"]
                print(
                    "| " + " | ".join([*cells, f"{width:.1f}", f"{apart:.0%}"]) + " |", flush=True
                )


if __name__ == "__main__":
    main()
