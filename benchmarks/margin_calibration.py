"""How often `null_margin` passes, with a circuit and without, beside the p-value that it replaced.

Per-sequence damages are drawn and judged by the probe's own `disjoint_sets` and `measure_margins`;
no model is involved. The tables are made by `benchmarks/calibration.py`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np

from icl_bench.measures import statistics as st
from icl_bench.measures.null import HeadSet, disjoint_sets, matched_sets
from icl_bench.probes.ablations.margins import measure_margins

Head = tuple[int, int]

HEADS = (4, 8, 9, 12, 16, 24, 32)
"""Heads of a layer."""
LAYERS, FIRST = 6, 3
"""Layers of a model, and the first of those with chosen heads."""
FEEDER = (2, 0)
"""The head that feeds the chosen ones and does as much damage as they."""
SEQUENCES, NULL_SEQUENCES = 32, 8
"""Of the margins and of the p-value."""
SETS, DRAWS, ALPHA = 19, 99, 0.05
"""Null sets of the margin; those of the p-value, and its level."""
LOST, LITTLE = 0.85, 0.35
"""Copying that goes with the chosen heads, as a share of the gain: SmolLM2's, and much less."""
SHARED, OWN, NOISE = 0.25, 0.1, 0.03
"""Spread of a sequence's factor, that of a head on it, and damage that no head's mean explains."""
CARRIES = 0.25
"""Copying lost that the shipped suites ask for beside the margin."""
DRAWN = 100
"""Draws of null sets that the runs of a cell take turns with."""
LAWS = ("log-normal", "normal")
SHAPES = {"1": [1], "2": [2], "1+1": [1, 1], "2+1": [2, 1], "3+2": [3, 2]}
"""Name -> chosen heads of each layer."""


@dataclass(frozen=True)
class Setting:
    """Heads whose mean damages are known.

    Args:
        heads: of each layer.
        shape: which heads are under test, a name of `SHAPES`.
        means: mean damage of every head as a share of the gain, shape (layers, heads).
    """

    heads: int
    shape: str
    means: np.ndarray


@cache
def choose(shape: str) -> list[Head]:
    """Return the chosen heads: the first of each layer.

    Args:
        shape: name of one of `SHAPES`.
    """
    return [(FIRST + at, head) for at, n in enumerate(SHAPES[shape]) for head in range(n)]


def draw_damages(
    rng: np.random.Generator, means: np.ndarray, law: str, noise: float = NOISE
) -> np.ndarray:
    """Draw what every head does to every sequence, (layers, heads, sequences), shares of the gain.

    A factor of the sequence multiplies all heads, one of its own each head; noise is added.

    Args:
        rng: source of chance.
        means: mean damage of every head, shape (layers, heads).
        law: `normal` or `log-normal`, of all three.
        noise: standard deviation of what is added.
    """
    size = (*means.shape, SEQUENCES)
    shared, own, added = (rng.standard_normal(n) for n in (SEQUENCES, size, size))
    if law == "normal":
        factor = (1 + SHARED * shared) * (1 + OWN * own)
    else:
        factor = np.exp(SHARED * shared - SHARED**2 / 2 + OWN * own - OWN**2 / 2)
        added = (np.exp(added) - np.exp(0.5)) / np.sqrt((np.e - 1) * np.e)
    return means[..., None] * factor + noise * added


def members(sets: Sequence[HeadSet | list[Head]], heads: int) -> np.ndarray:
    """Return the numbers of the heads of each set, (sets, heads of a set)."""
    return np.array([[layer * heads + head for layer, head in some] for some in sets])


@cache
def margin_sets(shape: str, heads: int, seed: int) -> np.ndarray:
    """The probe's null sets, the chosen heads above them, as `members` has them."""
    layers, chosen = dict.fromkeys(range(LAYERS), heads), choose(shape)
    return members([chosen, *disjoint_sets(chosen, layers, SETS, seed, [FEEDER]).sets], heads)


