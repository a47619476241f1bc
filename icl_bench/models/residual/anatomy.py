"""Which module writes what into the residual stream, found by watching one small forward pass.

Nothing here knows a family. In each decoder layer the module is looked for whose input is the
heads' outputs side by side, the norm that its output goes through, and the module whose output
makes up the rest of what the layer adds. A finding counts only if the numbers agree to rounding:

    after = before + multiplier * norm(sum over heads of W_O z_h + bias) + multiplier' * mlp

The outputs of all heads are replaced by random numbers meanwhile, so that a head that happens to
write nothing on a few tokens cannot hide a mistake.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from icl_bench.errors import NotMeasurable
from icl_bench.models.attention.ablation import Ablation
from icl_bench.models.attention.forward_hooks import ForwardHooks
from icl_bench.models.module.families import find_decoder_layers
from icl_bench.models.module.quantization import dense_weight, exact_layers
from icl_bench.models.residual.fitting import explain, residual_multiplier
from icl_bench.models.residual.norms import FrozenNorm, NotLinear
from icl_bench.models.residual.trace import LayerTrace, Tracer, same_tensor
from icl_bench.models.residual.unembedding import Unembedding, find_unembedding

if TYPE_CHECKING:
    from icl_bench.models.model import Model

LENGTH = 12


@dataclass
class LayerAnatomy:
    """What writes into the residual stream in one decoder layer.

    Args:
        index: which layer.
        heads: number of query heads; 0 in a layer without attention.
        width: width of a head's output.
        projection: the output projection; its input is the heads' outputs side by side.
        plain: whether that input is what the attention function returned, without a gate.
        norm_module: the norm between projection and residual stream, or None.
        norm: the same, read.
        multiplier: factor of the attention's contribution.
        mlps: the modules whose outputs are the rest of what the layer adds: an MLP, or the norm
            after it; none in an attention-only layer.
        mlp_multipliers: the factor of each.
        problem: why the heads' contributions are not known, or None.
        mlp_problem: why the MLP's contribution is not known, or None.
    """

    index: int
    heads: int = 0
    width: int = 0
    projection: nn.Module | None = None
    plain: bool = True
    norm_module: nn.Module | None = None
    norm: FrozenNorm | None = None
    multiplier: float = 1.0
    mlps: tuple[nn.Module, ...] = ()
    mlp_multipliers: tuple[float, ...] = ()
    problem: str | None = None
    mlp_problem: str | None = None

    def output_matrix(self) -> Tensor:
        """Return the output projection's matrix, (residual width, heads * head width)."""
        assert self.projection is not None
        return dense_weight(self.projection)

    def output_bias(self) -> Tensor | None:
        """Return the output projection's bias (residual width,), or None."""
        inner = getattr(self.projection, "base_layer", self.projection)
        bias = getattr(inner, "bias", None)
        return bias if isinstance(bias, Tensor) else None


@dataclass
class Anatomy:
    """What writes into the residual stream, layer by layer, and how logits are read from it.

    Args:
        layers: one entry for each decoder layer.
        modules: the decoder layers themselves.
        unembedding: final norm, matrix and scale, or None.
        problem: why the way from the residual stream to the logits is not known, or None.
    """

    layers: list[LayerAnatomy]
    modules: nn.ModuleList
    unembedding: Unembedding | None = None
    problem: str | None = None

    def require_heads(self, layers: Iterable[int]) -> None:
        """Raise NotMeasurable where what the heads of these layers write is not known."""
        for index in layers:
            if (problem := self.layers[index].problem) is not None:
                raise NotMeasurable(f"what the heads write is not known: layer {index}: {problem}")

    def require_mlps(self, layers: Iterable[int]) -> None:
        """Raise NotMeasurable where what the MLPs of these layers write is not known."""
        for index in layers:
            layer = self.layers[index]
            problem = layer.mlp_problem
            if problem is None and not layer.mlps:
                problem = "it has no MLP"
            if problem is not None:
                raise NotMeasurable(f"the MLP cannot be identified: layer {index}: {problem}")

    def require_unembedding(self) -> Unembedding:
        """Return the unembedding, or raise NotMeasurable with the reason."""
        if self.unembedding is None:
            raise NotMeasurable(f"logits cannot be attributed: {self.problem}")
        return self.unembedding


