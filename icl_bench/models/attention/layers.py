"""Which decoder layer is running while an attention function is called."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from contextvars import ContextVar

from torch import nn

_layer: ContextVar[int | None] = ContextVar("icl_bench_layer", default=None)
OUTSIDE = -1


@contextmanager
def follow_layers(layers: nn.ModuleList | None) -> Iterator[None]:
    """Let the attention functions know in which decoder layer they are called.

    An attention module's own index is no proof: layers of hybrid models may share one module, or
    number only those that have attention.

    Args:
        layers: the decoder layers, or None when they are not known.
    """
    if layers is None:
        yield
        return

    def enter(index: int) -> Callable[..., None]:
        def hook(*_: object) -> None:
            _layer.set(index)

        return hook

    token = _layer.set(OUTSIDE)
    with ExitStack() as stack:
        stack.callback(_layer.reset, token)
        for index, layer in enumerate(layers):
            stack.callback(layer.register_forward_pre_hook(enter(index)).remove)
            stack.callback(layer.register_forward_hook(enter(OUTSIDE)).remove)
        yield


def current_layer() -> int | None:
    """Return the decoder layer that is running, OUTSIDE for none, None when it is not followed."""
    return _layer.get()
