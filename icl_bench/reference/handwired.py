"""A model whose weights are written down, not trained, so that every answer is known.

The residual stream is cut into slots:

    token      code of the token at this position            (62 wide, unit length)
    position   where we are: position mod 23 and mod 24       (47 wide, one-hot each)
    previous   written by head (0, 0): code of the token `shift` places back
    output     written by head (1, 0): what to say next; the only slot the unembedding reads
    flags      constant 1, "first position", "too early to have a previous token"

Head (0, 0) moves the position code on by `shift` on the query side, and so attends to exactly
one position. Head (1, 0) looks for a position whose previous token is the current token and
copies the token found there. It reads `previous - token` as key and `token - previous` as value.
The subtraction does one thing: at the first position, where head (0, 0) can only see that very
position, both slots hold the same code and cancel, so that whatever token stands there, with or
without `<bos>`, the first position is an empty place. Its flag makes it a sink: attended when
nothing matches, writing nothing. Then all logits are 0 and the loss is exactly ln(vocabulary).
"""

from __future__ import annotations

import math

import torch

from icl_bench.errors import SettingsError
from icl_bench.reference.architecture import IclReferenceForCausalLM
from icl_bench.reference.configuration import IclReferenceConfig
from icl_bench.reference.words import SPECIALS, WORDS

LAYERS, HEADS, CONTEXT = 2, 24, 512
MAX_SHIFT = 9

_PRIME = 31
_CODE = 2 * _PRIME
_RINGS = (23, 24)  # coprime, and 23 * 24 = 552 positions: more than the context
_POSITION = sum(_RINGS)
_HEAD_DIM = 64  # one code, one number for the sink, one to spare; 64 ** -0.5 is exact

_TOKEN_SLOT = slice(0, _CODE)
_POSITION_SLOT = slice(_CODE, _CODE + _POSITION)
_PREVIOUS_SLOT = slice(_POSITION_SLOT.stop, _POSITION_SLOT.stop + _CODE)
_OUTPUT_SLOT = slice(_PREVIOUS_SLOT.stop, _PREVIOUS_SLOT.stop + _CODE)
_ONE, _FIRST, _EARLY = range(_OUTPUT_SLOT.stop, _OUTPUT_SLOT.stop + 3)
_HIDDEN = _EARLY + 1
_SINK = _HEAD_DIM - 2  # the head's dimension that carries the sink's score

SHARPNESS = 128.0
"""Score of a perfect match. Every other key is a fifth of it lower or more, so it gets less than
exp(-26) of the attention, which float32 cannot tell from nothing. Not larger: rounding a score
costs a share of the score, and attention recomputed from scores is to be right to 1e-5."""

GAIN = 18.0
"""Logit per unit of code written to the output slot."""


def token_codes() -> torch.Tensor:
    """Return the code of every token, (vocabulary, 62): unit vectors, 0 for special tokens.

    Chirps: token 31 a + b has the phases 2 pi (a x^2 + b x) / 31 for x = 0..30. The inner
    product of two codes is at most 1/sqrt(31) = 0.18 (a quadratic Gauss sum).
    """
    index = torch.arange(len(WORDS), dtype=torch.float64).unsqueeze(1)
    x = torch.arange(_PRIME, dtype=torch.float64)
    bend, slope = 1 + index // _PRIME, index % _PRIME
    phase = 2 * math.pi * ((bend * x**2 + slope * x) % _PRIME) / _PRIME
    codes = torch.cat([phase.cos(), phase.sin()], dim=1) / math.sqrt(_PRIME)
    codes[: len(SPECIALS)] = 0
    return codes.float()