@cache
def matched(shape: str, heads: int, seed: int) -> np.ndarray | None:
    """The same for the p-value; None where there are too few for one of `ALPHA`."""
    layers, chosen = dict.fromkeys(range(LAYERS), heads), choose(shape)
    null = matched_sets(chosen, layers, DRAWS, ALPHA, seed)
    return None if null.p_min > ALPHA else members([chosen, *null.sets], heads)


def add_up(sets: np.ndarray, damages: np.ndarray) -> np.ndarray:
    """Add up the damages of the heads of each set, (sets, sequences)."""
    return np.asarray(damages.reshape(-1, damages.shape[-1])[sets].sum(axis=1))


@dataclass(frozen=True)
class Verdict:
    """What one run says.

    Args:
        above: whether the margin's lower end is above 0.
        below: whether its upper end is below 0.
        carries: whether the copying lost is above `CARRIES`, with its whole interval.
        idle: whether it is below, with its whole interval.
        sets: number of null sets.
    """

    above: bool
    below: bool
    carries: bool
    idle: bool
    sets: int


def judge_margin(setting: Setting, damages: np.ndarray, seed: int) -> Verdict:
    """Run the comparison of the probe on damages.

    Args:
        setting: the heads.
        damages: as `draw_damages` returns them.
        seed: of the null sets.
    """
    sets = margin_sets(setting.shape, setting.heads, seed % DRAWN)
    chosen, *rest = add_up(sets, damages)
    others = np.array(rest)
    margins = measure_margins(chosen, 1.0, len(rest), lambda some, a, b: others[some, a:b])
    found, lost = margins.metric(), st.mean_metric(chosen)
    return Verdict(
        above=found.ci_low > 0,
        below=found.ci_high < 0,
        carries=lost.ci_low > CARRIES,
        idle=lost.ci_high < CARRIES,
        sets=len(rest),
    )


def judge_p_value(setting: Setting, damages: np.ndarray, seed: int) -> bool | None:
    """Return whether the p-value is at most `ALPHA`; None where too few sets exist for one."""
    sets = matched(setting.shape, setting.heads, seed % DRAWN)
    if sets is None:
        return None
    observed, *others = add_up(sets, damages[..., :NULL_SEQUENCES]).mean(axis=1).tolist()
    # Sets whose damages are equal but for rounding are as bad.
    return st.monte_carlo_p(observed - 1e-12, others) <= ALPHA + 1e-12


POWER = [
    (shape, who, lost)
    for lost in (LOST, LITTLE)
    for shape in SHAPES
    for who in (["one causal"] if shape == "1" else ["all causal", "one causal"])
]
POWER += [(shape, "one causal, one against", LOST) for shape in ("2", "1+1")]
POWER += [(shape, "one causal, a rival", LOST) for shape in ("1", "2+1")]


def planted(rng: np.random.Generator, heads: int, shape: str, who: str, lost: float) -> Setting:
    """Return heads of which some chosen ones carry copying, and a head that feeds them.

    Args:
        rng: source of the small damages of all other heads.
        heads: of each layer.
        shape: name of one of `SHAPES`.
        who: `all causal` alike; `one causal`, the others without effect; `one causal, one
            against`, which takes a fifth of the gain back; or `one causal, a rival`: a head of its
            layer that was not chosen does nine tenths as much.
        lost: copying that goes with the causal heads.
    """
    chosen, means = choose(shape), 0.02 * rng.standard_normal((LAYERS, heads))
    means[FEEDER] = lost
    for head in chosen:
        means[head] = lost / len(chosen) if who == "all causal" else 0.0
    if who != "all causal":
        means[chosen[0]] = lost
    if who.endswith("against"):
        means[chosen[-1]] = -0.2
    if who.endswith("rival"):
        means[FIRST, heads - 1] = 0.9 * lost
    return Setting(heads, shape, means)


