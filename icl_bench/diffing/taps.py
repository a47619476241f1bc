"""What is read and changed at the places of every layer while a pass runs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from icl_bench.models.circuits.components import put_back
from icl_bench.models.residual.anatomy import LayerAnatomy
from icl_bench.models.residual.trace import first_tensor

if TYPE_CHECKING:
    from icl_bench.models.model import Model

Kept = dict[tuple[str, int], Tensor]
"""(what, layer) -> values, rows first, on the CPU."""
Hook = Callable[[int, Tensor], "Tensor | None"]
"""Gets a layer's number and a tensor; returns what goes on in its place, or None to leave it."""
Projection = Callable[[int, Tensor, Tensor], "Tensor | None"]
"""The same for an output projection: gets its input too."""


@dataclass
class Taps:
    """What is read and changed in every layer of a pass; the hooks see (layer, tensor)."""

    enter: Hook | None = None
    leave: Hook | None = None
    project: Projection | None = None
    write: Hook | None = None
    mlp: Hook | None = None

    @contextmanager
    def on(self, model: Model) -> Iterator[None]:
        anatomy = model.anatomy
        with ExitStack() as stack:
            for index, module in enumerate(anatomy.modules):
                layer = anatomy.layers[index]
                if self.enter:
                    hook = _before(index, self.enter)
                    handle = module.register_forward_pre_hook(hook, with_kwargs=True)
                    stack.callback(handle.remove)
                projection = None if layer.problem else layer.projection
                for part, after in (
                    (projection, self.project and _projected(index, self.project)),
                    (writer_of(layer), self.write and _after(index, self.write)),
                    (mlp_of(layer), self.mlp and _after(index, self.mlp)),
                    (module, self.leave and _after(index, self.leave)),
                ):
                    if part is not None and after is not None:
                        stack.callback(part.register_forward_hook(after).remove)
            yield


def writer_of(layer: LayerAnatomy) -> nn.Module | None:
    """The module whose output the attention adds to the residual stream; None if not known."""
    return None if layer.problem else layer.norm_module or layer.projection


def mlp_of(layer: LayerAnatomy) -> nn.Module | None:
    """The module whose output the MLP adds; None if not known, or if there are several."""
    return layer.mlps[0] if len(layer.mlps) == 1 and not layer.mlp_problem else None


def _before(index: int, tap: Hook) -> Callable[..., Any]:
    def hook(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if args:
            new = tap(index, args[0])
            return None if new is None else ((new, *args[1:]), kwargs)
        name = "hidden_states" if "hidden_states" in kwargs else next(iter(kwargs))
        new = tap(index, kwargs[name])
        return None if new is None else (args, {**kwargs, name: new})

    return hook


def _after(index: int, tap: Hook) -> Callable[..., Any]:
    def hook(module: nn.Module, args: tuple[Any, ...], output: Any) -> Any:
        written = first_tensor(output)
        assert written is not None
        new = tap(index, written)
        return None if new is None else put_back(output, new.reshape(written.shape))

    return hook


def _projected(index: int, tap: Projection) -> Callable[..., Any]:
    def hook(module: nn.Module, args: tuple[Any, ...], output: Tensor) -> Any:
        new = tap(index, args[0], output)
        return None if new is None else new.reshape(output.shape)

    return hook


class Keeper:
    """Keeps tensors of one batch; batches are joined when they have succeeded.

    A family that flattens rows and positions before a module gets its rows back.
    """

    def __init__(self, rows: int) -> None:
        self.rows, self.kept = rows, Kept()

    def taking(self, what: str) -> Hook:
        """Return a hook that keeps what it sees and changes nothing."""

        def take(layer: int, values: Tensor) -> None:
            shaped = values.detach().reshape(self.rows, -1, values.shape[-1])
            self.kept[what, layer] = shaped.to("cpu", copy=True)

        return take
