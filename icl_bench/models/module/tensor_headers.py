"""What the names, types and shapes in a checkpoint's headers give away, before it is opened."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from icl_bench.errors import SpecError
from icl_bench.models.module.leftovers import (
    ADAPTER,
    LAYER,
    LOST_CONFIG,
    QUANTIZED,
    count_names,
    explain_leftovers,
)
from icl_bench.models.module.quantized_files import find_quantization

_PACKED = frozenset({"U8", "I8", "U16", "I16", "U32", "I32", "F4"})
"""Safetensors' types that no weight of a layer has unless it is packed."""


def check_headers(tensors: Mapping[str, Mapping[str, Any]], config: Mapping[str, Any]) -> None:
    """Refuse weights that are empty, packed, or that the config leaves no place for.

    Args:
        tensors: name -> entry of a safetensors header (`dtype`, `shape`).
        config: the parsed config.json.

    Raises:
        SpecError: the model would be another one, or could not be loaded.
    """
    empty = [
        name
        for name, entry in tensors.items()
        if 0 in (entry.get("shape") or ()) and name.endswith((".weight", ".bias"))
    ]
    if empty:
        raise SpecError(
            f"{count_names(sorted(empty))} hold no values: they were saved without being gathered "
            "from DeepSpeed's ZeRO 3; set stage3_gather_16bit_weights_on_model_save, or merge the "
            "training state with zero_to_fp32.py"
        )
    if find_quantization(config) is None:
        packed = [
            name
            for name, entry in tensors.items()
            if entry.get("dtype") in _PACKED and name.endswith(".weight")
        ]
        if packed:
            raise SpecError(
                f"{count_names(sorted(packed))} are packed integers of a quantized checkpoint, and "
                "config.json has no quantization_config; copy it from the original checkpoint"
            )
        if scales := sorted(name for name in tensors if QUANTIZED.search(name)):
            types = {str(entry.get("dtype")) for entry in tensors.values()}
            if types & _PACKED or any(kind.startswith("F8") for kind in types):
                raise SpecError(
                    f"the checkpoint holds {count_names(scales)} that the model does not use; "
                    f"{LOST_CONFIG}"
                )
    unused = [name for name in tensors if ADAPTER.search(name)] or _past_the_last(tensors, config)
    if reason := explain_leftovers(unused):
        raise SpecError(reason)


def _past_the_last(tensors: Mapping[str, Any], config: Mapping[str, Any]) -> list[str]:
    """Names of layers that the config does not count, where it counts them in the usual way."""
    count = config.get("num_hidden_layers", config.get("n_layer"))
    more = [config.get(name) or 0 for name in config if "nextn" in name or "mtp" in name]
    if not isinstance(count, int) or "text_config" in config or any(more):
        return []
    found = ((name, LAYER.match(name)) for name in tensors)
    return [name for name, layer in found if layer and int(layer[4]) >= count]
