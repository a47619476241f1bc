"""Edits of whole layers."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from icl_bench.errors import NotMeasurable
from icl_bench.models.residual.trace import layer_input
from icl_bench.mutating.planting import Site


def double(site: Site) -> None:
    """Double what the first norm of a layer returns, as doubling its gain does."""
    layer = site.place[0]
    for module in site.ground.anatomy.modules[layer].modules():
        if "norm" in type(module).__name__.lower() and not list(module.children()):
            site.hook(module, lambda output: 2 * output)
            return
    raise NotMeasurable(f"layer {layer} has no norm")


def skip(site: Site) -> None:
    """Let a layer hand on what it is given."""
    module = site.ground.anatomy.modules[site.place[0]]

    def act(_: nn.Module, args: Any, kwargs: dict[str, Any], output: Any) -> Any:
        entered = layer_input(args, kwargs)
        return (entered, *output[1:]) if isinstance(output, tuple) else entered

    handle = module.register_forward_hook(act, with_kwargs=True)
    site.undo(handle.remove)


def spoil_channel(site: Site) -> None:
    """Let one output channel of a layer's output projection be NaN."""
    layer = site.layer()
    assert layer.projection is not None and isinstance(layer.projection.weight, Tensor)
    site.keep(layer.projection.weight)
    layer.output_matrix().detach()[0] = float("nan")
