"""Spec -> transformers model and tokenizer, loaded, checked and ready to run.

Torch and transformers are imported when a model is loaded, not with this module, so that the
settings can be checked without them.
"""

from __future__ import annotations

import importlib.util
import re
from typing import TYPE_CHECKING, Any

from icl_bench.errors import IclError, ModelError, SettingsError, UnsupportedModel
from icl_bench.models.module.config_file import CAUSAL_ENDINGS
from icl_bench.models.module.placement import check_spread, is_spread
from icl_bench.models.module.weights import check_finite, explain_failure
from icl_bench.models.sources.checking import check_one
from icl_bench.models.sources.source import Found, LoadedParts, Opening
from icl_bench.models.sources.spec import ModelSpec
from icl_bench.models.sources.table import get_source
from icl_bench.options import SPLIT, RunOptions

if TYPE_CHECKING:
    import torch

DTYPES = ("auto", "float32", "bfloat16", "float16")
_DEVICE = re.compile(r"auto|split|cpu|mps|cuda(:\d+)?")


def check_device(text: str) -> None:
    """Raise SettingsError when `text` names no device, or one that this machine has not.

    Torch is imported only where an accelerator is asked for by name.

    Args:
        text: auto, split, cpu, cuda, cuda:N or mps.
    """
    if not _DEVICE.fullmatch(text):
        raise SettingsError(f"unknown device {text!r}; use auto, split, cpu, cuda, cuda:N or mps")
    if text == SPLIT:
        if importlib.util.find_spec("accelerate") is None:
            raise SettingsError(f"device {text!r} needs accelerate: pip install accelerate")
    elif text not in ("auto", "cpu"):
        _find_device(text)


def check_dtype(text: str) -> None:
    """Raise SettingsError when `text` names no data type that models can be loaded in.

    Args:
        text: auto, float32, bfloat16 or float16.
    """
    if text not in DTYPES:
        raise SettingsError(f"unknown dtype {text!r}; use {', '.join(DTYPES[:-1])} or {DTYPES[-1]}")


def load_parts(spec: ModelSpec, *, found: Found | None = None, **options: Any) -> LoadedParts:
    """Load what a spec names.

    Args:
        spec: a parsed spec.
        found: what checking it returned; None to check it.
        options: fields of `RunOptions`.

    Raises:
        SettingsError: device or dtype is unknown, or the device is not there.
        SpecError: what the spec names is missing, broken or not a model.
        ModelError: it cannot be loaded, or its weights are incomplete or not finite.
        UnsupportedModel: it is no causal language model that transformers knows, or its weights
            are split over processes.
    """
    chosen = RunOptions(**options)
    check_device(chosen.device)
    check_dtype(chosen.dtype)
    target = _find_device(chosen.device)
    dtype = _find_dtype(chosen.dtype, target)
    if found is None:
        found = check_one(spec, allow_pickle=chosen.allow_pickle)
    try:
        parts = get_source(spec.kind).open(spec, Opening(chosen, found, dtype))
        from icl_bench.models.module.quantization import prepare_layers
        from icl_bench.models.module.sharding import refuse_split

        refuse_split(parts.model)
        _check_kind(parts.model)
        prepare_layers(parts.model)
        _place(parts.model, target, dtype)
        check_finite(parts.model)
    except IclError as error:
        raise type(error)(f"model {spec.text!r}: {error}") from error.__cause__
    parts.settle_tokenizer()
    return parts


def _find_device(text: str) -> torch.device:
    import torch

    if text in ("auto", SPLIT):
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    device = torch.device(text)
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        count = torch.cuda.device_count()
        raise SettingsError(
            f"device {text!r} is not there: torch sees {count} CUDA devices; use cpu"
        )
    if device.type == "mps" and not torch.backends.mps.is_available():
        raise SettingsError(f"device {text!r} is not there; use cpu")
    return device


def _find_dtype(text: str, device: torch.device) -> torch.dtype | None:
    """Return the data type to load in; None for the model's own."""
    import torch

    if text == "auto":
        return torch.float32 if device.type == "cpu" else None
    return {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}[text]


def _check_kind(model: Any) -> None:
    name = type(model).__name__
    if getattr(model.config, "is_encoder_decoder", False) and not name.endswith(CAUSAL_ENDINGS):
        raise UnsupportedModel(f"{name} is not a causal language model")
    if model.get_output_embeddings() is None and model.base_model is model:
        raise UnsupportedModel(f"{name} has no language-modelling head")


def _place(model: Any, device: torch.device, dtype: torch.dtype | None) -> None:
    """Move a model; rotary frequencies and their like keep their precision."""
    if is_spread(model):
        check_spread(model)
        model.eval()
        return
    from icl_bench.models.module.quantization import quantized_layers

    kept = [
        (module, name, module._buffers[name])
        for module in model.modules()
        for name in module._non_persistent_buffers_set
    ]
    try:
        # Quantized weights got their type when they were loaded.
        plain = not quantized_layers(model)
        if (
            plain
            and dtype is not None
            and any(p.dtype != dtype for p in model.parameters() if p.is_floating_point())
        ):
            model.to(dtype)
            for module, name, buffer in kept:
                module._buffers[name] = buffer
        model.to(device)
    except (RuntimeError, ValueError, NotImplementedError) as error:
        raise ModelError(f"it cannot be moved to {device}: {explain_failure(error)}") from error
    model.eval()
