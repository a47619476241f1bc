"""Parts of hand-set models: an empty reference model, and heads that are written into it.

The residual stream is that of `icl_bench.reference.handwired` (token, position, previous token,
output, flags) with two more flags at its end. A head is written by what it does; a head that
nothing is written into attends evenly and writes nothing. All models here expect `<bos>` in front:
it has no code, so that a head that rests on it writes nothing.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from icl_bench.reference import handwired as hw
from icl_bench.reference.architecture import IclReferenceForCausalLM
from icl_bench.reference.configuration import IclReferenceConfig
from icl_bench.reference.words import WORDS

CODE, SINK = hw._CODE, hw._SINK
TOKEN, PREVIOUS, OUTPUT = hw._TOKEN_SLOT, hw._PREVIOUS_SLOT, hw._OUTPUT_SLOT
ONE, FIRST = hw._ONE, hw._FIRST
COPIED, BOS = hw._HIDDEN, hw._HIDDEN + 1
"""Flags: an induction head has copied here; the token here is `<bos>`."""
_HIDDEN = hw._HIDDEN + 2
REST = 0.59
"""Score of the first position between those of a match (1) and of any mismatch (at most .18)."""


def blank(heads: int = 4, layers: int = 2, gain: float = hw.GAIN) -> IclReferenceForCausalLM:
    """Return a model whose heads do nothing: every logit is 0.

    Args:
        heads: heads per layer.
        layers: layers.
        gain: logit per unit of code written to the output slot.
    """
    config = IclReferenceConfig(
        vocab_size=len(WORDS),
        hidden_size=_HIDDEN,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        head_dim=hw._HEAD_DIM,
        max_position_embeddings=hw.CONTEXT,
        normalize=False,
    )
    with torch.random.fork_rng(devices=[]):
        model = IclReferenceForCausalLM(config)
    for parameter in model.parameters():
        parameter.data.zero_()
    with torch.no_grad():
        hw._write_embeddings(model, shift=1)
        model.lm_head.weight *= gain / hw.GAIN
        model.model.embed_tokens.weight[0, BOS] = 1
    return model.eval()


class Head:
    """The weights of one head, as views that can be written to.

    Args:
        attention: the attention layer.
        index: the head's number in it.
    """

    def __init__(self, attention: Any, index: int) -> None:
        rows = slice(index * attention.head_dim, (index + 1) * attention.head_dim)
        self.query: Tensor = attention.q_proj.weight.data[rows]
        self.key: Tensor = attention.k_proj.weight.data[rows]
        self.value: Tensor = attention.v_proj.weight.data[rows]
        out = attention.o_proj if hasattr(attention, "o_proj") else attention.out_proj
        self.output: Tensor = out.weight.data[:, rows]
        self.scale = hw.SHARPNESS / attention.scaling

    def rest_on_first(self, score: float) -> None:
        """Give the first position a score of its own; a perfect match has 1."""
        self.query[SINK, ONE] = self.scale
        self.key[SINK, FIRST] = score

    def copy(self, slot: slice, amount: float = 1.0) -> None:
        """Write the code of the attended token to a slot of the stream."""
        self.value[:CODE, TOKEN] = torch.eye(CODE)
        self.output[slot, :CODE] = amount * torch.eye(CODE)


def head_of(model: IclReferenceForCausalLM, layer: int, index: int) -> Head:
    """Return a head of a reference model, to be written to."""
    return Head(model.model.layers[layer].self_attn, index)


def add_previous_token(
    model: IclReferenceForCausalLM,
    index: int = 0,
    *,
    distance: int = 1,
    attention: float | None = None,
    write: float = 1.0,
) -> None:
    """Let a head of layer 0 attend to the token before and note it, for later layers to match with.

    Args:
        model: the model.
        index: the head's number.
        distance: how many places back the head looks.
        attention: what that place gets, the rest staying on the first position; None for all.
        write: how much of the code it writes.
    """
    head = head_of(model, 0, index)
    _look_back(head, distance)
    if attention is not None:
        head.key[: hw._POSITION, FIRST] = -hw._position_codes()[0]
        head.rest_on_first(_share_with_first(attention))
    head.copy(PREVIOUS, write)


def add_positional(
    model: IclReferenceForCausalLM, period: int, index: int = 1, write: float = 1.0
) -> None:
    """Let a head attend `period` - 1 places back, whatever stands there, and copy it.

    Args:
        model: the model.
        period: at this period the head finds the token that comes next.
        index: the head's number in layer 1.
        write: how much of the code it writes.
    """
    head = head_of(model, 1, index)
    _look_back(head, period - 1)
    head.key[: hw._POSITION, FIRST] = -hw._position_codes()[0]
    head.rest_on_first(0.75)
    head.copy(OUTPUT, write)


def _share_with_first(attention: float) -> float:
    """Return the score of the first position that leaves this much attention to one match."""
    return 1 + math.log((1 - attention) / attention) / hw.SHARPNESS


def _look_back(head: Head, distance: int) -> None:
    head.query[: hw._POSITION, hw._POSITION_SLOT] = head.scale / 2 * hw._look_back(distance)
    head.key[: hw._POSITION, hw._POSITION_SLOT] = torch.eye(hw._POSITION)


def add_induction(
    model: IclReferenceForCausalLM,
    layer: int = 1,
    index: int = 0,
    *,
    attention: float | None = None,
    write: float = 1.0,
) -> Head:
    """Let a head match the current token with what came before others, and copy what it finds.

    Args:
        model: the model; `add_previous_token` or something like it has to come before.
        layer: the head's layer.
        index: its number there.
        attention: what one match gets, the rest staying on the first position; None for all.
        write: how much of the code it writes; below 0 it speaks against the token.
    """
    head = head_of(model, layer, index)
    head.query[:CODE, TOKEN] = head.scale * torch.eye(CODE)
    head.key[:CODE, PREVIOUS] = torch.eye(CODE)
    head.rest_on_first(REST if attention is None else _share_with_first(attention))
    head.copy(OUTPUT, write)
    return head


def add_duplicate_token(model: IclReferenceForCausalLM, write: float, index: int = 0) -> None:
    """Let a head of layer 1 attend to the current token's occurrences, this one included.

    Args:
        model: the model.
        write: how much of that token's code it writes.
        index: the head's number.
    """
    head = head_of(model, 1, index)
    head.query[:CODE, TOKEN] = head.scale * torch.eye(CODE)
    head.key[:CODE, TOKEN] = torch.eye(CODE)
    head.rest_on_first(REST)
    head.copy(OUTPUT, write)


def textbook(heads: int = 4, layers: int = 2, gain: float = hw.GAIN) -> IclReferenceForCausalLM:
    """Return a model with the textbook circuit: heads (0, 0) and (1, 0), and nothing else.

    Args:
        heads: heads per layer.
        layers: layers; those after the second do nothing.
        gain: logit per unit of code.
    """
    model = blank(heads, layers, gain)
    add_previous_token(model)
    add_induction(model)
    return model
