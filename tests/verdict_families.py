"""Hand-set models of other architectures: windows, convolutions, recurrence, no heads at all."""

from __future__ import annotations

import math
from typing import Any

import torch
import transformers as tf
from handset import Head
from torch import Tensor, nn
from transformers import PretrainedConfig, PreTrainedModel
from transformers.modeling_outputs import CausalLMOutput

from icl_bench.reference.handwired import GAIN, SHARPNESS, token_codes
from icl_bench.reference.words import WORDS

CODE = 62
TOKEN, PREVIOUS, OUTPUT = (slice(CODE * k, CODE * (k + 1)) for k in range(3))
ONE, FIRST = 3 * CODE, 3 * CODE + 1
_HIDDEN, _HEADS, _HEAD_DIM = 384, 4, 96
_FAST = 8
"""Rotary pairs that turn with the position; the others hardly move and carry codes."""
_THETA = 1e24
_SLOW = [*range(_FAST, _HEAD_DIM // 2), *range(_HEAD_DIM // 2 + _FAST, _HEAD_DIM)]
_MATCH, _REST = _SLOW[:CODE], _SLOW[CODE]

_SHAPE: dict[str, Any] = {
    "vocab_size": len(WORDS),
    "hidden_size": _HIDDEN,
    "num_hidden_layers": 2,
    "num_attention_heads": _HEADS,
    "num_key_value_heads": _HEADS,
    "head_dim": _HEAD_DIM,
    "intermediate_size": 8,
    "max_position_embeddings": 512,
    "bos_token_id": 0,
    "eos_token_id": 3,
    "pad_token_id": 2,
    "tie_word_embeddings": False,
    "rope_parameters": {"rope_type": "default", "rope_theta": _THETA},
}


def window_that_fits(window: int) -> Any:
    """Has the textbook circuit in a Mistral, whose heads see no further than a window.

    Right: passes; the window is longer than the periods.
    """
    return _windowed(window)


def window_too_short(window: int) -> Any:
    """Has the textbook circuit in a Mistral with a window shorter than the period.

    Right: refused; heads cannot see the tokens to attend to, so nothing is measured.
    """
    return _windowed(window)


def _windowed(window: int) -> Any:
    narrow = {**_SHAPE, "hidden_size": 192}  # heads need not fill the stream here
    model = tf.MistralForCausalLM(tf.MistralConfig(**narrow, sliding_window=window))
    _write_ends(model, model.model.norm)
    first, second = model.model.layers
    _scale(first.input_layernorm, 2)
    _write_previous_token(Head(first.self_attn, 0))
    _scale(second.input_layernorm, 3)
    _write_induction(Head(second.self_attn, 0))
    return model.eval()


def short_convolution() -> Any:
    """Has the circuit in an LFM2: a short convolution in layer 0, attention in layer 1.

    Right: passes; the convolution is the circuit's first half, and the check for a head that
    does it is skipped with this reason.
    """
    config = tf.Lfm2Config(**_SHAPE, layer_types=["conv", "full_attention"])
    model = tf.Lfm2ForCausalLM(config)
    _write_ends(model, model.model.embedding_norm)
    first, second = model.model.layers
    _scale(first.operator_norm, 2)
    with torch.no_grad():
        gates = first.conv.in_proj.weight
        gates[: 2 * _HIDDEN, ONE] = 1
        gates[2 * _HIDDEN :][TOKEN, TOKEN] = torch.eye(CODE)
        first.conv.conv.weight[:, 0, 1] = 1  # of three places, the middle one: one back
        first.conv.out_proj.weight[PREVIOUS, TOKEN] = torch.eye(CODE)
    _scale(second.operator_norm, 3)
    _write_induction(Head(second.self_attn, 0))
    with torch.no_grad():  # queries and keys are normed, which the weights' size is lost in
        second.self_attn.k_layernorm.weight.fill_(1)
        second.self_attn.q_layernorm.weight.fill_(1.16 * SHARPNESS / math.sqrt(_HEAD_DIM))
    return model.eval()


def _write_ends(model: Any, norm: Any) -> None:
    """Set all weights to 0, then write embedding, final norm and unembedding."""
    for parameter in model.parameters():
        parameter.data.zero_()
    codes = token_codes()
    embedding = model.get_input_embeddings().weight.data
    embedding[:, TOKEN] = codes
    embedding[:, ONE] = 1
    embedding[0, FIRST] = 1
    model.lm_head.weight.data[:, OUTPUT] = GAIN * codes
    _scale(norm, 4)


def _scale(norm: Any, squares: float) -> None:
    """Let a root-mean-square norm leave a stream as it is whose squares sum up to this."""
    norm.weight.data.fill_(math.sqrt(squares / norm.weight.numel()))


def _write_previous_token(head: Head) -> None:
    turn = _THETA ** (-torch.arange(_FAST) / (_HEAD_DIM / 2))
    strength = head.scale  # a distance of 1 or more elsewhere costs half of it at least
    head.query[:_FAST, ONE] = strength * turn.cos()
    head.query[_HEAD_DIM // 2 : _HEAD_DIM // 2 + _FAST, ONE] = -strength * turn.sin()
    head.key[:_FAST, ONE] = 1
    _write_copy(head, PREVIOUS)


def _write_induction(head: Head) -> None:
    head.query[_MATCH, TOKEN] = head.scale * torch.eye(CODE)
    head.query[_REST, ONE] = head.scale * 0.59
    head.key[_MATCH, PREVIOUS] = torch.eye(CODE)
    head.key[_REST, FIRST] = 1
    _write_copy(head, OUTPUT)


def _write_copy(head: Head, slot: slice) -> None:
    head.value[:CODE, TOKEN] = torch.eye(CODE)
    head.output[slot, :CODE] = torch.eye(CODE)


class NoHeadsConfig(PretrainedConfig):
    """Shape of a model without attention."""

    model_type = "no_heads"

    def __init__(self, kind: str = "memory", **kwargs: Any) -> None:
        self.kind = kind
        self.vocab_size = len(WORDS)
        self.hidden_size = len(WORDS)
        self.num_hidden_layers = 1
        self.max_position_embeddings = 512
        super().__init__(bos_token_id=0, eos_token_id=3, pad_token_id=2, **kwargs)


class NoHeads(PreTrainedModel):
    """A recurrent model: what it says of the next token is read from a state."""

    config_class = NoHeadsConfig
    base_model_prefix = "model"

    def __init__(self, config: NoHeadsConfig) -> None:
        super().__init__(config)
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self.embed_tokens.weight.data = torch.eye(config.vocab_size)
        self.lm_head.weight.data = torch.eye(config.vocab_size)

    def get_input_embeddings(self) -> nn.Module:
        return self.embed_tokens

    def get_output_embeddings(self) -> nn.Module:
        return self.lm_head

    def forward(
        self, input_ids: Tensor, logits_to_keep: int | Tensor = 0, **kwargs: Any
    ) -> CausalLMOutput:
        """Return logits; for `memory`, of what followed the current token before."""
        if self.config.kind == "memory":
            state = followed(input_ids, self.config.vocab_size) * GAIN
        else:
            state = seen_before(input_ids, self.config.vocab_size) * 12
        kept = slice(-logits_to_keep, None) if isinstance(logits_to_keep, int) else logits_to_keep
        return CausalLMOutput(logits=self.lm_head(state[:, kept]))


def seen_before(tokens: Tensor, vocabulary: int) -> Tensor:
    """Return which tokens have stood at a place or before it, (rows, length, vocabulary)."""
    marks = nn.functional.one_hot(tokens, vocabulary).float()
    marks[..., 0] = 0
    return marks.cummax(dim=1).values


def followed(tokens: Tensor, vocabulary: int) -> Tensor:
    """Return what has followed each place's token before, as a sum of one-hot vectors."""
    marks = nn.functional.one_hot(tokens, vocabulary).float()
    same = (marks @ marks.transpose(1, 2)).tril(-1)
    after = torch.cat([marks[:, 1:], torch.zeros_like(marks[:, :1])], dim=1)
    return same @ after


def recurrent_memory() -> NoHeads:
    """Keeps in a state what followed each token, as linear attention and fast weights do.

    Right: passes; it copies at any distance and in order. Checks of heads are skipped, since
    there are none.
    """
    return NoHeads(NoHeadsConfig(kind="memory")).eval()


def recurrent_cache() -> NoHeads:
    """Keeps in a state which tokens were seen, and raises all of them.

    Right: fails; repeats gain several nats, and shuffled copies gain as much.
    """
    return NoHeads(NoHeadsConfig(kind="cache")).eval()


def mamba(seed: int = 0) -> Any:
    """Is a state-space model with random weights.

    Right: fails by its behaviour; checks of heads are skipped, since there are none.
    """
    return _draw(tf.MambaForCausalLM, tf.MambaConfig(**_RECURRENT, state_size=4), seed)


def rwkv(seed: int = 0) -> Any:
    """Is an RWKV with random weights.

    Right: fails by its behaviour; checks of heads are skipped, since there are none.
    """
    config = tf.RwkvConfig(**_RECURRENT, attention_hidden_size=32, intermediate_size=32)
    return _draw(tf.RwkvForCausalLM, config, seed)


def hybrid(seed: int = 0) -> Any:
    """Is a hybrid with random weights: a short convolution, then attention.

    Right: fails; nothing was learned.
    """
    config = tf.Lfm2Config(**_SHAPE, layer_types=["conv", "full_attention"])
    return _draw(tf.Lfm2ForCausalLM, config, seed)


_RECURRENT: dict[str, Any] = {
    "vocab_size": len(WORDS),
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "bos_token_id": 0,
    "eos_token_id": 3,
    "pad_token_id": 2,
}


def _draw(kind: Any, config: Any, seed: int) -> Any:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = kind(config)
    return model.eval()
