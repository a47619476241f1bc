"""Attention written out with whole matrices, put into transformers' own model files.

An independent way to every intervention: the model runs with its eager attention replaced by
`attend`, which a test edits: patterns given instead of computed, single scores removed, outputs
of single heads replaced.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor


@contextmanager
def written_out(
    model: Any,
    edit_scores: Callable[[int, Tensor], Tensor] = lambda layer, scores: scores,
    edit_pattern: Callable[[int, Tensor], Tensor] = lambda layer, pattern: pattern,
    edit_output: Callable[[int, Tensor], Tensor] = lambda layer, output: output,
) -> Iterator[None]:
    """Let a transformers model attend by whole matrices, edited by the given functions.

    Args:
        model: a model whose file has an `eager_attention_forward`.
        edit_scores: (layer, scores before the softmax, (batch, heads, length, length)).
        edit_pattern: (layer, probabilities), same shape.
        edit_output: (layer, head outputs (batch, length, heads, width)).
    """

    def attend(module, query, key, value, attention_mask, scaling=None, **kwargs):
        groups = query.shape[1] // key.shape[1]
        key, value = key.repeat_interleave(groups, 1), value.repeat_interleave(groups, 1)
        scale = query.shape[-1] ** -0.5 if scaling is None else scaling
        scores = query @ key.transpose(2, 3) * scale
        length = scores.shape[-1]
        if attention_mask is None:
            visible = torch.ones(length, length, dtype=torch.bool).tril()
            scores = scores.masked_fill(~visible, float("-inf"))
        else:
            scores = scores + attention_mask[..., :length]
        layer = module.layer_idx
        pattern = edit_pattern(layer, edit_scores(layer, scores).softmax(-1))
        return edit_output(layer, (pattern @ value).transpose(1, 2)), pattern

    file = sys.modules[type(model).__module__]
    own, before = file.eager_attention_forward, model.config._attn_implementation
    file.eager_attention_forward = attend
    model.config._attn_implementation = "eager"
    try:
        with torch.no_grad():
            yield
    finally:
        file.eager_attention_forward = own
        model.config._attn_implementation = before


def losses(model: Any, ids: Tensor) -> Tensor:
    """Return the losses of every token but the first, (batch, length - 1)."""
    logits = model(ids, use_cache=False).logits[:, :-1].float()
    return torch.nn.functional.cross_entropy(logits.transpose(1, 2), ids[:, 1:], reduction="none")
