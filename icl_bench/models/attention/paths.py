"""The ways to run a model so that heads can be read and switched off.

`fused`, `chunked` and `eager` go through transformers' attention interface; `direct` answers the
calls of families that use torch's attention without it; `hooked` serves the rest, by their own
attention matrices and the input of the output projection.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext, suppress
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from icl_bench.errors import ModelError
from icl_bench.models.attention.attention import CHUNKED, EAGER, FUSED, read_matrix
from icl_bench.models.attention.forward_hooks import Enough, ForwardHooks, activate
from icl_bench.models.attention.layers import current_layer, follow_layers
from icl_bench.models.attention.sdpa_patch import calls_answered, calls_read
from icl_bench.models.attention.value_projection import ValueProjection, find_value_projections
from icl_bench.models.module.families import find_decoder_layers
from icl_bench.models.module.placement import input_device

Run = Callable[["Runner", Tensor, ForwardHooks, "Tensor | None", bool], "Tensor | None"]


class Runner:
    """Runs one transformers model; leaves it as it was after every call.

    Args:
        model: a causal language model.
    """

    def __init__(self, model: PreTrainedModel) -> None:
        self.model = model
        configs: dict[int, Any] = {id(model.config): model.config}
        for module in model.modules():
            config = getattr(module, "config", None)
            if hasattr(config, "_attn_implementation_internal"):
                configs[id(config)] = config
        self._configs = list(configs.values())
        parameters = inspect.signature(model.forward).parameters
        self._keeps_logits = "logits_to_keep" in parameters
        self._takes_cache = "use_cache" in parameters
        body = getattr(model, "base_model", model)
        self._body = body if isinstance(body, nn.Module) else model
        self.layers = find_decoder_layers(model)
        self.value_projections: list[ValueProjection] | None = None
        """Where a model without the attention interface mixes its values, once found."""
        self.coupling: float | None = None
        """How far quantized layers let a token change the logits before it, as a share of the
        largest; None where they cannot."""

    @contextmanager
    def prepared(self, implementation: str | None) -> Iterator[None]:
        """Evaluation mode, no gradients, and the given attention implementation."""
        before = [getattr(c, "_attn_implementation_internal", None) for c in self._configs]
        training = [m for m in self.model.modules() if m.training]
        own_forward = {m for m in self.model.modules() if "forward" in vars(m)}
        try:
            for module in training:
                module.training = False
            if implementation is not None:
                for config in self._configs:
                    config._attn_implementation_internal = implementation
            with torch.no_grad():
                yield
        finally:
            for config, old in zip(self._configs, before):
                config._attn_implementation_internal = old
            for module in training:
                module.training = True
            # Asked for attentions, transformers 4 sets each layer's own method on it as attribute.
            for module in self.model.modules():
                if "forward" in vars(module) and module not in own_forward:
                    del module.forward

    def forward(
        self, input_ids: Tensor, keep: Tensor | None, need_logits: bool, **more: Any
    ) -> tuple[Tensor | None, Any]:
        """Run the model, without the language-modelling head when no logits are needed.

        Args:
            input_ids: (batch, length).
            keep: positions whose logits are wanted; None for all.
            need_logits: False to stop before the head.
            more: further arguments of the model's forward.

        Returns:
            logits (batch, positions, vocabulary) or None, and the model's output.
        """
        more["return_dict"] = True
        if self._takes_cache:
            more["use_cache"] = False
        ids = input_ids.to(self.device)
        if not need_logits:
            return None, self._body(input_ids=ids, **more)
        if keep is not None and self._keeps_logits:
            output = self.model(input_ids=ids, logits_to_keep=keep.to(self.device), **more)
            return output.logits, output
        output = self.model(input_ids=ids, **more)
        logits = output.logits
        return (logits if keep is None else logits[:, keep.to(logits.device)]), output

    @property
    def device(self) -> torch.device:
        """Where token ids have to be."""
        return input_device(self.model)

    def run_plain(self, input_ids: Tensor, keep: Tensor | None = None) -> Tensor:
        """Return the logits of the untouched model with its own attention implementation."""
        with self.prepared(None):
            logits, _ = self.forward(input_ids, keep, True)
        assert logits is not None
        return logits

    def run_reference(self, input_ids: Tensor) -> tuple[Tensor, tuple[Tensor | None, ...]]:
        """Return the logits under eager attention and the matrices that the model gives out.

        The matrices are (batch, heads, length, length), one a layer, or one a layer that has
        attention, or None for those without.

        Raises:
            ModelError: the model does not return its attention.
        """
        with self.prepared("eager"):
            logits, output = self.forward(input_ids, None, True, output_attentions=True)
        attentions = getattr(output, "attentions", None)
        if not attentions:
            raise ModelError("the model returns no attention matrices")
        assert logits is not None
        return logits, tuple(attentions)

    def read_calls(self, input_ids: Tensor) -> dict[int, Tensor]:
        """Return layer -> attention of the layers that call torch's attention, by its formula."""
        matrices: dict[int, Tensor] = {}
        with self.prepared("sdpa"), follow_layers(self.layers), calls_read(matrices):
            self.forward(input_ids, None, False)
        return matrices


