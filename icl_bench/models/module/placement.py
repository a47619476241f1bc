"""Where the weights of a model are: on one device, spread over several, or off the devices.

A model that does not fit one device is loaded with transformers' `device_map`: accelerate then
wraps the modules' `forward`, and what lies in memory or on disk is a `meta` tensor between calls.
"""

from __future__ import annotations

import shutil
import tempfile
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from icl_bench.errors import ModelError

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn
    from transformers import PreTrainedModel


@contextmanager
def split_options() -> Iterator[dict[str, Any]]:
    """Give the arguments of `from_pretrained` that spread a model over all devices there are.

    The folder is for weights on disk that the checkpoint does not hold as the model does; most
    are read from the checkpoint itself. It is deleted when loading fails.
    """
    folder = tempfile.mkdtemp(prefix="icl_bench-offload-")
    try:
        yield {"device_map": "auto", "offload_folder": folder}
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise


def keep_offloaded(model: PreTrainedModel, options: dict[str, Any]) -> None:
    """Delete the folder of a spread model's weights when the model goes, and not before.

    Args:
        model: the model that was loaded.
        options: the arguments that it was loaded with, from `split_options`.
    """
    weakref.finalize(model, shutil.rmtree, options["offload_folder"], ignore_errors=True)


def is_spread(model: nn.Module) -> bool:
    """Whether accelerate moves weights or activations of the model; it must not be moved then.

    Args:
        model: a loaded model.
    """
    return any(hasattr(module, "_hf_hook") for module in model.modules())


def input_device(model: PreTrainedModel) -> torch.device:
    """Return where token ids have to be, also when the embedding is not on a device itself.

    Args:
        model: a loaded model.
    """
    import torch

    embedding = model.get_input_embeddings()
    weight: Any = embedding.weight
    if weight.is_meta:
        for hook in _hooks(embedding):
            if getattr(hook, "execution_device", None) is not None:
                return torch.device(hook.execution_device)
    device: torch.device = weight.device
    return device


def describe_placement(model: PreTrainedModel) -> str:
    """Return the device of a model, or all places that its weights are spread over.

    Args:
        model: a loaded model.
    """
    if not is_spread(model):
        return str(input_device(model))
    devices = (getattr(model, "hf_device_map", None) or {}).values()
    named = {f"cuda:{device}" if isinstance(device, int) else str(device) for device in devices}
    return "split: " + ", ".join(sorted(named or {str(input_device(model))}))


def count_parameters(model: PreTrainedModel) -> int:
    """Return the number of parameters, shared ones counted once.

    Quantized weights count as many as they stand for, and their scales as none; nor do adapters
    beside the weights that they change.

    Args:
        model: a loaded model.
    """
    from icl_bench.models.module.quantization import count_weights

    total, seen = 0, {id(parameter) for parameter in _of_adapters(model)}
    for module in model.modules():
        logical = count_weights(module)
        own = dict(module.named_parameters(recurse=False))
        if logical is not None:
            total += logical
            seen |= {id(parameter) for parameter in own.values()}
        for parameter in own.values():
            if id(parameter) not in seen:
                seen.add(id(parameter))
                total += parameter.numel()
    first, last = model.get_input_embeddings(), model.get_output_embeddings()
    # Taken off the device after a pass, two tied weights are two tensors without values.
    if _is_tied(model) and last.weight.is_meta and last.weight is not first.weight:
        total -= last.weight.numel()
    return total


def _of_adapters(model: nn.Module) -> Iterator[Tensor]:
    """Parameters that would be gone if peft's adapters were merged."""
    for module in model.modules():
        base = getattr(module, "base_layer", None)
        replaced = getattr(module, "original_module", None)
        if replaced is not None:
            yield from replaced.parameters()
        elif base is not None:
            kept = {id(parameter) for parameter in base.parameters()}
            yield from (one for one in module.parameters() if id(one) not in kept)


def check_spread(model: PreTrainedModel) -> None:
    """Check that accelerate can run the model where it has put its weights.

    Args:
        model: a model that is spread.

    Raises:
        ModelError: its tied embedding is on disk, where transformers 4 mixes weights up.
    """
    import transformers

    if int(transformers.__version__.split(".")[0]) >= 5 or not _is_tied(model):
        return
    embedding = model.get_input_embeddings()
    name = next(name for name, module in model.named_modules() if module is embedding)
    devices = getattr(model, "hf_device_map", None) or {}
    keys = [key for key, device in devices.items() if device == "disk"]
    if any(not key or f"{name}.".startswith(f"{key}.") for key in keys):
        raise ModelError(
            "its tied embedding does not fit in memory and would be read from disk, which needs "
            "transformers 5"
        )


def stored_tensors(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Yield name and values of every tensor of the state dict, those off the devices too.

    Args:
        model: a loaded model.
    """
    import torch

    for name, tensor in sorted(model.state_dict().items()):
        if isinstance(tensor, torch.Tensor):
            yield from _held(name, fetch_values(model, name, tensor))


def _held(name: str, tensor: Tensor) -> Iterator[tuple[str, Tensor]]:
    """The tensors that one of another class is made of."""
    if not hasattr(tensor, "__tensor_flatten__"):
        yield name, tensor
        return
    for inner in tensor.__tensor_flatten__()[0]:
        yield from _held(f"{name}.{inner}", getattr(tensor, inner))


def fetch_values(model: nn.Module, name: str, tensor: Tensor) -> Tensor:
    """Return a tensor's values, from where accelerate keeps them when it has none itself.

    Args:
        model: the model that it belongs to.
        name: its name in the model, e.g. `model.norm.weight`.
        tensor: the parameter or buffer.
    """
    if not tensor.is_meta:
        return tensor
    owner, _, own_name = name.rpartition(".")
    for hook in _hooks(model.get_submodule(owner)):
        kept = getattr(hook, "weights_map", None)
        if kept is not None:
            values: Tensor = kept[own_name]
            # Read from a file, in the type of the file; the hook converts it on its way in.
            return values.to(tensor.dtype)
    return tensor


def _is_tied(model: PreTrainedModel) -> bool:
    tied = getattr(model.config.get_text_config(), "tie_word_embeddings", False)
    return bool(tied) and model.get_output_embeddings() is not None


def _hooks(module: nn.Module) -> tuple[Any, ...]:
    hook = getattr(module, "_hf_hook", None)
    return tuple(getattr(hook, "hooks", (hook,)))
