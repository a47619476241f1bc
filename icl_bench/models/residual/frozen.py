"""The way from the residual stream to one layer's queries and keys, its norms frozen.

With the statistics of the clean run, every norm on that way (before the layer, over queries and
keys, inside latent projections) is an affine map, and so are projections and rotary positions. The
layer's own code then makes the queries and keys of each part of the stream, and these add up.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from icl_bench.models.attention.call import AttentionCall
from icl_bench.models.attention.forward_hooks import ForwardHooks
from icl_bench.models.attention.partial_forward import Left, enter_layer
from icl_bench.models.attention.prefix import Stream
from icl_bench.models.residual.contributions import CleanRun
from icl_bench.models.residual.norms import FrozenNorm, NotLinear
from icl_bench.models.residual.trace import first_tensor

if TYPE_CHECKING:
    from icl_bench.models.model import Model


class _CallHooks(ForwardHooks):
    """Hooks that keep an attention call and end the pass before it is computed."""

    call: AttentionCall | None = None

    def see_call(self, layer: int, call: AttentionCall) -> None:
        self.call = call
        raise Left


class FrozenLayer:
    """Makes queries and keys of anything that enters one layer, norms as on the clean run.

    Args:
        model: the model.
        layer: which layer.
        ids: (rows, length).
        run: the clean run of these rows, with what entered the layer.

    Attributes:
        clean: the attention call of the clean run.
    """

    def __init__(self, model: Model, layer: int, ids: Tensor, run: CleanRun) -> None:
        self.model, self.layer, self.ids, self.wrapped = model, layer, ids, run.wrapped
        self.module = run.anatomy.modules[layer]
        self._frozen: dict[nn.Module, list[tuple[FrozenNorm, Tensor]]] = {}
        with self._watching():
            self.clean = self._enter(run.entered[layer])

    def call(self, streams: list[Tensor]) -> AttentionCall:
        """Return the attention call for some streams, (len(streams) * rows, ...), in their order.

        Args:
            streams: each (rows, length, width).
        """
        with self._freezing(len(streams)):
            return self._enter(torch.cat(streams))

    def _enter(self, stream: Tensor) -> AttentionCall:
        hooks = _CallHooks()
        times = len(stream) // len(self.ids)
        start = Stream(self.layer, stream, self.wrapped)
        enter_layer(self.model, self.ids.repeat(times, 1), start, hooks)
        assert hooks.call is not None
        return hooks.call

    @contextmanager
    def _watching(self) -> Iterator[None]:
        """Find the norms that are called and the scales that they have."""

        def watch(module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
            given, gave = first_tensor(args), first_tensor(output)
            if given is None or gave is None or given.shape != gave.shape:
                return
            if torch.equal(given, gave):
                return
            try:
                norm = FrozenNorm(module, given.shape[-1], gave)
                scale = norm.fit_scale(given, gave)
            except (NotLinear, AttributeError, IndexError):
                return  # if it matters, the parts will not add up
            self._frozen.setdefault(module, []).append((norm, scale))

        with ExitStack() as stack:
            for module in self.module.modules():
                if module is self.module or isinstance(module, (nn.Linear, Conv1D, nn.Dropout)):
                    continue
                stack.callback(module.register_forward_hook(watch).remove)
            yield

    @contextmanager
    def _freezing(self, times: int) -> Iterator[None]:
        calls: Counter[nn.Module] = Counter()

        def freeze(known: list[tuple[FrozenNorm, Tensor]]) -> Callable[..., Tensor]:
            def hook(module: nn.Module, args: tuple[Any, ...], output: Any) -> Tensor:
                norm, scale = known[calls[module]]
                calls[module] += 1
                given, gave = first_tensor(args), first_tensor(output)
                assert given is not None and gave is not None
                scale = scale.repeat(times, *[1] * (scale.ndim - 1))
                normed: Tensor = norm.apply(given.float(), scale) + norm.bias
                return normed.to(gave.dtype)

            return hook

        with ExitStack() as stack:
            for module, known in self._frozen.items():
                stack.callback(module.register_forward_hook(freeze(known)).remove)
            yield