@torch.no_grad()
def find_anatomy(model: Model) -> Anatomy:
    """Watch one small forward pass and return what was found in it.

    Args:
        model: the model; any, also without attention heads.

    Raises:
        NotMeasurable: its decoder layers cannot be identified.
    """
    modules = find_decoder_layers(model.model)
    if modules is None or len(modules) != model.layers:
        raise NotMeasurable("the model's decoder layers cannot be identified")
    ids = _tiny_batch(model.vocabulary)
    draws = torch.Generator().manual_seed(0)
    values = {
        layer: torch.randn(heads, width, generator=draws)
        for layer, (heads, _, width) in model.shapes.items()
    }
    off = {layer: torch.ones(2, heads, dtype=torch.bool) for layer, heads in model.heads.items()}
    known: dict[int, LayerAnatomy] = {}
    streams: dict[int, tuple[Tensor, Tensor]] = {}

    def look(trace: LayerTrace) -> None:
        known[trace.index] = _read_layer(model, trace, values.get(trace.index))
        streams[trace.index] = (trace.before.cpu(), trace.after.cpu())

    tracer = Tracer(model, modules, look)
    with exact_layers(model.model):
        logits = tracer.run(ids, ForwardHooks(ablation=Ablation(off, values)) if off else None)
        layers = _settle_layers(len(modules), known, streams)
        anatomy = Anatomy(layers, modules)
        _check_gates(model, anatomy, ids)
        anatomy.unembedding, anatomy.problem = find_unembedding(model.model, tracer, logits)
    return anatomy


def _settle_layers(
    count: int, known: dict[int, LayerAnatomy], streams: dict[int, tuple[Tensor, Tensor]]
) -> list[LayerAnatomy]:
    layers = []
    for index in range(count):
        layer = known.get(index) or LayerAnatomy(index, problem="it takes or returns no tensor")
        both = index in known and index - 1 in known
        if both and not torch.equal(streams[index][0], streams[index - 1][1]):
            layer.problem = f"its input is not what layer {index - 1} returned"
        layer.mlp_problem = layer.mlp_problem or layer.problem
        layers.append(layer)
    return layers