def handwired(
    shift: int = 1,
    previous_token: bool = True,
    induction: bool = True,
    positional_offset: int | None = None,
) -> IclReferenceForCausalLM:
    """Return the hand-wired model: 2 layers of 24 heads, of which only (0, 0) and (1, 0) act.

    With V tokens in the vocabulary, g = `GAIN` and c the token codes, the loss is ln(V) where
    nothing matches; where the current token x has occurred before, followed by y, it is
    ln(sum_v exp(g (c_v - c_y) . (c_y - c_x))) if y follows again. Matches followed by the same
    token share the attention equally. Of matches followed by different tokens, the one whose
    code is least like the current token's takes it all; equals share.

    Head (0, 0) silenced, there is no match: with `<bos>` in front the loss is then ln(V)
    everywhere, but without it the sink's value no longer cancels and the model predicts the
    sequence's first token. Head (1, 0) silenced, the loss is ln(V) either way.

    Args:
        shift: how many tokens back head (0, 0) looks, 1 to 9. Head (1, 0) then attends `shift`
            places after the earlier occurrence.
        previous_token: whether head (0, 0) exists.
        induction: whether head (1, 0) exists.
        positional_offset: if given, head (1, 0) attends to the token this many places back
            whatever it is, and copies it; there is no matching.

    Raises:
        SettingsError: `shift` or `positional_offset` is out of range.
    """
    if not 1 <= shift <= MAX_SHIFT:
        raise SettingsError(f"shift is {shift}; a hand-wired model shifts by 1 to {MAX_SHIFT}")
    if positional_offset is not None and not 1 <= positional_offset < CONTEXT:
        raise SettingsError(
            f"positional_offset is {positional_offset}; it has to be between 1 and {CONTEXT - 1}, "
            "the context minus one"
        )
    config = IclReferenceConfig(
        vocab_size=len(WORDS),
        hidden_size=_HIDDEN,
        num_hidden_layers=LAYERS,
        num_attention_heads=HEADS,
        head_dim=_HEAD_DIM,
        max_position_embeddings=CONTEXT,
        normalize=False,
    )
    with torch.random.fork_rng(devices=[]):  # fresh weights are drawn, then overwritten
        model = IclReferenceForCausalLM(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
        _write_embeddings(model, shift)
        if previous_token:
            _write_previous_token_head(model, shift)
        if induction:
            _write_induction_head(model, positional_offset)
    model.eval()
    return model


def _write_embeddings(model: IclReferenceForCausalLM, shift: int) -> None:
    codes = token_codes()
    model.model.embed_tokens.weight[:, _TOKEN_SLOT] = codes
    model.lm_head.weight[:, _OUTPUT_SLOT] = GAIN * codes
    positions = model.model.embed_positions.weight
    positions[:, _POSITION_SLOT] = _position_codes()
    positions[:, _ONE] = 1
    positions[0, _FIRST] = 1
    positions[1:shift, _EARLY] = 1


def _position_codes() -> torch.Tensor:
    """Return (context, 47): two positions share both ones only if they are the same."""
    positions = torch.arange(CONTEXT)
    return torch.cat([torch.eye(ring)[positions % ring] for ring in _RINGS], dim=1)


def _look_back(distance: int) -> torch.Tensor:
    """Return the matrix (47, 47) that turns a position's code into that of `distance` before."""
    rings = [torch.eye(ring).roll(-distance, dims=0) for ring in _RINGS]
    turned: torch.Tensor = torch.block_diag(*rings)
    return turned


def _write_previous_token_head(model: IclReferenceForCausalLM, shift: int) -> None:
    """Write head (0, 0): attend to `shift` places back, write that token's code to `previous`."""
    layer = model.model.layers[0].self_attn
    scale = SHARPNESS / layer.scaling / len(_RINGS)
    layer.q_proj.weight[:_POSITION, _POSITION_SLOT] = scale * _look_back(shift)
    layer.k_proj.weight[:_POSITION, _POSITION_SLOT] = torch.eye(_POSITION)
    layer.v_proj.weight[:_CODE, _TOKEN_SLOT] = torch.eye(_CODE)
    layer.o_proj.weight[_PREVIOUS_SLOT, :_CODE] = torch.eye(_CODE)


def _write_induction_head(model: IclReferenceForCausalLM, offset: int | None) -> None:
    """Write head (1, 0): attend by match, or `offset` places back, and copy to `output`."""
    layer = model.model.layers[1].self_attn
    scale = SHARPNESS / layer.scaling
    query, key = layer.q_proj.weight, layer.k_proj.weight
    if offset is None:
        query[:_CODE, _TOKEN_SLOT] = scale * torch.eye(_CODE)
        key[:_CODE, _PREVIOUS_SLOT] = torch.eye(_CODE)
        key[:_CODE, _TOKEN_SLOT] = -torch.eye(_CODE)
        # A match scores at least 1 - 0.18, a mismatch at most 2 * 0.18: the sink is in between.
        sink = 0.59
    else:
        query[:_POSITION, _POSITION_SLOT] = scale / len(_RINGS) * _look_back(offset)
        key[:_POSITION, _POSITION_SLOT] = torch.eye(_POSITION)
        # The right place scores 1, others at most 1/2. The sink keeps only the score of its flag
        # where it is not the right place; where it is, it is attended anyway.
        key[:_POSITION, _FIRST] = -_position_codes()[0]
        sink = 0.75
    query[_SINK, _ONE] = scale
    key[_SINK, _FIRST] = sink
    key[_SINK, _EARLY] = -3  # no previous token, so no match
    layer.v_proj.weight[:_CODE, _TOKEN_SLOT] = torch.eye(_CODE)
    layer.v_proj.weight[:_CODE, _PREVIOUS_SLOT] = -torch.eye(_CODE)
    layer.o_proj.weight[_OUTPUT_SLOT, :_CODE] = torch.eye(_CODE)
