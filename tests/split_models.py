"""Models split over two processes in every way, for `package.module:callable` and `wrap`.

They need an initialised process group; what is read from files lies in the folder SPLIT_MODELS.
"""

from __future__ import annotations

import os
from typing import Any

import registry
import torch
import transformers as tf
from torch import distributed, nn

TOKENS = torch.arange(3, 43).reshape(2, 20) % 29 + 3


def plain(kind: str = "llama") -> Any:
    """Return a whole model, the same in every process."""
    return registry.build(kind)


def _read(kind: str, **how: Any) -> Any:
    """Read from files, which the first process has written, as `how` says."""
    folder = f"{os.environ['SPLIT_MODELS']}/{kind}"
    if distributed.get_rank() == 0:
        plain(kind).save_pretrained(folder)
    distributed.barrier()
    return tf.AutoModelForCausalLM.from_pretrained(folder, dtype="float32", **how)


def tensor_parallel() -> Any:
    """Split by transformers' plan."""
    return _read("llama", tp_plan="auto")


def expert_parallel() -> Any:
    """Experts split by transformers' plan."""
    from transformers.distributed import DistributedConfig

    if "ep_size" in DistributedConfig.__dataclass_fields__:
        config = DistributedConfig(tp_size=2, ep_size=2)
        return _read("mixtral", distributed_config=config)
    return _read("mixtral", distributed_config=DistributedConfig(enable_expert_parallel=True))


def fully_sharded() -> Any:
    """Every layer and the rest split by FSDP 2."""
    from torch.distributed.fsdp import fully_shard

    model = plain()
    for layer in model.model.layers:
        fully_shard(layer)
    return fully_shard(model)


def one_layer_sharded() -> Any:
    """A single layer split by FSDP 2."""
    from torch.distributed.fsdp import fully_shard

    model = plain()
    fully_shard(model.model.layers[0])
    return model


def fsdp(**how: Any) -> Any:
    """Wrapped by FSDP 1."""
    from torch.distributed.fsdp import FullyShardedDataParallel

    return FullyShardedDataParallel(plain(), device_id=torch.device("cpu"), **how)


def inside_fsdp() -> Any:
    """The model out of its wrapper of FSDP 1, with the flat weights that this puts into it."""
    return fsdp().module


def inside_fsdp_with_parameters() -> Any:
    """The same with views of the flat weights for parameters."""
    return fsdp(use_orig_params=True).module


def parallelized() -> Any:
    """One projection split by torch's own tensor parallelism."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.tensor.parallel import ColwiseParallel, parallelize_module

    model = plain()
    mesh = init_device_mesh("cpu", (2,))
    parallelize_module(model.model.layers[0].mlp, mesh, {"up_proj": ColwiseParallel()})
    return model


class Summed(nn.Linear):
    """A projection of which each process has some columns: the sum over processes is the whole."""

    def forward(self, states: Any) -> Any:
        """Multiply, and add up."""
        states = super().forward(states)
        distributed.all_reduce(states)
        return states


def halves() -> Any:
    """Heads split as by DeepSpeed's or a user's own tensor parallelism: plain weights, and sums."""
    model, rank = plain(), distributed.get_rank()
    for layer in model.model.layers:
        attention = layer.self_attn
        for name in ("q_proj", "k_proj", "v_proj"):
            _cut(getattr(attention, name), 0, rank)
        _cut(attention.o_proj, 1, rank)
        attention.o_proj.__class__ = Summed
    return model


def _cut(linear: Any, axis: int, rank: int) -> None:
    linear.weight = nn.Parameter(linear.weight.detach().chunk(2, axis)[rank].clone())


def replicated() -> Any:
    """Wrapped by DistributedDataParallel."""
    return nn.parallel.DistributedDataParallel(plain())


SPLIT = (
    *("tensor_parallel", "expert_parallel", "fully_sharded", "one_layer_sharded", "fsdp"),
    *("inside_fsdp", "inside_fsdp_with_parameters", "parallelized", "halves"),
)
