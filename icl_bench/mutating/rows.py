"""Which rows of which weights make a layer's queries, keys and values, found by watching it.

Residual streams drawn at random enter the layer, each a sequence of one token, at position 0,
where a rotation by position is none. Column by column what the attention function gets is then,
up to a constant, what some column of a projection gave: so neither names nor layouts (separate
or fused, grouped, interleaved by head) have to be known.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NoReturn

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from icl_bench.errors import NotMeasurable
from icl_bench.models.attention.forward_hooks import ForwardHooks
from icl_bench.models.attention.partial_forward import Left, enter_layer, require_partial_forward
from icl_bench.models.attention.prefix import Stream
from icl_bench.models.residual.anatomy import Anatomy
from icl_bench.models.residual.contributions import Wanted, run_clean
from icl_bench.models.residual.reading import SIDES, Side
from icl_bench.models.residual.trace import first_tensor

if TYPE_CHECKING:
    from icl_bench.models.model import Model

STREAMS = 48
"""Residual streams by which columns are told apart."""
ALIKE, ALIKE_HALF = 1e-6, 2e-3
"""How far from 1 the cosine of two columns may be that are the same."""


@dataclass(frozen=True)
class Rows:
    """Where one side of a layer's heads comes from.

    Args:
        module: the projection, a Linear or a Conv1D.
        index: its output features, (heads or groups, width).
        direct: whether nothing, such as a norm, stands between it and the attention function.
    """

    module: nn.Module
    index: Tensor
    direct: bool

    @property
    def weights(self) -> list[Tensor]:
        """The tensors to keep before something is changed: weight, and bias if there is one."""
        bias = getattr(self.module, "bias", None)
        return [self.module.weight, *([bias] if isinstance(bias, Tensor) else [])]  # type: ignore[list-item]

    def read(self, group: int) -> list[Tensor]:
        """Return copies of a group's rows (width, inputs), and of its biases (width,)."""
        return [tensor[self.index[group]].clone() for tensor in self._by_row()]

    def write(self, group: int, values: list[Tensor]) -> None:
        """Put values, as `read` returns them, in the place of a group's rows."""
        for tensor, value in zip(self._by_row(), values):
            tensor[self.index[group]] = value

    def _by_row(self) -> list[Tensor]:
        weight, *bias = [tensor.detach() for tensor in self.weights]
        return [weight.T if isinstance(self.module, Conv1D) else weight, *bias]


@dataclass(frozen=True)
class _Call:
    module: nn.Module
    given: Tensor
    gave: Tensor


def find_rows(model: Model, anatomy: Anatomy, layer: int) -> dict[Side, Rows]:
    """Return side -> the rows that make it, of one layer.

    Args:
        model: the model.
        anatomy: what writes into its residual stream.
        layer: a layer with attention.

    Raises:
        NotMeasurable: the model's queries, keys and values cannot be had, or one of them is not
            made by rows of one matrix.
    """
    require_partial_forward(model, "edited")
    calls, sides = _watch(model, anatomy, layer)
    found: dict[Side, Rows] = {}
    for side in SIDES:
        values = sides[side]
        located = _locate(values.flatten(1), calls, direct=True)
        if located is None:
            raise NotMeasurable(
                f"layer {layer}: its {side} is not made by rows of one matrix, so that those of a "
                "head cannot be told"
            )
        module, index, direct = located
        found[side] = Rows(module, index.reshape(values.shape[1:]), direct)
    return found


def _watch(model: Model, anatomy: Anatomy, layer: int) -> tuple[list[_Call], dict[Side, Tensor]]:
    """What the layer's modules were given and gave, (streams, features) each, and its sides."""
    decoder = anatomy.modules[layer]
    width = len(anatomy.layers[layer].output_matrix())
    draws = torch.Generator().manual_seed(0)
    entering = torch.randn(STREAMS, 1, width, generator=draws)
    entering = entering.to(model.runner.device, model.embedding.dtype)
    wrapped = run_clean(model, torch.tensor([model.vocabulary[:1]]), Wanted()).wrapped
    sides: dict[Side, Tensor] = {}
    calls: list[_Call] = []

    def keep(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> NoReturn:
        for side, tensor in zip(SIDES, (q, k, v)):
            sides[side] = tensor[:, :, 0].double().cpu()
        raise Left

    ids = torch.full((STREAMS, 1), model.vocabulary[0])
    with _noting(decoder, calls):
        enter_layer(model, ids, Stream(layer, entering, wrapped), ForwardHooks(swap=keep))
    sides["value"] = sides["value"][..., : model.shapes[layer][2]]
    return calls, sides


@contextmanager
def _noting(decoder: nn.Module, calls: list[_Call]) -> Iterator[None]:
    def note(module: nn.Module, args: Any, kwargs: dict[str, Any], output: Any) -> None:
        given, gave = first_tensor((*args, *kwargs.values())), first_tensor(output)
        if given is not None and gave is not None and len(given) == len(gave) == STREAMS:
            calls.append(
                _Call(module, *(one.double().cpu().reshape(STREAMS, -1) for one in (given, gave)))
            )

    with ExitStack() as stack:
        for module in decoder.modules():
            if module is not decoder and not list(module.children()):
                handle = module.register_forward_hook(note, with_kwargs=True)
                stack.callback(handle.remove)
        yield


def _locate(
    values: Tensor, calls: list[_Call], *, direct: bool
) -> tuple[nn.Module, Tensor, bool] | None:
    """Find the projection whose output columns the values are, also through norms."""
    for number, call in enumerate(calls):
        index = _match(values, call.gave)
        if index is None:
            continue
        if isinstance(call.module, (nn.Linear, Conv1D)):
            return call.module, index, direct
        if call.given.shape == call.gave.shape:
            same = torch.equal(call.given, call.gave)
            found = _locate(call.given[:, index], calls[:number], direct=direct and same)
            if found is not None:
                return found
    return None


def _match(values: Tensor, columns: Tensor) -> Tensor | None:
    """Return for each value column the one column that is the same up to a constant factor."""
    norms = values.norm(dim=0), columns.norm(dim=0)
    if not bool((norms[0] > 0).all()):
        return None
    cosines = ((values / norms[0]).T @ (columns / norms[1].clamp_min(1e-30))).abs()
    best, index = map(torch.Tensor.cpu, cosines.max(dim=1))
    exact = values.dtype == torch.float64 and float(best.min()) > 1 - ALIKE
    half = float(best.min()) > 1 - ALIKE_HALF and _is_half(values)
    if not (exact or half) or len(set(index.tolist())) < len(index):
        return None
    return index


def _is_half(values: Tensor) -> bool:
    """Whether the values have no more digits than a 16-bit type."""
    return torch.equal(values, values.bfloat16().double()) or torch.equal(
        values, values.half().double()
    )
