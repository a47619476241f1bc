"""What every module of every decoder layer was given and gave in one small forward pass."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from icl_bench.models.attention.forward_hooks import ForwardHooks

if TYPE_CHECKING:
    from icl_bench.models.model import Model


@dataclass
class Call:
    """One call of one module.

    Args:
        name: its path from the decoder layer, or from the model.
        module: the module.
        given: its first tensor argument.
        gave: its output, or the first tensor of it.
    """

    name: str
    module: nn.Module
    given: Tensor
    gave: Tensor


@dataclass
class LayerTrace:
    """One pass through one decoder layer.

    Args:
        index: which layer.
        before: the residual stream that entered, (rows, length, width).
        after: the residual stream that left.
        untouched: whether what entered was left unchanged in place.
        calls: calls of the modules inside, in the order in which they ended.
        attention_after: number of calls that had ended when the attention function ended; one
            entry for each time it was called.
    """

    index: int
    before: Tensor
    after: Tensor
    untouched: bool = True
    calls: list[Call] = field(default_factory=list)
    attention_after: list[int] = field(default_factory=list)


def first_tensor(values: Any) -> Tensor | None:
    """Return a tensor, or the first one of a tuple."""
    if isinstance(values, Tensor):
        return values
    if isinstance(values, (tuple, list)):
        return next((v for v in values if isinstance(v, Tensor)), None)
    return None


def same_tensor(ours: Tensor, theirs: Tensor) -> bool:
    """Whether two tensors have the same shape and values."""
    return ours.shape == theirs.shape and torch.equal(ours, theirs)


def layer_input(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Return the residual stream out of a decoder layer's arguments."""
    return args[0] if args else kwargs.get("hidden_states")


class _CallNotingHooks(ForwardHooks):
    """Hooks that note when the attention function is called."""

    note: Callable[[], None]

    def finish_layer(self, layer: int, output: Tensor) -> Tensor:
        self.note()
        return super().finish_layer(layer, output)


class Tracer:
    """Traces one pass, layer by layer, and forgets each layer once it has been looked at.

    Args:
        model: the model.
        layers: its decoder layers.
        look: called with each layer's trace when the layer has ended.

    After the pass:
        tail: calls of modules outside the layers after the last layer has ended.
        last: the residual stream that left the last layer.
    """

    def __init__(
        self, model: Model, layers: nn.ModuleList, look: Callable[[LayerTrace], None]
    ) -> None:
        self.model, self.layers, self.look = model, layers, look
        self.tail: list[Call] = []
        self.last: Tensor | None = None
        self._open: LayerTrace | None = None
        self._entered: Tensor | None = None
        self._names: dict[nn.Module, str] = {}

    def run(self, ids: Tensor, hooks: ForwardHooks | None = None) -> Tensor:
        """Run a batch and return its logits.

        Args:
            ids: (rows, length).
            hooks: what else the pass does; only its ablation counts.
        """
        own = _CallNotingHooks(ablation=None if hooks is None else hooks.ablation)
        own.note = self._note_attention
        with self._watching():
            logits = self.model.run_pass(ids, own)
        assert logits is not None
        return logits

    @contextmanager
    def _watching(self) -> Iterator[None]:
        inside = {m for layer in self.layers for m in layer.modules()}
        with ExitStack() as stack:
            for index, layer in enumerate(self.layers):
                handle = layer.register_forward_pre_hook(self._enter(index), with_kwargs=True)
                stack.callback(handle.remove)
                stack.callback(layer.register_forward_hook(self._leave).remove)
            for module in inside - set(self.layers):
                handle = module.register_forward_hook(self._keep, with_kwargs=True)
                stack.callback(handle.remove)
            for name, module in self.model.model.named_modules():
                if module not in inside and name:
                    hook = self._keep_tail(name)
                    stack.callback(module.register_forward_hook(hook, with_kwargs=True).remove)
            yield

    def _enter(self, index: int) -> Callable[..., None]:
        def enter(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            entered = layer_input(args, kwargs)
            if isinstance(entered, Tensor):
                self._entered = entered
                self._open = LayerTrace(index, entered.clone(), entered)
                self._names = {m: n for n, m in module.named_modules() if n}

        return enter

    def _leave(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        trace, left = self._open, first_tensor(output)
        if trace is None or left is None or self._entered is None:
            return
        trace.after = left.clone()
        trace.untouched = bool((self._entered == trace.before).all())
        self._open, self.last = None, trace.after
        self.look(trace)

    def _keep(
        self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any
    ) -> None:
        given, gave = first_tensor((*args, *kwargs.values())), first_tensor(output)
        if self._open is not None and given is not None and gave is not None:
            name = self._names.get(module, "")
            self._open.calls.append(Call(name, module, given.clone(), gave.clone()))

    def _keep_tail(self, name: str) -> Callable[..., None]:
        def keep(
            module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any
        ) -> None:
            given, gave = first_tensor((*args, *kwargs.values())), first_tensor(output)
            ended = self._open is None and self.last is not None
            if ended and given is not None and gave is not None:
                self.tail.append(Call(name, module, given.clone(), gave.clone()))

        return keep

    def _note_attention(self) -> None:
        if self._open is not None:
            self._open.attention_after.append(len(self._open.calls))
