"""What differs between model families, where it cannot be seen from the model itself.

Families that call transformers' attention interface are read and switched off there; in the
others `value_projection` finds the heads. Neither needs a row.
"""

from __future__ import annotations

import re

from torch import nn
from transformers import PreTrainedModel

NO_ATTENTION = {
    "mamba": "a state-space model",
    "mamba2": "a state-space model",
    "falcon_mamba": "a state-space model",
    "rwkv": "a linear-attention recurrent model",
    "xlstm": "a recurrent model",
}
"""Model types that have no attention heads at all, and what they are instead."""


_ATTENTION = re.compile(r"attn|attention", re.IGNORECASE)


def explain_no_heads(model: PreTrainedModel) -> str | None:
    """Say why a model has no attention heads; None where it may have some.

    Args:
        model: a transformers model.
    """
    config = model.config.get_text_config()
    kind = config.model_type
    if kind in NO_ATTENTION:
        return f"{kind} is {NO_ATTENTION[kind]}: it has no attention heads"
    called = any(_ATTENTION.search(type(module).__name__) for module in model.modules())
    if called or getattr(config, "num_attention_heads", None):
        return None
    return (
        f"{type(model).__name__} has no attention heads: no module of it is called attention, and "
        "its config names no heads"
    )


_OTHER_TOWER = re.compile(r"vision|visual|image|audio|speech", re.IGNORECASE)


def find_decoder_layers(model: nn.Module) -> nn.ModuleList | None:
    """Return the list of decoder layers of the text model, or None when it cannot be told.

    It is the outermost ModuleList with as many entries as the config has layers; of several, one
    outside the towers for pictures and sound.
    """
    config = getattr(model, "config", None)
    count = getattr(config.get_text_config(), "num_hidden_layers", None) if config else None
    lists = [
        (name, module)
        for name, module in model.named_modules()
        if isinstance(module, nn.ModuleList) and len(module)
    ]
    if count is None:
        return max((module for _, module in lists), key=len, default=None)
    fitting = [(name, module) for name, module in lists if len(module) == count]
    fitting.sort(key=lambda item: (bool(_OTHER_TOWER.search(item[0])), item[0].count(".")))
    return fitting[0][1] if fitting else None
