"""Quantized weights: what they stand for, and the layers that hold them.

A layer of quantized weights may hold packed integers, scales beside them, or a tensor of another
class, and may round what it is given as well. Here each is the matrix that it stands for.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import re
from collections.abc import Callable, Iterator
from typing import Any, TypeVar, cast

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from icl_bench.models.module.quantized_files import describe_method

_HALF = (torch.float16, torch.bfloat16)
_BLOCK = 1024
"""Rows that are given to a layer at once, to find out its matrix."""


def describe_quantization(model: nn.Module) -> str | None:
    """Return method and bits of a model's quantized weights, or None.

    Args:
        model: a transformers model.
    """
    config: Any = getattr(model, "config", None)
    stored = getattr(config, "quantization_config", None)
    if stored is None:
        return None
    content = stored if isinstance(stored, dict) else stored.to_dict()
    return describe_method(content)


def is_quantized(module: nn.Module) -> bool:
    """Whether a module is a linear layer whose weight is not simply the matrix that it stands for.

    Args:
        module: any; adapters around such a layer are none.
    """
    if isinstance(module, Conv1D) or hasattr(module, "base_layer"):
        return False
    sizes = (getattr(module, "out_features", None), getattr(module, "in_features", None))
    if not all(isinstance(size, int) for size in sizes):
        return False
    if hasattr(module, "quantization_scheme"):
        return True
    weight = getattr(module, "weight", None)
    if not isinstance(weight, Tensor):
        return hasattr(module, "qweight") or hasattr(module, "weight_packed")
    if is_wrapped(weight) or is_packed(weight):
        return True
    return not weight.is_floating_point() or weight.element_size() < 2


def is_wrapped(tensor: Tensor) -> bool:
    """Whether a tensor is of a class that stands for values that it does not hold as they are.

    Args:
        tensor: a parameter or buffer.
    """
    return hasattr(tensor, "__tensor_flatten__") and hasattr(tensor, "dequantize")


def is_packed(tensor: Tensor) -> bool:
    """Whether a tensor holds packed integers of bitsandbytes, of whatever type they are kept in.

    Args:
        tensor: a parameter or buffer.
    """
    return hasattr(tensor, "quant_state")


def quantized_layers(model: nn.Module) -> list[nn.Module]:
    """Return the layers of a model that hold quantized weights.

    Args:
        model: a model, or a part of one.
    """
    return [module for module in model.modules() if is_quantized(module)]


def count_weights(module: nn.Module) -> int | None:
    """Return how many weights a quantized layer stands for, bias included; None for others.

    Args:
        module: any.
    """
    if not is_quantized(module):
        return None
    layer: Any = module
    bias = getattr(layer, "bias", None)
    own = int(layer.in_features) * int(layer.out_features)
    return own + (bias.numel() if isinstance(bias, Tensor) else 0)


def compute_dtype(model: nn.Module, embedding: torch.dtype) -> torch.dtype:
    """Return the type that a model's products are computed in, the coarsest if there are several.

    Args:
        model: a transformers model.
        embedding: the type of its embedding.
    """
    found = {_computes_in(layer) for layer in quantized_layers(model)}
    half = [dtype for dtype in _HALF if dtype in found]
    return half[0] if half and embedding not in _HALF else embedding


def _computes_in(layer: nn.Module) -> Any:
    if _is_int8(layer):
        return torch.float16
    state = getattr(getattr(layer, "weight", None), "quant_state", None)
    packed = getattr(state, "packing_format_for_cpu", False)
    return torch.bfloat16 if packed else getattr(layer, "compute_dtype", None)


def _is_int8(layer: nn.Module) -> bool:
    return type(layer).__name__ == "Linear8bitLt"


def rounds_inputs(model: nn.Module) -> bool:
    """Whether layers of quantized weights round what they are given, too.

    Args:
        model: a transformers model.
    """
    return any(map(_rounds, quantized_layers(model)))


def _rounds(layer: nn.Module) -> bool:
    weight: Any = getattr(layer, "weight", None)
    scheme = getattr(layer, "quantization_scheme", None)
    return (
        _is_int8(layer)
        or getattr(weight, "act_quant_kwargs", None) is not None
        or "Activation" in type(weight).__name__
        or getattr(scheme, "input_activations", None) is not None
        or getattr(layer, "activation_scheme", None) is not None
    )


def couples_tokens(model: nn.Module) -> bool:
    """Whether a token can change what layers make of the others, those before it included.

    LLM.int8 keeps columns in float16 in which any token of a batch has an outlier.

    Args:
        model: a transformers model.
    """
    layers: Any = quantized_layers(model)
    return any(_is_int8(layer) and layer.state.threshold > 0 for layer in layers)


def dense_weight(module: nn.Module) -> Tensor:
    """Return the matrix (out, in) that a linear layer stands for, adapters included.

    Args:
        module: a Linear, a Conv1D (which keeps it transposed), a layer of quantized weights, or
            one of these with adapters around it.
    """
    layer: Any = module
    if is_quantized(module):
        return _unpack(module)
    if hasattr(module, "base_layer"):
        with exact_layers(module), _unwatched(module):
            return _read_off(module, layer.in_features)
    weight: Tensor = layer.weight
    return weight.T if isinstance(module, Conv1D) else weight


def _unpack(module: nn.Module) -> Tensor:
    layer: Any = module
    weight: Any = getattr(layer, "weight", None)
    size = (layer.out_features, layer.in_features)
    if isinstance(weight, Tensor) and is_wrapped(weight):
        plain: Tensor = weight.dequantize()
        return plain
    kind = type(module).__name__
    scales = getattr(getattr(layer, "state", None), "SCB", None)
    scales = getattr(weight, "SCB", None) if scales is None else scales
    if kind == "Linear8bitLt" and isinstance(scales, Tensor) and isinstance(weight, Tensor):
        return weight.float() * (scales.float() / 127)[:, None]
    state: Any = getattr(weight, "quant_state", None)
    if kind == "Linear4bit":
        from bitsandbytes import functional

        packed: Any = weight.data
        if getattr(state, "packing_format_for_cpu", False):
            packed, state = functional._convert_weight_packed_for_cpu_inverse(packed, state)
        unpacked: Tensor = functional.dequantize_4bit(packed, state)
        return unpacked.float()
    if (
        isinstance(weight, Tensor)
        and not is_packed(weight)
        and weight.is_floating_point()
        and weight.element_size() > 1
        and weight.shape == size
    ):
        return weight
    with _unwatched(module):
        return _read_off(module, layer.in_features)


@torch.no_grad()
def _read_off(module: nn.Module, width: int) -> Tensor:
    """Return the matrix of a layer by what it makes of unit vectors.

    Types that round what a layer is given, row by row, keep a single one as it is.
    """
    like = next(part for part in (*module.parameters(), *module.buffers()))
    dtype = like.dtype if like.is_floating_point() and like.element_size() > 1 else torch.float32
    zero = module.forward(torch.zeros(1, width, dtype=dtype, device=like.device))
    columns = []
    for start in range(0, width, _BLOCK):
        rows = torch.zeros(min(_BLOCK, width - start), width, dtype=dtype, device=like.device)
        rows[torch.arange(len(rows)), start + torch.arange(len(rows))] = 1
        columns.append((module.forward(rows) - zero).float())
    return torch.cat(columns).T


@contextlib.contextmanager
def _unwatched(module: nn.Module) -> Iterator[None]:
    """Run a module without the hooks that watch it."""
    own = [(part, part._forward_hooks, part._forward_pre_hooks) for part in module.modules()]
    try:
        for part, after, before in own:
            part._forward_hooks, part._forward_pre_hooks = type(after)(), type(before)()
        yield
    finally:
        for part, after, before in own:
            part._forward_hooks, part._forward_pre_hooks = after, before


@contextlib.contextmanager
def exact_layers(model: nn.Module, *, keep: bool = False) -> Iterator[None]:
    """Let layers of quantized weights be the plain linear maps that they stand for.

    Nothing that they are given is rounded, and sums are of the type of what they are given.

    Args:
        model: a model, or a part of one.
        keep: whether the matrices stay unpacked until the end of the block; else each is unpacked
            when it is needed.
    """
    layers = quantized_layers(model)
    own = [layer.__dict__.get("forward") for layer in layers]
    matrices = [functools.partial(_unpack_own, layer, before) for layer, before in zip(layers, own)]
    if keep:
        matrices = [functools.cache(matrix) for matrix in matrices]  # type: ignore[misc]
    try:
        for layer, matrix in zip(layers, matrices):
            layer.forward = functools.partial(_apply, layer, matrix)
        yield
    finally:
        for layer, before in zip(layers, own):
            if before is None:
                layer.__dict__.pop("forward", None)
            else:
                layer.forward = before


Measure = TypeVar("Measure", bound=Callable[..., Any])


def on_exact_layers(measure: Measure) -> Measure:
    """Let a function of a model, its first argument, see what quantized weights stand for.

    For what adds parts up to a whole: the parts of a layer that rounds what it is given do not.
    Layers that compute as exactly as the rest of the model stay as they are.
    """

    @functools.wraps(measure)
    def measured(model: Any, *args: Any, **options: Any) -> Any:
        module = model.model
        own = module.get_input_embeddings().weight.dtype
        if not (rounds_inputs(module) or compute_dtype(module, own) != own):
            return measure(model, *args, **options)
        with exact_layers(module):
            return measure(model, *args, **options)

    return cast(Measure, measured)


def _apply(layer: nn.Module, matrix: Callable[[], Tensor], given: Tensor) -> Tensor:
    bias = getattr(layer, "bias", None)
    if isinstance(bias, Tensor):
        bias = bias.to(given.dtype)
    return nn.functional.linear(given, matrix().to(given), bias)


def _unpack_own(layer: nn.Module, before: Any) -> Tensor:
    """Unpack a layer whose `forward` is another one for the time being."""
    replaced = layer.__dict__.pop("forward", None)
    if before is not None:
        layer.forward = before
    try:
        return _unpack(layer).detach()
    finally:
        layer.forward = replaced


_TOLD_EACH_TIME = re.compile(r"inputs will be cast from .* during quantization")


def prepare_layers(model: nn.Module) -> None:
    """Let layers of bitsandbytes compute in the type that their config names, without a word.

    On some CPUs they repack 4-bit weights in the first pass and compute in bfloat16 from then on;
    8-bit layers tell in each pass that they cast what they are given.

    Args:
        model: a model that has just been loaded.
    """
    for layer in quantized_layers(model):
        if hasattr(layer, "support_avx512bf16_for_cpu"):
            layer.support_avx512bf16_for_cpu = False  # type: ignore[assignment]
    log = logging.getLogger("bitsandbytes.autograd._functions")
    if _untold not in log.filters:
        log.addFilter(_untold)


def _untold(record: logging.LogRecord) -> bool:
    return _TOLD_EACH_TIME.search(str(record.msg)) is None
