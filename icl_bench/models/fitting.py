"""Least squares: which modules' outputs make up what a layer adds to the residual stream."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations
from typing import Any

import torch
from torch import Tensor

from icl_bench.models.trace import Call, LayerTrace

ROUNDING = 1e-5
"""Error that a sum may have, as a share of the residual stream, in float32."""
ROUNDING_HALF = 1.5e-2
UNEXPLAINED = 1e-2
"""Error that a sum may have, as a share of what the layer adds, in float32."""
UNEXPLAINED_HALF = 0.15
NEGLIGIBLE = 1e-3
"""A part smaller than this share of what the layer adds does not count as found."""


def residual_multiplier(module: Any) -> float:
    """Return the factor that the config names for what layers add, 1 if it names none."""
    value = getattr(module.config.get_text_config(), "residual_multiplier", None)
    return float(value) if isinstance(value, (int, float)) else 1.0


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
    weight = 1 / trace.after.float().norm(dim=-1, keepdim=True).clamp_min(1e-20)
    added = ((trace.after.float() - trace.before.float()) * weight).reshape(-1).double()
    half = trace.after.dtype not in (torch.float32, torch.float64)

    def flat(part: Tensor) -> Tensor:
        return (part.float().reshape(trace.after.shape) * weight).reshape(-1).double()

    fixed = [flat(part) for part in known]
    outer = [call for call in candidates if "." not in call.name]
    rest = _pick(fixed, added, weight, half, stated)
    if rest is not None:
        # An MLP of zeros writes nothing, but is one.
        silent = [c for c in outer if not bool(c.gave.any())]
        return silent[:1], rest + [stated] * len(silent[:1])
    choices = [[call] for call in candidates]
    choices += [list(pair) for pair in combinations(outer, 2)]
    for chosen in choices:
        factors = _pick(
            fixed + [flat(call.gave) for call in chosen], added, weight, half, stated, len(chosen)
        )
        if factors is not None:
            return chosen, factors
    return None


def _pick(
    parts: list[Tensor],
    added: Tensor,
    weight: Tensor,
    half: bool,
    stated: float,
    needed: int = 0,
) -> list[float] | None:
    """Fit the factors of the parts; None if the sum is wrong or a needed part adds nothing."""
    size = float(added.norm())
    if parts:
        matrix = torch.stack(parts, 1)
        fit = torch.linalg.lstsq(matrix, added[:, None], driver="gelsd").solution[:, 0].tolist()
    else:
        matrix, fit = added.new_zeros(len(added), 0), []
    near = 5e-2 if half else 1e-3
    factors = []
    for part, value in zip(parts, fit):
        silent = float(part.norm()) == 0
        close = [known for known in (1.0, stated) if abs(value - known) <= near * abs(known)]
        factors.append(stated if silent else close[0] if close else value)
    error = added - matrix @ torch.tensor(factors, dtype=torch.double, device=added.device)
    positions = weight.numel()
    relative = float(error.norm()) / positions**0.5  # each position of the stream has norm 1
    if relative > (ROUNDING_HALF if half else ROUNDING):
        return None
    if float(error.norm()) > (UNEXPLAINED_HALF if half else UNEXPLAINED) * size:
        return None
    for part, factor in list(zip(parts, factors))[len(parts) - needed :]:
        if float(part.norm()) * abs(factor) <= NEGLIGIBLE * size:
            return None
    return factors
