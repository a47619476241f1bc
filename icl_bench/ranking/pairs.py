"""Which of two models is better, for all pairs of one metric at once.

Two models differ significantly when the interval of their difference excludes 0. All intervals of
one metric hold together at 95% (Bonferroni over its pairs), so that all the rank ranges made from
them hold the true ranks together at 95%. Source: Mogstad, Romano, Shaikh & Wilhelm 2024, Inference
for Ranks with Applications to Mobility across Neighbourhoods and Academic Achievement across
Countries, section 3.1.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from icl_bench.measures.statistics import CONFIDENCE, student_t, t_quantile
from icl_bench.ranking.entries import Figure

_CANCELLED = 1e-6
"""A variance of differences below this share of the two variances' sum is computed anew, sample by
sample: taken from sums of squares it would be rounding."""
_TABLED = 100_000
"""Degrees of freedom up to which quantiles are looked up in a table."""


@dataclass(frozen=True)
class Pairs:
    """All pairs of m models, shape (m, m) each: row minus column.

    Args:
        difference: of the values.
        centre: middle of the interval, which for shares of hits is not quite the difference.
        half: half of its width; infinite where there is no standard error.
        paired: whether it is that of differences on the same tokens, sample by sample.
    """

    difference: np.ndarray
    centre: np.ndarray
    half: np.ndarray
    paired: np.ndarray

    def better(self, direction: Literal["up", "down"]) -> np.ndarray:
        """Return where the row's model is surely better than the column's, shape (m, m), bool."""
        gain = self.centre if direction == "up" else -self.centre
        return np.asarray(gain > self.half)


def tell_apart(
    figures: Sequence[Figure], tokens: Sequence[str | None], *, exact: bool = False, looks: int = 1
) -> Pairs:
    """Return the differences of all pairs of models with intervals that hold together at 95%.

    Where both measured the same tokens and kept as many samples, the interval is Student's t on
    the samples' differences; of samples that are 0 or 1, it is Agresti and Min's for paired shares
    (2005). Else it is Welch's, from both standard errors, with degrees of freedom rounded down; of
    samples that are 0 or 1, Agresti and Caffo's (2000). Both add half a hit or a whole one to
    every count, so that a share of all or of none has a width; all take Student's quantiles.

    Args:
        figures: one number per model.
        tokens: digest of the tokens that each was measured on.
        exact: whether the metric has no sampling error whatever a record says.
        looks: looks at growing data that each interval has to hold for.
    """
    m = len(figures)
    value = np.array([figure.value for figure in figures], dtype=np.float64)
    known = np.array([exact or figure.exact for figure in figures], dtype=bool)
    tail = (1 - CONFIDENCE) / 2 / max(m * (m - 1) // 2, 1) / max(looks, 1)
    difference = value[:, None] - value[None, :]
    centre, half = _welch(figures, known, tail, difference, max(looks, 1))
    paired = np.zeros((m, m), dtype=bool)
    for rows in _same_tokens(figures, tokens, known):
        samples = np.stack([_samples(figures[row]) for row in rows])
        block = np.ix_(rows, rows)
        own_centre, own_half = _paired(samples, difference[block], tail)
        centre[block], half[block], paired[block] = own_centre, own_half, True
    np.fill_diagonal(centre, 0.0)
    np.fill_diagonal(half, 0.0)
    np.fill_diagonal(paired, False)
    return Pairs(difference, centre, half, paired)


def rank_ranges(
    better: np.ndarray, twins: Sequence[int | None] | None = None
) -> list[tuple[int, int]]:
    """Return the ranks a model may have: 1 + those surely better, to n - those surely worse.

    Args:
        better: shape (m, m), whether the row's model is surely better than the column's.
        twins: for every model the index of another one that is the same model, and is counted
            instead of it; None for models that are counted.
    """
    m = len(better)
    twins = twins or [None] * m
    counted = np.array([twin is None for twin in twins], dtype=bool)
    ranges = []
    for index, twin in enumerate(twins):
        others = counted.copy()
        others[index] = False
        if twin is not None:
            others[twin] = False
        above = int((better[:, index] & others).sum())
        below = int((better[index] & others).sum())
        ranges.append((1 + above, int(others.sum()) + 1 - below))
    return ranges


def _welch(
    figures: Sequence[Figure],
    known: np.ndarray,
    tail: float,
    difference: np.ndarray,
    looks: int,
) -> tuple[np.ndarray, np.ndarray]:
    """Centre and half width from both standard errors."""
    errors = [0.0 if k else _error(figure, looks) for figure, k in zip(figures, known)]
    centre, half = difference.copy(), _from_errors(errors, figures, known, tail)
    hits = np.array([_is_hits(figure) and not k for figure, k in zip(figures, known)], dtype=bool)
    if hits.any():
        rows = np.flatnonzero(hits)
        own = [figures[int(row)] for row in rows]
        n = np.array([len(_samples(figure)) for figure in own], dtype=np.float64)
        share = (np.array([_samples(figure).sum() for figure in own]) + 1) / (n + 2)
        spread = np.sqrt(share * (1 - share) / (n + 2))
        block = np.ix_(rows, rows)
        centre[block] = share[:, None] - share[None, :]
        half[block] = _from_errors(list(spread), own, known[rows], tail)
    return centre, half


def _from_errors(
    errors: Sequence[float | None], figures: Sequence[Figure], known: np.ndarray, tail: float
) -> np.ndarray:
    error = np.array([np.nan if one is None else one for one in errors], dtype=np.float64)
    df = np.array([max((figure.n or 2) - 1, 1) for figure in figures], dtype=np.float64)
    variance = error**2
    total = variance[:, None] + variance[None, :]
    # An exact number has variance 0 and adds nothing to either sum.
    share = variance**2 / df
    with np.errstate(invalid="ignore", divide="ignore"):
        freedom = total**2 / (share[:, None] + share[None, :])
    freedom = np.where(np.isfinite(freedom), freedom, 1.0)
    half = _quantile(freedom, tail) * np.sqrt(total)
    half[total == 0] = 0.0
    return np.where(np.isnan(total), np.inf, half)


def _quantile(freedom: np.ndarray, tail: float) -> np.ndarray:
    """Student's quantiles for degrees of freedom rounded down, each different one once."""
    # Rounding may have put 30.999999999999996 where 31 is meant.
    whole = np.maximum((freedom + 1e-9).astype(np.int64), 1)
    most = int(whole.max(initial=1))
    if most > _TABLED:
        return np.asarray(-t_quantile(tail, whole))
    return np.asarray(-t_quantile(tail, np.arange(1, most + 1))[whole - 1])


