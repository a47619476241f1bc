"""A norm as the linear map that it was on one run: its statistics frozen, its gain read off.

Every LayerNorm and RMSNorm is y = gain * (x - mean, where it centres) * scale + bias, with one
scale per position. Gain, centring and bias are read off by calling the module on known vectors,
and the scale by comparing what went in with what came out, so no class of norm has to be known
here, neither Gemma's 1 + weight nor a norm that computes in another precision.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

WITHIN = 1e-4
WITHIN_HALF = 3e-2


class NotLinear(Exception):
    """A module is no norm of this form; the message says in what."""


class FrozenNorm:
    """Gain, centring and bias of a norm.

    Args:
        module: the norm, called with one tensor (..., width).
        width: width of the residual stream.
        like: a tensor whose device and data type the module takes.

    Raises:
        NotLinear: it cannot be called so.
    """

    def __init__(self, module: nn.Module, width: int, like: Tensor) -> None:
        self.module = module
        # Without zeros and of mean 0, so that centring leaves it alone and every gain shows.
        signs = torch.ones(width, dtype=like.dtype, device=like.device)
        signs[1::2] = -1
        if width % 2:
            signs[-3:] = torch.tensor([1.0, 1.0, -2.0], dtype=like.dtype)
        self._signs = signs
        self._read()

    @torch.no_grad()
    def _read(self) -> None:
        signs = self._signs
        probes = torch.stack([torch.zeros_like(signs), torch.ones_like(signs), signs])[None]
        try:
            # Not by a call, which would run the hooks that watch the module.
            zero, level, answer = self.module.forward(probes)[0].float()
        except (RuntimeError, TypeError, ValueError) as error:
            raise NotLinear(f"it cannot be called on vectors: {error}") from None
        self.bias = zero
        # Up to one common factor, which ends in the fitted scale.
        self.gain = (answer - zero) / signs.float()
        self.centres = float((level - zero).norm()) < 1e-2 * float((answer - zero).norm())

    def fit_scale(self, before: Tensor, after: Tensor) -> Tensor:
        """Return the scale of every position (..., 1) from what went in and what came out.

        Gain and bias are read again: the weights may have changed since the last run.

        Raises:
            NotLinear: no scale explains the output.
        """
        self._read()
        base = self._centre(before.float()) * self.gain
        wanted = after.float() - self.bias
        power = base.pow(2).sum(-1, keepdim=True)
        scale: Tensor = (wanted * base).sum(-1, keepdim=True) / power.clamp_min(1e-30)
        off = (base * scale - wanted).norm(dim=-1) / wanted.norm(dim=-1).clamp_min(1e-20)
        within = WITHIN if after.dtype in (torch.float32, torch.float64) else WITHIN_HALF
        if not float(off.max()) <= within:
            raise NotLinear(f"its output is not gain * x * scale + bias ({float(off.max()):.2g})")
        return scale

    def apply(self, part: Tensor, scale: Tensor) -> Tensor:
        """Return what a part of the input becomes in the output, the bias left out."""
        normed: Tensor = self._centre(part) * self.gain * scale
        return normed

    def pull_back(self, direction: Tensor, scale: Tensor) -> Tensor:
        """Return the transpose of `apply`: the direction in the input that moves `direction`."""
        return self._centre(direction * self.gain) * scale

    def _centre(self, x: Tensor) -> Tensor:
        return x - x.mean(-1, keepdim=True) if self.centres else x
