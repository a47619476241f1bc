"""Where a model without transformers' attention interface mixes its values, found and proven.

Such a model returns its attention matrices, and its heads' outputs are what the output projection
is given. Which module that is, in which decoder layer, is read off the gradient graph: it is the
first module with a weight whose input depends on the matrix. That this input really is the matrix
times values, head beside head, follows from the gradient too: the output is linear in the matrix,
so each row of it equals the sum of attention times gradient, head by head.
"""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from icl_bench.errors import ModelError

if TYPE_CHECKING:
    from icl_bench.models.attention.paths import Runner

LINEAR_WITHIN = {torch.float32: 1e-4, torch.float64: 1e-4}
LINEAR_WITHIN_HALF = 5e-2


@dataclass(frozen=True)
class ValueProjection:
    """One layer's heads in a model without the attention interface.

    Args:
        layer: the decoder layer.
        module: the module whose input is the heads' outputs side by side.
        matrix: index of the layer's matrix among those that the model returns.
        heads: number of heads.
        kv_heads: number of heads with values of their own.
    """

    layer: int
    module: nn.Module
    matrix: int
    heads: int
    kv_heads: int


def find_value_projections(runner: Runner, input_ids: Tensor) -> list[ValueProjection]:
    """Return where each layer of a model mixes its values.

    Args:
        runner: the model.
        input_ids: (batch, length), a few tokens.

    Raises:
        ModelError: the model returns no attention, or it is not what mixes the values.
    """
    layers = runner.layers
    if layers is None:
        raise ModelError("which of its modules are the decoder layers cannot be told")
    inputs: list[dict[nn.Module, Tensor]] = [{} for _ in layers]

    def keep(own: dict[nn.Module, Tensor]) -> Any:
        def hook(module: nn.Module, arguments: tuple[Any, ...]) -> None:
            if arguments and isinstance(arguments[0], Tensor) and arguments[0].requires_grad:
                own[module] = arguments[0]

        return hook

    def start_graph(module: nn.Module, arguments: Any, output: Tensor) -> Tensor:
        # Without it a model whose parameters are frozen would leave no graph.
        return output if output.requires_grad else output.detach().requires_grad_()

    with ExitStack() as stack:
        stack.enter_context(runner.prepared("eager"))
        stack.enter_context(torch.enable_grad())
        embedding = runner.model.get_input_embeddings()
        stack.callback(embedding.register_forward_hook(start_graph).remove)
        for layer, own in zip(layers, inputs):
            for module in layer.modules():
                if getattr(getattr(module, "weight", None), "ndim", 0) == 2:
                    stack.callback(module.register_forward_pre_hook(keep(own)).remove)
        _, output = runner.forward(input_ids, None, False, output_attentions=True)
        matrices = [a for a in output.get("attentions") or () if isinstance(a, Tensor)]
        if not matrices:
            raise ModelError("the model returns no attention matrices")
        wanted = (len(input_ids), input_ids.shape[1], input_ids.shape[1])
        for matrix in matrices:
            if matrix.ndim != 4 or (matrix.shape[0], *matrix.shape[2:]) != wanted:
                raise ModelError(
                    f"it returns attention of shape {tuple(matrix.shape)} for {wanted[0]} x "
                    f"{wanted[1]} tokens"
                )
        projections = _match(matrices, inputs)
    if len(projections) < len(matrices):
        raise ModelError(
            "no module takes in what the attention of matrix "
            f"{len(projections)} of {len(matrices)} mixes"
        )
    return projections


def _match(matrices: list[Tensor], inputs: list[dict[nn.Module, Tensor]]) -> list[ValueProjection]:
    projections: list[ValueProjection] = []
    for layer, own in enumerate(inputs):
        index = len(projections)
        if index == len(matrices):
            break
        matrix = matrices[index]
        if not matrix.requires_grad:
            raise ModelError(f"layer {layer}: the returned attention is not what mixes the values")
        for module, given in own.items():
            (slope,) = torch.autograd.grad(
                given.sum(), matrix, retain_graph=True, allow_unused=True
            )
            if slope is None:
                continue
            kv_heads = _prove(layer, matrix, given)
            projections.append(ValueProjection(layer, module, index, matrix.shape[1], kv_heads))
            break
    return projections


def _prove(layer: int, matrix: Tensor, given: Tensor) -> int:
    """Check that `given` is `matrix` times values, head beside head; return the key/value heads."""
    batch, heads, length, _ = matrix.shape
    if given.shape[:2] != (batch, length) or given.ndim != 3 or given.shape[2] % heads:
        raise ModelError(f"layer {layer}: heads' outputs of shape {tuple(given.shape)}")
    width = given.shape[2] // heads
    draws = torch.Generator().manual_seed(0)
    weights = torch.randn(heads, width, generator=draws).to(given)
    by_head = (given * weights.flatten()).reshape(batch, length, heads, width).sum(-1)
    (slope,) = torch.autograd.grad(by_head.sum(), matrix, retain_graph=True)
    by_head = by_head.detach()
    mixed = (matrix.detach() * slope).sum(-1).transpose(1, 2)
    off = float((mixed - by_head).abs().max()) / max(float(by_head.abs().max()), 1e-6)
    if not off <= LINEAR_WITHIN.get(given.dtype, LINEAR_WITHIN_HALF):
        raise ModelError(
            f"layer {layer}: the returned attention, times values, is not what its projection gets "
            f"(off by {off:.2g})"
        )
    # With the same weights for all heads, heads that share their values have the same gradient.
    same = (given * weights[0].repeat(heads)).sum()
    (slope,) = torch.autograd.grad(same, matrix, retain_graph=True)
    last = slope[:, :, -1]
    tolerance = 1e-4 * max(float(last.abs().max()), 1e-6)
    changes = (last[:, 1:] - last[:, :-1]).abs().amax(dim=(0, 2)) > tolerance
    return 1 + int(changes.sum())
