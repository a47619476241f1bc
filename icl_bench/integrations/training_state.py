"""A module in training, measured as plain weights and put back exactly as it was."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedModel

from icl_bench.errors import ModelError

_SMALL = 1 << 20
"""Elements of a buffer up to which a copy of it is kept."""
_HALF = (torch.float16, torch.bfloat16)


@contextmanager
def left_as_it_was(model: PreTrainedModel) -> Iterator[None]:
    """Take off what training put on a model, and put everything back at the end.

    Inside, the model runs in the precision of its weights: outside autocast, without TF32, without
    accelerate's wrapper around `forward`, uncompiled. FlashAttention, which takes half precision
    only, gives way to torch's attention where weights are in full precision.

    Afterwards every attribute of every module and config, every buffer, and the state of the
    random generators of Python, numpy and torch (of the devices that the model is on) are what they
    were, whatever happened, and so are hooks. Weights and gradients are not touched.

    Args:
        model: the model, in whatever mode.

    Raises:
        ModelError: the model wrote into a large buffer of its own.
    """
    with ExitStack() as stack:
        stack.enter_context(_same_random_state(model))
        stack.enter_context(_same_attributes(model))
        stack.enter_context(_exact_products())
        for device in {"cpu", *(parameter.device.type for parameter in model.parameters())}:
            if torch.amp.is_autocast_available(device):
                stack.enter_context(torch.autocast(device, enabled=False))
        _take_off(model)
        yield


def _take_off(model: PreTrainedModel) -> None:
    """Undo torch.compile, accelerate's autocast and FlashAttention, by attributes alone."""
    for module in model.modules():
        vars(module).pop("_compiled_call_impl", None)
    attributes = vars(model)
    if "_original_forward" in attributes:
        original = attributes["_original_forward"]
        attributes.pop("forward", None)
        if not _is_wrapped(type(model).forward, original):
            attributes["forward"] = original
    if model.dtype not in _HALF:
        replacement = "sdpa" if getattr(model, "_supports_sdpa", False) else "eager"
        for config in _configs(model):
            if "flash" in str(getattr(config, "_attn_implementation_internal", None)):
                config._attn_implementation_internal = replacement


def _is_wrapped(forward: Any, call: Any) -> bool:
    """Whether a call comes to `forward`: accelerate wraps anew each time a Trainer is made."""
    call = getattr(call, "__func__", call)
    while call is not forward and hasattr(call, "__wrapped__"):
        call = getattr(call.__wrapped__, "__func__", call.__wrapped__)
    return call is forward


@contextmanager
def _same_random_state(model: PreTrainedModel) -> Iterator[None]:
    python, legacy = random.getstate(), np.random.get_state()
    accelerators: list[tuple[Any, Tensor, tuple[Any, ...]]] = []
    for device in {p.device for p in model.parameters()}:
        library: Any = getattr(torch, device.type, None)
        where: tuple[Any, ...]
        if device.type not in ("cpu", "meta") and hasattr(library, "get_rng_state"):
            where = () if device.type == "mps" else (device,)  # of those there is one
            accelerators.append((library, library.get_rng_state(*where), where))
    state = torch.get_rng_state()
    try:
        yield
    finally:
        torch.set_rng_state(state)
        for library, kept, where in accelerators:
            library.set_rng_state(kept, *where)
        random.setstate(python)
        np.random.set_state(legacy)


@contextmanager
def _exact_products() -> Iterator[None]:
    """Products of float32 matrices in float32; training may have allowed TF32 or bfloat16."""
    backends: Any = torch.backends
    with ExitStack() as stack:
        if hasattr(backends, "fp32_precision"):
            # The older function fails where somebody has used this newer way.
            for products in (backends.cuda.matmul, backends.mkldnn.matmul):
                stack.callback(setattr, products, "fp32_precision", products.fp32_precision)
                products.fp32_precision = "ieee"
        else:
            before = torch.get_float32_matmul_precision()
            stack.callback(torch.set_float32_matmul_precision, before)
            torch.set_float32_matmul_precision("highest")
        yield


@contextmanager
def _same_attributes(model: PreTrainedModel) -> Iterator[None]:
    kept = [_Attributes(owner) for owner in [*model.modules(), *_configs(model)]]
    buffers = [
        _Values(f"{type(module).__name__}.{name}", buffer)
        for module in model.modules()
        for name, buffer in module.named_buffers(recurse=False)
    ]
    try:
        yield
    finally:
        for attributes in kept:
            attributes.put_back()
        for values in buffers:
            values.put_back()


class _Attributes:
    """The attributes of a module or config, and what its tables of hooks and buffers hold.

    Transformers leaves hooks behind where attention matrices were asked for, and rotary
    frequencies are replaced when the length of what is read changes.
    """

    def __init__(self, owner: Any) -> None:
        self._tables = [(vars(owner), dict(vars(owner)))]
        self._tables += [
            (value, dict(value))
            for name, value in vars(owner).items()
            if name.startswith("_") and isinstance(value, dict)
        ]

    def put_back(self) -> None:
        for table, before in self._tables:
            if table.keys() != before.keys() or any(
                table[name] is not value for name, value in before.items()
            ):
                table.clear()
                table.update(before)


class _Values:
    """The values of one buffer; a copy is kept of small ones only."""

    def __init__(self, name: str, buffer: Tensor) -> None:
        self._name, self._buffer, self._version = name, buffer, _version(buffer)
        small = buffer.numel() <= _SMALL and not buffer.is_meta
        self._copy = buffer.detach().clone() if small else None

    def put_back(self) -> None:
        if _version(self._buffer) == self._version:
            return
        if self._copy is None:
            raise ModelError(
                f"the model wrote into its buffer {self._name} while it was measured, and it "
                "cannot be put back"
            )
        with torch.no_grad():
            self._buffer.copy_(self._copy)


def _version(tensor: Tensor) -> int:
    return 0 if tensor.is_inference() else tensor._version


def _configs(model: PreTrainedModel) -> list[Any]:
    """The model's config, those of its parts, and those inside it, each once."""
    configs: dict[int, Any] = {}
    waiting = [config for module in model.modules() if (config := getattr(module, "config", None))]
    while waiting:
        config = waiting.pop()
        if id(config) in configs or not hasattr(config, "to_dict"):
            continue
        configs[id(config)] = config
        waiting.extend(value for value in vars(config).values() if hasattr(value, "to_dict"))
    return list(configs.values())
