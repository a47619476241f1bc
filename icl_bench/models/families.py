"""What differs between model families: one row a family, only where the general way fails.

Families that call transformers' attention interface need no row: their heads are found, read
and switched off there. The others need the place of a layer's attention module and the name of
its output projection, whose input is the heads' outputs side by side.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn


@dataclass(frozen=True)
class Family:
    """Where a family without the attention interface keeps its attention.

    Args:
        attention: path from a decoder layer to its attention module.
        projection: name of the output projection inside it.
    """

    attention: str
    projection: str


FAMILIES: dict[str, Family] = {
    "gptj": Family("attn", "out_proj"),
    "gpt_neo": Family("attn.attention", "out_proj"),
    "bloom": Family("self_attention", "dense"),
    "mpt": Family("attn", "out_proj"),
    "falcon": Family("self_attention", "dense"),
    "codegen": Family("attn", "out_proj"),
    "xglm": Family("self_attn", "out_proj"),
}

NO_ATTENTION = {
    "mamba": "a state-space model",
    "mamba2": "a state-space model",
    "falcon_mamba": "a state-space model",
    "rwkv": "a linear-attention recurrent model",
    "xlstm": "a recurrent model",
}
"""Model types that have no attention heads at all, and what they are instead."""


def find_decoder_layers(model: nn.Module) -> nn.ModuleList | None:
    """Return the list of decoder layers: the first as long as the config says, else the longest.

    A list of experts may be longer than that of the layers.
    """
    lists = [m for m in model.modules() if isinstance(m, nn.ModuleList) and len(m)]
    config = getattr(model, "config", None)
    count = getattr(config.get_text_config(), "num_hidden_layers", None) if config else None
    fits = [m for m in lists if len(m) == count]
    return fits[0] if fits else max(lists, key=len, default=None)


def find_projections(model: nn.Module, family: Family) -> dict[int, nn.Module]:
    """Return layer -> output projection of its attention, for the layers that have one."""
    found = {}
    for index, layer in enumerate(find_decoder_layers(model) or []):
        try:
            found[index] = layer.get_submodule(f"{family.attention}.{family.projection}")
        except AttributeError:
            continue
    return found