def _tiny_batch(vocabulary: list[int]) -> Tensor:
    spread = max(1, len(vocabulary) // LENGTH)
    ids = [vocabulary[(i * spread) % len(vocabulary)] for i in range(LENGTH)]
    half = ids[: LENGTH // 2]
    return torch.tensor([ids, half + half])


def _read_layer(model: Model, trace: LayerTrace, values: Tensor | None) -> LayerAnatomy:
    layer = LayerAnatomy(trace.index)
    if not trace.untouched:
        layer.problem = "it changes the residual stream in place"
        return layer
    if trace.before.ndim != 3 or trace.after.shape != trace.before.shape:
        layer.problem = "its residual stream is not one vector for each position"
        return layer
    if values is not None:
        layer.heads, layer.width = values.shape
        layer.problem = _read_attention(layer, trace, values)
        if layer.problem is not None:
            return layer
    _read_sum(model, layer, trace)
    return layer


def _read_attention(layer: LayerAnatomy, trace: LayerTrace, values: Tensor) -> str | None:
    """Find the projection and the norm after it; return what failed, or None."""
    if len(trace.attention_after) != 1:
        return f"its attention function was called {len(trace.attention_after)} times"
    later = trace.calls[trace.attention_after[0] :]
    candidates = [
        call for call in later if _is_linear(call.module) and call.given.shape[-1] == values.numel()
    ]
    if not candidates:
        return "no linear output projection of the heads' outputs was called"
    # An adapter's layer returns after those that it consists of.
    adapted = (one for one in candidates if hasattr(one.module, "base_layer"))
    call = next(adapted, candidates[0])
    layer.projection = call.module
    given = call.given.reshape(*trace.before.shape[:2], *values.shape)
    layer.plain = torch.equal(given, values.to(given).expand_as(given))
    mixed = call.given.float() @ layer.output_matrix().float().T
    bias = layer.output_bias()
    mixed = mixed if bias is None else mixed + bias.float()
    if not _same(mixed, call.gave):
        return "its output projection is not the plain linear map of its weights"
    for after in later:
        # Dropout and its like hand on what they get.
        if same_tensor(after.given, call.gave) and not same_tensor(after.gave, after.given):
            try:
                norm = FrozenNorm(after.module, call.gave.shape[-1], call.gave)
                norm.fit_scale(after.given, after.gave)
            except NotLinear as error:
                return f"{after.name}, which follows the attention, is no norm: {error}"
            layer.norm_module, layer.norm = after.module, norm
            break
    return None


def _is_linear(module: nn.Module) -> bool:
    return isinstance(module, (nn.Linear, Conv1D)) or hasattr(module, "in_features")


def _same(ours: Tensor, theirs: Tensor) -> bool:
    within = 1e-4 if theirs.dtype in (torch.float32, torch.float64) else 2e-2
    theirs = theirs.float().reshape(ours.shape)
    return float((ours - theirs).norm()) <= within * max(float(theirs.norm()), 1e-20)


def _read_sum(model: Model, layer: LayerAnatomy, trace: LayerTrace) -> None:
    """Find the MLP: the module whose output is the rest of what the layer adds."""
    writer = layer.norm_module or layer.projection
    known = [call.gave for call in trace.calls if call.module is writer]
    called = [call.module for call in trace.calls]
    candidates = [
        call
        for call in trace.calls
        if call.gave.numel() == trace.before.numel()
        and called.count(call.module) == 1
        and not isinstance(call.module, nn.Dropout)
        and call.module is not writer
    ]
    candidates.sort(key=lambda call: call.name.count("."))
    result = explain(trace, known, candidates, residual_multiplier(model.model))
    if result is None:
        layer.problem = (
            "what it adds to the residual stream is not the attention's output plus that of "
            "one or two other modules"
        )
        return
    chosen, factors = result
    if known:
        layer.multiplier, factors = factors[0], factors[1:]
    elif len(chosen) == 2:
        # A layer with another mixer in the attention's place: the MLP is the later one.
        chosen, factors = chosen[1:], factors[1:]
    elif chosen:
        layer.mlp_problem = "it has no attention, and its one module may be anything"
    layer.mlps = tuple(call.module for call in chosen)
    layer.mlp_multipliers = tuple(factors)


def _check_gates(model: Model, anatomy: Anatomy, ids: Tensor) -> None:
    """Where something stands between heads and projection, see that it keeps heads apart.

    Row h has head h of every layer off; its slice of the projection's input must then be zero.
    """
    gated = [layer for layer in anatomy.layers if layer.heads and not layer.plain]
    if not gated:
        return
    count = max(layer.heads for layer in gated)
    off = {layer: torch.eye(count, heads, dtype=torch.bool) for layer, heads in model.heads.items()}

    def look(trace: LayerTrace) -> None:
        layer = anatomy.layers[trace.index]
        if layer.plain or layer.projection is None:
            return
        for call in trace.calls:
            if call.module is layer.projection:
                parts = call.given.reshape(*trace.before.shape[:2], layer.heads, layer.width)
                own = torch.arange(layer.heads)
                if float(parts[own, :, own].abs().max()) > 0:
                    layer.problem = "something mixes its heads before the output projection"

    tracer = Tracer(model, anatomy.modules, look)
    tracer.run(ids[:1].expand(count, -1), ForwardHooks(ablation=Ablation(off)))
