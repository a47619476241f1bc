"""The transformers model inside what training puts around it."""

from __future__ import annotations

from typing import Any

from transformers import PreTrainedModel

from icl_bench.errors import ModelError, UnsupportedModel
from icl_bench.models.module.sharding import refuse_split

_CONTAINERS = ("DistributedDataParallel", "DataParallel", "DeepSpeedEngine", "DummyDDP")
"""Classes that hold the model as `module`."""
_SHOWN = 3


def find_module(model: Any) -> PreTrainedModel:
    """Return the transformers model that shares its weights with `model`.

    Taken off are torch.compile, DistributedDataParallel, DataParallel, DeepSpeed's engine, and
    PEFT's outer layers (adapters that sit in the model, such as LoRA, stay and are measured).

    Args:
        model: a model, or what training made of it.

    Raises:
        UnsupportedModel: no single process holds its weights, or PEFT adds tokens to each prompt.
        ModelError: there is no transformers model in it.
    """
    refuse_split(model)
    outer = type(model).__name__
    while True:
        names = {cls.__name__ for cls in type(model).__mro__}
        inner = getattr(model, "_orig_mod", None)
        if inner is None and names & set(_CONTAINERS):
            inner = model.module
        if inner is None and "PeftModel" in names:
            if getattr(model.active_peft_config, "is_prompt_learning", False):
                raise UnsupportedModel(
                    f"{outer}: its adapter puts tokens of its own before each prompt "
                    f"({type(model.active_peft_config).__name__}), and heads are read without them"
                )
            inner = model.get_base_model()
        if inner is None:
            break
        model = inner
    if not isinstance(model, PreTrainedModel):
        inside = isinstance(getattr(model, "model", None), PreTrainedModel)
        raise ModelError(
            "expected a transformers model (PreTrainedModel), or one wrapped for training, not "
            f"{outer}{': give its .model' if inside else ''}"
        )
    return model


def describe_adapters(model: Any) -> str | None:
    """Return which adapters of PEFT are active in a model, or None.

    Args:
        model: the transformers model, or a PeftModel around it.
    """
    found: dict[str, None] = {}
    for module in model.modules():
        if not hasattr(module, "base_layer") or not hasattr(module, "active_adapters"):
            continue
        if getattr(module, "disable_adapters", False):
            continue
        for name in module.active_adapters:
            rank = getattr(module, "r", {})
            size = f" of rank {rank[name]}" if isinstance(rank, dict) and name in rank else ""
            found[f"{name}: {_kind_of(module)}{size}"] = None
    told = list(found)[:_SHOWN]
    more = f" and {len(found) - _SHOWN} more" if len(found) > _SHOWN else ""
    return f"{'; '.join(told)}{more}, beside the weights" if found else None


def _kind_of(layer: Any) -> str:
    names = [cls.__name__ for cls in type(layer).__mro__ if cls.__name__.endswith("Layer")]
    return (names or [type(layer).__name__])[0].removesuffix("Layer").upper()