def _run_with(
    implementation: str,
    called: str = "transformers' attention interface",
    answering: Callable[[], AbstractContextManager[None]] = nullcontext,
) -> Run:
    """Return a way to run in which hooks are active while the model calls its attention."""

    def run(
        runner: Runner, ids: Tensor, hooks: ForwardHooks, keep: Tensor | None, need_logits: bool
    ) -> Tensor | None:
        logits = None
        with (
            runner.prepared(implementation),
            activate(hooks),
            follow_layers(runner.layers),
            answering(),
            suppress(Enough),
        ):
            logits, _ = runner.forward(ids, keep, need_logits)
        if hooks.pairs and not hooks.shapes:
            raise ModelError(f"the model does not call {called}")
        return logits

    return run


def _run_hooked(
    runner: Runner, input_ids: Tensor, hooks: ForwardHooks, keep: Tensor | None, need_logits: bool
) -> Tensor | None:
    if runner.value_projections is None:
        runner.value_projections = find_value_projections(runner, input_ids)

    projections = {projection.layer: projection for projection in runner.value_projections}

    def replace(module: nn.Module, arguments: tuple[Any, ...]) -> tuple[Any, ...]:
        # Layers may share a module, so the layer is not the module's to tell.
        projection = projections.get(current_layer())  # type: ignore[arg-type]
        if projection is None or projection.module is not module:
            return arguments
        flat = arguments[0]
        output = flat.reshape(*flat.shape[:2], projection.heads, -1)
        if projection.layer in hooks.shapes:
            raise ModelError(f"layer {projection.layer} attends more than once in a forward pass")
        hooks.shapes[projection.layer] = (projection.heads, projection.kv_heads, output.shape[-1])
        changed = hooks.finish_layer(projection.layer, output)
        return (changed.reshape(flat.shape), *arguments[1:])

    with ExitStack() as stack:
        stack.enter_context(runner.prepared("eager"))
        stack.enter_context(follow_layers(runner.layers))
        for module in {projection.module for projection in runner.value_projections}:
            stack.callback(module.register_forward_pre_hook(replace).remove)
        wants = {"output_attentions": True} if hooks.pairs else {}
        logits, output = runner.forward(input_ids, keep, need_logits, **wants)
    if hooks.pairs:
        matrices = [a for a in output.attentions if isinstance(a, Tensor)]
        for projection in runner.value_projections:
            read_matrix(hooks, projection.layer, matrices[projection.matrix])
    return logits


PATHS: dict[str, tuple[str, Run]] = {
    "fused": ("fused", _run_with(FUSED)),
    "chunked": ("chunked", _run_with(CHUNKED)),
    "direct": ("fused", _run_with("sdpa", "torch's attention", calls_answered)),
    "eager": ("eager", _run_with(EAGER)),
    "hooked": ("eager", _run_hooked),
}
"""Name -> (what the record says, how to run), in the order in which they are tried."""
