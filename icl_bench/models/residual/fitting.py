"""Least squares: which modules' outputs make up what a layer adds to the residual stream."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations
from typing import Any

import torch
from torch import Tensor

from icl_bench.models.residual.trace import Call, LayerTrace

ROUNDING = 1e-5
"""Error that a sum may have, as a share of the residual stream, in float32."""
ROUNDING_HALF = 1.5e-2
UNEXPLAINED = 1e-2
"""Error that a sum may have, as a share of what the layer adds, in float32."""
UNEXPLAINED_HALF = 0.15
MEANT = 10
"""A module belongs to the sum if what it adds is this many times the error that remains."""
AS_GOOD = 2
"""The first of several choices is taken whose error is within this factor of the least."""


def residual_multiplier(module: Any) -> float:
    """Return the factor that the config names for what layers add, 1 if it names none."""
    value = getattr(module.config.get_text_config(), "residual_multiplier", None)
    return float(value) if isinstance(value, (int, float)) else 1.0


class Sum:
    """What one layer adds to the residual stream, to be explained.

    Args:
        trace: the layer's input and output.
        known: outputs that are part of the sum.
        stated: factor that the config names.
    """

    def __init__(self, trace: LayerTrace, known: Sequence[Tensor], stated: float) -> None:
        # Each position of the stream gets norm 1, so that none of huge norm hides the others.
        self._weight = 1 / trace.after.float().norm(dim=-1, keepdim=True).clamp_min(1e-20)
        self._shape = trace.after.shape
        self._added = self._flat(trace.after.float() - trace.before.float())
        self._known = [self._flat(part) for part in known]
        self._half = trace.after.dtype not in (torch.float32, torch.float64)
        self._stated = stated

    def _flat(self, part: Tensor) -> Tensor:
        weighted: Tensor = part.float().reshape(self._shape) * self._weight
        return weighted.reshape(-1).double().cpu()

    def fit(self, modules: Sequence[Call]) -> tuple[float, list[float]] | None:
        """Return the error and the factors; None if it is too large or a module adds nothing."""
        if any(call.gave.numel() != len(self._added) for call in modules):
            return None
        parts = self._known + [self._flat(call.gave) for call in modules]
        matrix = torch.stack(parts, 1) if parts else self._added.new_zeros(len(self._added), 0)
        fitted = torch.linalg.lstsq(matrix, self._added[:, None]).solution[:, 0].tolist()
        factors = [self._round(part, value) for part, value in zip(parts, fitted)]
        error = float((self._added - matrix @ matrix.new_tensor(factors)).norm())
        unexplained = UNEXPLAINED_HALF if self._half else UNEXPLAINED
        rounding = ROUNDING_HALF if self._half else ROUNDING
        if error > unexplained * float(self._added.norm()):
            return None
        if error > rounding * self._weight.numel() ** 0.5:
            return None
        sizes = [float(part.norm()) * abs(factor) for part, factor in zip(parts, factors)]
        if any(size <= MEANT * error for size in sizes[len(self._known) :]):
            return None
        return error, factors

    def _round(self, part: Tensor, value: float) -> float:
        """Return the factor that is meant; rounding errors keep it from being found exactly."""
        if not bool(part.any()):
            return self._stated
        near = 5e-2 if self._half else 1e-3
        close = [k for k in (1.0, self._stated) if abs(value - k) <= near * abs(k)]
        return close[0] if close else value


def explain(
    trace: LayerTrace, known: Sequence[Tensor], candidates: Sequence[Call], stated: float
) -> tuple[list[Call], list[float]] | None:
    """Find the fewest modules whose outputs, beside the known parts, make up what a layer adds.

    Args:
        trace: the layer's input and output.
        known: outputs that are part of the sum.
        candidates: modules that may be, the preferred ones first.
        stated: factor that the config names.

    Returns:
        the modules, and the factors of known parts and modules; None if no choice is right.
    """
    whole = Sum(trace, known, stated)
    outer = [call for call in candidates if "." not in call.name]
    active = [call for call in candidates if bool(call.gave.any())]
    few: list[list[Call]] = [[], *([call] for call in active)]
    for choices in (few, [list(pair) for pair in combinations(outer, 2)]):
        fits = [(chosen, fit) for chosen in choices if (fit := whole.fit(chosen)) is not None]
        if not fits:
            continue
        least = min(fit[0] for _, fit in fits)
        chosen, (_, factors) = next(f for f in fits if f[1][0] <= AS_GOOD * least)
        if not chosen:
            # An MLP of zeros writes nothing, but is one.
            silent = [call for call in outer if not bool(call.gave.any())][:1]
            return silent, factors + [stated] * len(silent)
        return chosen, factors
    return None
