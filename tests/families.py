"""Random tiny models of every supported family, and where each keeps its output projection."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import transformers as tf
from torch import nn
from transformers.models.gptj import modeling_gptj

from icl_bench.reference.architecture import IclReferenceForCausalLM
from icl_bench.reference.configuration import IclReferenceConfig

VOCABULARY = 96
_COMMON: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 64,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "intermediate_size": 96,
    "max_position_embeddings": 128,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}
_GROUPED = {**_COMMON, "num_key_value_heads": 2}
_WINDOW = 8
_OLD = {"vocab_size": VOCABULARY, "bos_token_id": 1, "eos_token_id": 2}

CONFIGS: dict[str, Callable[[], Any]] = {
    "gpt2": lambda: tf.GPT2Config(n_embd=64, n_layer=3, n_head=4, n_positions=128, **_OLD),
    "gpt_neox": lambda: tf.GPTNeoXConfig(**_COMMON),
    "llama": lambda: tf.LlamaConfig(**_GROUPED),
    "qwen2": lambda: tf.Qwen2Config(**_GROUPED),
    "qwen3": lambda: tf.Qwen3Config(**_GROUPED, head_dim=16),
    "mistral": lambda: tf.MistralConfig(**_GROUPED, sliding_window=_WINDOW),
    "gemma3": lambda: tf.Gemma3TextConfig(
        **_GROUPED,
        head_dim=16,
        sliding_window=_WINDOW,
        layer_types=["sliding_attention", "full_attention", "sliding_attention"],
    ),
    "opt": lambda: tf.OPTConfig(
        **{k: v for k, v in _COMMON.items() if k != "intermediate_size"},
        ffn_dim=96,
        word_embed_proj_dim=64,
    ),
    "icl_reference": lambda: IclReferenceConfig(
        vocab_size=VOCABULARY, hidden_size=64, num_hidden_layers=3, num_attention_heads=4
    ),
    # Soft-capping goes in chunks; the others do without the interface, Falcon by calling torch's
    # attention itself.
    "gemma2": lambda: tf.Gemma2Config(**_GROUPED, head_dim=16, sliding_window=_WINDOW),
    "gptj": lambda: tf.GPTJConfig(
        n_embd=64, n_layer=3, n_head=4, rotary_dim=8, n_positions=128, **_OLD
    ),
    "falcon": lambda: tf.FalconConfig(
        hidden_size=64, num_hidden_layers=3, num_attention_heads=4, **_OLD
    ),
    "bloom": lambda: tf.BloomConfig(hidden_size=64, n_layer=3, n_head=4, **_OLD),
}
GPTJ_HOOKED = not hasattr(modeling_gptj, "ALL_ATTENTION_FUNCTIONS")
"""Whether GPT-J is outside of the attention interface, as up to transformers 5.23."""
FUSED = (
    *("gpt2", "gpt_neox", "llama", "qwen2", "qwen3", "mistral", "gemma3", "opt", "icl_reference"),
    "falcon",
    *(() if GPTJ_HOOKED else ("gptj",)),
)
CHUNKED = ("gemma2",)
WINDOWED = ("mistral", "gemma3")

PROJECTIONS = {
    "gpt2": "attn.c_proj",
    "gpt_neox": "attention.dense",
    "opt": "self_attn.out_proj",
    "gptj": "attn.out_proj",
    "bloom": "self_attention.dense",
    "falcon": "self_attention.dense",
}


def build(name: str, seed: int = 0, **settings: Any) -> Any:
    """Return a random model with weights large enough for attention to be far from even.

    Args:
        name: a family in `CONFIGS`.
        seed: of the weights.
        settings: changes to its config.
    """
    torch.manual_seed(seed)
    config = CONFIGS[name]()
    for setting, value in settings.items():
        setattr(config, setting, value)
    if name == "icl_reference":
        model = IclReferenceForCausalLM(config)
    else:
        model = tf.AutoModelForCausalLM.from_config(config)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 2:
                parameter.normal_(0, 0.12)
    return model.eval()


def projection(model: Any, name: str, layer: int) -> nn.Module:
    """Return the output projection of one layer's attention."""
    layers = max((m for m in model.modules() if isinstance(m, nn.ModuleList)), key=len)
    return layers[layer].get_submodule(PROJECTIONS.get(name, "self_attn.o_proj"))


def cut_head(model: Any, name: str, layer: int, head: int, heads: int = 4) -> None:
    """Remove a head by surgery on the weights: its columns of the output projection become 0."""
    target = projection(model, name, layer)
    with torch.no_grad():
        if name == "gpt2":  # Conv1D keeps its weight transposed
            width = target.weight.shape[0] // heads
            target.weight[head * width : (head + 1) * width] = 0
        else:
            width = target.weight.shape[1] // heads
            target.weight[:, head * width : (head + 1) * width] = 0