def _paired(
    samples: np.ndarray, difference: np.ndarray, tail: float
) -> tuple[np.ndarray, np.ndarray]:
    """Centre and half width of differences sample by sample; samples of shape (rows, n)."""
    n = samples.shape[1]
    quantile = -float(t_quantile(tail, n - 1))
    around = samples - samples.mean(axis=1, keepdims=True)
    products = around @ around.T
    own = np.diag(products)
    both = own[:, None] + own[None, :]
    squares = both - 2 * products
    for row in range(len(samples)):
        columns = np.flatnonzero(squares[row] <= _CANCELLED * both[row])
        apart = around[columns] - around[row]
        squares[row, columns] = (apart**2).sum(axis=1)
    half = quantile * np.sqrt(np.maximum(squares, 0) / (n - 1) / n)
    centre = difference.copy()
    rows = np.flatnonzero(((samples == 0) | (samples == 1)).all(axis=1))
    if len(rows):
        hits = samples[rows]
        more = hits @ (1 - hits).T  # hit by the row's model alone
        less = more.T
        block = np.ix_(rows, rows)
        centre[block] = (more - less) / (n + 2)
        spread = more + less + 1 - (more - less) ** 2 / (n + 2)
        half[block] = quantile * np.sqrt(spread) / (n + 2)
    return centre, half


def _same_tokens(
    figures: Sequence[Figure], tokens: Sequence[str | None], known: np.ndarray
) -> list[list[int]]:
    """Indices of models whose samples belong together, one by one."""
    groups: dict[tuple[str, int], list[int]] = {}
    for index, (figure, digest) in enumerate(zip(figures, tokens)):
        if digest is None or known[index] or figure.samples is None or len(figure.samples) < 2:
            continue
        groups.setdefault((digest, len(figure.samples)), []).append(index)
    return [rows for rows in groups.values() if len(rows) > 1]


def _samples(figure: Figure) -> np.ndarray:
    assert figure.samples is not None
    return figure.samples


def _is_hits(figure: Figure) -> bool:
    samples = figure.samples
    return samples is not None and len(samples) > 1 and bool(np.isin(samples, (0.0, 1.0)).all())


def _error(figure: Figure, looks: int) -> float | None:
    """A standard error; read off the interval, which holds for all looks, where that says more.

    Steps of a phase change have intervals that reach to the next checkpoints, wider than sampling
    alone makes them.
    """
    if figure.stderr is None or figure.n is None or figure.n < 2:
        return None
    if figure.ci_low is None or figure.ci_high is None:
        return figure.stderr
    return max(figure.stderr, (figure.ci_high - figure.ci_low) / 2 / student_t(figure.n - 1, looks))
