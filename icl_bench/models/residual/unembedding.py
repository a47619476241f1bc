"""The way from the last residual stream to the logits: final norm, matrix, scale, soft-cap."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from icl_bench.models.module.quantization import dense_weight, is_quantized
from icl_bench.models.residual.norms import FrozenNorm, NotLinear
from icl_bench.models.residual.trace import Tracer, same_tensor


@dataclass
class Unembedding:
    """How logits are read from the residual stream.

    Args:
        norm_module: the final norm, or None.
        norm: the same, read.
        matrix: unembedding matrix (vocabulary, width).
        bias: its bias (vocabulary,), or None.
        scale: factor of the logits.
        cap: bound of a final soft-cap, or None; attributions are to the logit before it.
    """

    norm_module: nn.Module | None
    norm: FrozenNorm | None
    matrix: Tensor
    bias: Tensor | None
    scale: float
    cap: float | None

    def directions(self, answer: Tensor) -> Tensor:
        """Return what raises the answers' logits over the vocabulary's mean.

        Args:
            answer: token ids, any shape.

        Returns:
            (..., width), float32, to be multiplied with the final norm's output.
        """
        rows = self.matrix[answer.to(self.matrix.device)].float()
        return (rows - self.matrix.mean(0, dtype=torch.float32)) * self.scale

    def offset(self, answer: Tensor) -> Tensor:
        """Return the part of the answers' centred logits that no residual stream changes."""
        if self.bias is None:
            return torch.zeros(answer.shape, device=self.matrix.device)
        bias = self.bias.float()
        return (bias[answer.to(bias.device)] - bias.mean()) * self.scale


def find_unembedding(
    module: Any, tracer: Tracer, logits: Tensor
) -> tuple[Unembedding | None, str | None]:
    """Read the unembedding off a traced pass; return it, or None and the reason.

    Args:
        module: the transformers model.
        tracer: with a pass done.
        logits: of that pass, all positions.
    """
    head = module.get_output_embeddings()
    calls = [call for call in tracer.tail if call.module is head]
    if (
        not (isinstance(head, nn.Linear) or is_quantized(head))
        or len(calls) != 1
        or tracer.last is None
    ):
        return None, "the model has no linear unembedding that is called once"
    given, raw = calls[0].given, calls[0].gave.float()
    norm_module, norm = None, None
    if not torch.equal(given, tracer.last):
        fits = [
            call
            for call in tracer.tail
            if same_tensor(call.given, tracer.last) and same_tensor(call.gave, given)
        ]
        if not fits:
            return None, "between the last layer and the unembedding stands more than one norm"
        norm_module = fits[-1].module
        try:
            norm = FrozenNorm(norm_module, given.shape[-1], given)
            norm.fit_scale(tracer.last, given)
        except NotLinear as error:
            return None, f"the final norm {fits[-1].name}: {error}"
    within = 1e-3 if logits.dtype == torch.float32 else 3e-2
    matrix = dense_weight(head).detach()
    expected = given.float() @ matrix.float().T
    bias = head.bias.detach() if isinstance(head.bias, Tensor) else None
    if bias is not None:
        expected = expected + bias.float()
    if _off(expected, raw) > within:
        return None, "the unembedding is not the plain linear map of its weights"
    scale, cap = _find_scale(module, raw, logits.float(), within)
    if scale is None:
        return None, "the logits are not a multiple of the unembedding's output, nor soft-capped"
    return Unembedding(norm_module, norm, matrix, bias, scale, cap), None


def _off(ours: Tensor, theirs: Tensor) -> float:
    return float((ours - theirs).norm()) / max(float(theirs.norm()), 1e-20)


def _find_scale(
    module: Any, raw: Tensor, logits: Tensor, within: float
) -> tuple[float | None, float | None]:
    scale = float((raw * logits).sum()) / max(float(raw.pow(2).sum()), 1e-20)
    if _off(raw * scale, logits) <= within:
        return (1.0 if abs(scale - 1) < 1e-5 else scale), None
    cap = getattr(module.config.get_text_config(), "final_logit_softcapping", None)
    if cap and _off(cap * torch.tanh(raw / cap), logits) <= within:
        return 1.0, float(cap)
    return None, None