@cache
def simulate_power(runs: int) -> dict[tuple[int, int], tuple[str, str]]:
    """(number of the row, heads) -> what the margin says, and the p-value."""
    found = {}
    for at, (shape, who, lost) in enumerate(POWER):
        for heads in HEADS:
            rng, said, small = np.random.default_rng([17, at, heads]), [], []
            for seed in range(runs):
                setting = planted(rng, heads, shape, who, lost)
                damages = draw_damages(rng, setting.means, LAWS[seed % 2])
                said.append(judge_margin(setting, damages, seed))
                small.append(judge_p_value(setting, damages, seed))
            found[at, heads] = (tell(said), tell_small(small))
    return found


def tell(said: list[Verdict]) -> str:
    """Return how often both checks pass, and how often one is inconclusive or fails."""
    passed = sum(one.above and one.carries for one in said) / len(said)
    failed = sum(one.below or one.idle for one in said) / len(said)
    rest = f"{1 - passed - failed:.0%} inconclusive" if round(1 - passed - failed, 3) else ""
    wrong = f"{failed:.0%} fail" if failed else ""
    told = ", ".join(filter(None, [rest, wrong]))
    return f"{passed:.0%} ({told})" if told else f"{passed:.0%}"


def tell_small(small: list[bool | None]) -> str:
    """Return how often a p-value is small, among all runs."""
    if all(one is None for one in small):
        return "none"
    return f"{sum(one is True for one in small) / len(small):.0%}"


def power_rows(runs: int, what: int) -> list[list[str]]:
    """One row per choice of heads and size of the damage; half of the runs have each law.

    Args:
        runs: simulated models of each cell.
        what: 0 for the margin, 1 for the p-value.
    """
    found = simulate_power(runs)
    return [
        [f"{shape}, {who}", f"{lost:g}", *(found[at, heads][what] for heads in HEADS)]
        for at, (shape, who, lost) in enumerate(POWER)
    ]


LUCK = ("no head has an effect", "all heads have the same", "heads differ, none is special")


def unplanted(rng: np.random.Generator, heads: int, shape: str, world: str) -> Setting:
    """Return heads none of which is special; those under test are any heads.

    Args:
        rng: source of the damages of heads that differ.
        heads: of each layer.
        shape: name of one of `SHAPES`.
        world: one of `LUCK`.
    """
    count, size = len(choose(shape)), (LAYERS, heads)
    means = {
        LUCK[0]: lambda: np.zeros(size),
        LUCK[1]: lambda: np.full(size, 0.5 / count),
        LUCK[2]: lambda: rng.exponential(0.5 / count, size),
    }[world]()
    return Setting(heads, shape, means)


def luck_rows(runs: int) -> list[list[str]]:
    """One row per choice of heads and world without a circuit; half of the runs have each law."""
    rows = []
    for at, world in enumerate(LUCK):
        for number, shape in enumerate(SHAPES):
            rows.append([world, shape])
            for heads in HEADS:
                rng, said = np.random.default_rng([29, at, number, heads]), []
                for seed in range(runs):
                    setting = unplanted(rng, heads, shape, world)
                    damages = draw_damages(rng, setting.means, LAWS[seed % 2])
                    said.append(judge_margin(setting, damages, seed))
                rows[-1].append(tell_luck(said, beside=world == LUCK[2]))
    return rows


def tell_luck(said: list[Verdict], beside: bool) -> str:
    """Return how often the lower end is above 0, and how often the copying lost agrees."""
    above = sum(one.above for one in said) / len(said)
    passed = sum(one.above and one.carries for one in said) / len(said)
    sets = Counter(one.sets for one in said).most_common(1)[0][0]
    expected = f"; 1/(M+1) = {1 / (sets + 1):.1%}" if beside else ""
    return f"{above:.1%} ({passed:.1%}){expected}"


HEADS_ROW = [f"{heads} heads" for heads in HEADS]
POWER_HEAD = ["chosen", "causal heads take", *HEADS_ROW]
LUCK_HEAD = ["without a circuit", "chosen", *HEADS_ROW]
