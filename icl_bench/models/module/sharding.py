"""Models of which no single process holds all weights: recognised, and refused.

Each process would number its own heads from 0 and ablate one head in every process at once, and the
self-check cannot notice: the processes agree with each other.
"""

from __future__ import annotations

import copy
import re
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel

from icl_bench.errors import UnsupportedModel

_FSDP = {"FullyShardedDataParallel", "XlaFullyShardedDataParallel", "FSDPModule"}
_PIPELINE = {"PipelineIdentityLayer"}
_PARALLEL = {
    *("TensorParallel_Layer", "LinearAllreduce"),  # DeepSpeed
    *("ColumnParallelLinear", "RowParallelLinear", "VocabParallelEmbedding"),  # Megatron, fairscale
}
"""Classes of layers that hold all their weights where there is one process only."""
_GATHER = "gather them into a plain model"
_RELOAD = "load it without tp_plan or distributed_config"


def refuse_split(model: Any) -> None:
    """Raise UnsupportedModel when the weights of a model are split over processes.

    Nothing is run and no process waits for another. Copies, as DistributedDataParallel makes them,
    are no parts, and neither are the devices of one process that accelerate spreads a model over.

    Args:
        model: the model, or what training wrapped it in; anything that is no module passes.

    Raises:
        UnsupportedModel: tensor, expert or pipeline parallelism, FSDP, or DeepSpeed's ZeRO 3.
    """
    if not isinstance(model, nn.Module):
        return
    split = _find_modules(model) or _find_parameters(model) or _find_missing(model)
    if split is not None:
        how, advice, size = split
        processes = f"{size} processes" if size else "processes"
        raise UnsupportedModel(
            f"{type(model).__name__}: its weights are split over {processes} ({how}), and heads "
            f"are measured only where one process holds all of them; {advice}, or measure a saved "
            "checkpoint"
        )


_Found = tuple[str, str, int | None]
"""By what a model is split, what to do instead, and over how many processes."""


def _find_modules(model: nn.Module) -> _Found | None:
    size = _world_size()
    for module in model.modules():
        names = {cls.__name__ for cls in type(module).__mro__}
        shares = getattr(module, "_tp_size", None)
        if names & _FSDP:
            return "FSDP", _GATHER, None
        if names & _PIPELINE:
            return "pipeline parallelism", _RELOAD, None
        if getattr(module, "_is_expert_parallel", False):
            return "expert parallelism", _RELOAD, None
        if isinstance(module, PreTrainedModel) and isinstance(shares, int) and shares > 1:
            return "tensor parallelism", _RELOAD, shares
        if names & _PARALLEL and size > 1:
            return f"tensor parallelism, {type(module).__name__}", "load it whole", None
    return None


def _find_parameters(model: nn.Module) -> _Found | None:
    for name, parameter in model.named_parameters():
        kinds = {cls.__name__ for cls in type(parameter).__mro__}
        if "DTensor" in kinds:
            return f"{name} is a DTensor", _GATHER, parameter.device_mesh.size()  # type: ignore[attr-defined]
        if hasattr(parameter, "_is_flat_param") or hasattr(parameter, "_fsdp_flattened"):
            return f"FSDP, {name}", _GATHER, None
        if hasattr(parameter, "ds_id") and parameter.numel() == 0:
            return f"ZeRO 3, {name}", _GATHER, None
    return None


def _find_missing(model: nn.Module) -> _Found | None:
    """Whether a plain weight is a fraction of what the model's own config makes."""
    size = _world_size()
    inner = next(
        (module for module in model.modules() if isinstance(module, PreTrainedModel)), None
    )
    if size < 2 or inner is None:
        return None
    try:
        with torch.random.fork_rng(devices=[]), torch.device("meta"):
            whole = type(inner)(copy.deepcopy(inner.config))
    except Exception:  # a class that brings its own code may need more than a config
        return None
    expected = {name: tuple(weight.shape) for name, weight in whole.named_parameters()}
    for name, weight in inner.named_parameters():
        # PEFT puts a layer of its own around the one that the config knows.
        shape = expected.get(re.sub(r"\.base_layer\b", "", name))
        if shape is None or len(shape) != weight.ndim or not weight.is_floating_point():
            continue
        less = [(want, have) for want, have in zip(shape, weight.shape) if want != have]
        if len(less) == 1 and less[0][1] and less[0][0] % less[0][1] == 0:
            share = less[0][0] // less[0][1]
            if share > 1 and size % share == 0:
                return f"{name} is 1/{share} of what its config says", "load it whole", None
    return None


def _world_size() -> int:
    distributed = torch.distributed
    if not (distributed.is_available() and distributed.is_initialized()):
        return 1
    return distributed.get_world_size()
