"""What differs between model families, where it cannot be seen from the model itself.

Families that call transformers' attention interface are read and switched off there; in the
others `mixing` finds the heads. Neither needs a row.
"""

from __future__ import annotations

from torch import nn

NO_ATTENTION = {
    "mamba": "a state-space model",
    "mamba2": "a state-space model",
    "falcon_mamba": "a state-space model",
    "rwkv": "a linear-attention recurrent model",
    "xlstm": "a recurrent model",
}
"""Model types that have no attention heads at all, and what they are instead."""


def find_decoder_layers(model: nn.Module) -> nn.ModuleList | None:
    """Return the list of decoder layers: the longest ModuleList of layers of one class."""
    lists = [m for m in model.modules() if isinstance(m, nn.ModuleList) and len(m)]
    return max(lists, key=len, default=None)
