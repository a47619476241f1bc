"""A pass that starts at one layer with a residual stream of ours and is left inside that layer."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from icl_bench.errors import ModelError, NotMeasurable
from icl_bench.models.attention.forward_hooks import ForwardHooks
from icl_bench.models.attention.prefix import Stream, resume
from icl_bench.models.module.memory import ran_out_of_memory

if TYPE_CHECKING:
    from icl_bench.models.model import Model


class Left(Exception):
    """Nothing after this point of the layer is needed; raised by the pass, caught here."""


def enter_layer(model: Model, ids: Tensor, stream: Stream, hooks: ForwardHooks) -> None:
    """Run one layer, from its input to the point where `hooks` raises `Left`.

    Args:
        model: the model.
        ids: (rows, length), one row for each row of the stream.
        stream: what enters the layer.
        hooks: what the pass reads and changes.

    Raises:
        NotMeasurable: the model cannot be run from there on.
        ModelError: the layer ended without calling the attention function.
    """
    try:
        with resume(model.runner, stream, torch.arange(len(stream.residual))):
            model.run_pass(ids, hooks, logits=False)
    except Left:
        return
    except (RuntimeError, ValueError, LookupError, AttributeError, TypeError) as error:
        if ran_out_of_memory(error):
            raise
        raise NotMeasurable(
            f"the model cannot be run from layer {stream.layer} on: {type(error).__name__}: {error}"
        ) from None
    raise ModelError(f"layer {stream.layer} never called the attention function")


def require_partial_forward(model: Model, use: str = "replaced") -> None:
    """Raise NotMeasurable where queries, keys and values cannot be had, to be `use`."""
    model.require_heads()
    if model.path == "hooked":
        kind = model.model.config.model_type
        raise NotMeasurable(
            f"model type '{kind}' does not use transformers' attention interface: queries, keys "
            f"and values of its heads cannot be {use}"
        )
