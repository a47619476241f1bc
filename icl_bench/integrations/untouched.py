"""A module in training, measured as plain weights and put back exactly as it was."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from icl_bench.errors import ModelError

_SMALL = 1 << 20
"""Elements of a buffer up to which a copy of it is kept."""
_HALF = (torch.float16, torch.bfloat16)


@contextmanager
def left_as_it_was(model: PreTrainedModel) -> Iterator[None]:
    """Take off what training put on a model, and put everything back at the end.

    Inside, the model runs in the precision of its weights: outside autocast, without accelerate's
    wrapper around `forward`, uncompiled. FlashAttention, which takes half precision only, gives
    way to torch's attention where weights are in full precision. Afterwards every attribute of
    every module and config, every buffer, and the state of the random generators of Python,
    numpy and torch (of the devices that the model is on) are what they were, whatever happened.
    Weights, gradients and hooks are not touched.

    Args:
        model: the model, in whatever mode.

    Raises:
        ModelError: the model wrote into a large buffer of its own.
    """
    with ExitStack() as stack:
        stack.enter_context(_same_random_state(model))
        stack.enter_context(_same_attributes(model))
        for device in {"cpu", *(parameter.device.type for parameter in model.parameters())}:
            if torch.amp.is_autocast_available(device):
                stack.enter_context(torch.autocast(device, enabled=False))
        _take_off(model)
        yield


def _take_off(model: PreTrainedModel) -> None:
    """Undo torch.compile, accelerate's autocast and FlashAttention, by attributes alone."""
    for module in model.modules():
        vars(module).pop("_compiled_call_impl", None)
    wrapped = vars(model)
    if "_original_forward" in wrapped:
        # Kept by accelerate: the class's own method, or what stood in its place before.
        original = wrapped["_original_forward"]
        wrapped.pop("forward", None)
        if getattr(original, "__func__", None) is not type(model).forward:
            wrapped["forward"] = original
    if model.dtype not in _HALF:
        replacement = "sdpa" if getattr(model, "_supports_sdpa", False) else "eager"
        for config in _configs(model):
            if "flash" in str(getattr(config, "_attn_implementation_internal", None)):
                config._attn_implementation_internal = replacement


@contextmanager
def _same_random_state(model: PreTrainedModel) -> Iterator[None]:
    python, legacy = random.getstate(), np.random.get_state()
    accelerators = []
    for device in {p.device for p in model.parameters()}:
        library = getattr(torch, device.type, None)
        if device.type not in ("cpu", "meta") and hasattr(library, "get_rng_state"):
            one = () if device.type == "mps" else (device,)  # of those there is one
            accelerators.append((library, library.get_rng_state(*one), one))
    state = torch.get_rng_state()
    try:
        yield
    finally:
        torch.set_rng_state(state)
        for library, kept, one in accelerators:
            library.set_rng_state(kept, *one)
        random.setstate(python)
        np.random.set_state(legacy)


@contextmanager
def _same_attributes(model: PreTrainedModel) -> Iterator[None]:
    objects: list[Any] = [*model.modules(), *_configs(model)]
    before = [dict(vars(one)) for one in objects]
    buffers = [_Buffers(module) for module in model.modules()]
    try:
        yield
    finally:
        for one, attributes in zip(objects, before):
            now = vars(one)
            if now.keys() != attributes.keys() or any(
                now[name] is not value for name, value in attributes.items()
            ):
                now.clear()
                now.update(attributes)
        for kept in buffers:
            kept.put_back()


class _Buffers:
    """The buffers of one module: rotary frequencies follow the length of what was last read."""

    def __init__(self, module: nn.Module) -> None:
        self._module = module
        self._before = dict(module._buffers)
        self._versions = {name: _version(tensor) for name, tensor in self._before.items()}
        self._copies = {
            name: tensor.detach().clone()
            for name, tensor in self._before.items()
            if tensor is not None and tensor.numel() <= _SMALL and not tensor.is_meta
        }

    def put_back(self) -> None:
        buffers = self._module._buffers
        if buffers.keys() != self._before.keys() or any(
            buffers[name] is not tensor for name, tensor in self._before.items()
        ):
            buffers.clear()
            buffers.update(self._before)
        for name, tensor in self._before.items():
            if tensor is None or _version(tensor) == self._versions[name]:
                continue
            if name not in self._copies:
                raise ModelError(
                    f"{type(self._module).__name__} wrote into its buffer {name!r} while it was "
                    "measured; it cannot be put back"
                )
            with torch.no_grad():
                tensor.copy_(self._copies[name])


def _version(tensor: Tensor | None) -> int:
    return 0 if tensor is None or tensor.is_inference() else tensor._version


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
