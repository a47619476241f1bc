"""More random tiny models: what matters to circuits differs in them, not how attention is read."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import families
import torch
import transformers as tf

_COMMON, _GROUPED, _OLD = families._COMMON, families._GROUPED, families._OLD
_EXPERTS = {"num_local_experts": 4, "num_experts_per_tok": 2}

MORE: dict[str, Callable[[], Any]] = {
    # Norms after attention and MLP.
    "olmo2": lambda: tf.Olmo2Config(**_GROUPED),
    # Factors of what layers add, of logits, and both.
    "granite": lambda: tf.GraniteConfig(
        **_GROUPED, residual_multiplier=0.22, logits_scaling=4.0, attention_multiplier=0.25
    ),
    "cohere": lambda: tf.CohereConfig(**_GROUPED),
    # Attention and MLP side by side; the MLP's output is added to in place.
    "falcon": lambda: tf.FalconConfig(
        hidden_size=64, num_hidden_layers=3, num_attention_heads=4, **_OLD
    ),
    "phi": lambda: tf.PhiConfig(**_COMMON),
    # Experts; in the second, two MLPs side by side.
    "mixtral": lambda: tf.MixtralConfig(**_GROUPED, **_EXPERTS),
    "granitemoeshared": lambda: tf.GraniteMoeSharedConfig(
        **_GROUPED, **_EXPERTS, residual_multiplier=0.3, shared_intermediate_size=32
    ),
    # The MLP adds the residual stream itself, or is no module.
    "mpt": lambda: tf.MptConfig(d_model=64, n_heads=4, n_layers=3, max_seq_len=128, **_OLD),
    "biogpt": lambda: tf.BioGptConfig(**_COMMON),
    # A norm between heads and output projection; latent attention, values wider than queries.
    "bitnet": lambda: tf.BitNetConfig(**_GROUPED),
    "deepseek_v3": lambda: tf.DeepseekV3Config(
        **_COMMON,
        num_key_value_heads=4,
        n_routed_experts=4,
        n_group=1,
        topk_group=1,
        num_experts_per_tok=2,
        moe_intermediate_size=32,
        q_lora_rank=16,
        kv_lora_rank=16,
        qk_rope_head_dim=8,
        qk_nope_head_dim=8,
        v_head_dim=24,
        first_k_dense_replace=1,
    ),
    # Sinks.
    "gpt_oss": lambda: tf.GptOssConfig(
        **_GROUPED,
        head_dim=16,
        **_EXPERTS,
        sliding_window=8,
        rope_parameters={"rope_type": "default", "rope_theta": 10000.0},
    ),
}
EVERY = [*families.CONFIGS, *MORE]


def build(name: str, seed: int = 0) -> Any:
    """Return a random model whose biases, norms and experts are far from their fresh values."""
    torch.manual_seed(seed)
    if name in families.CONFIGS:
        model = families.build(name, seed)
    else:
        model = tf.AutoModelForCausalLM.from_config(MORE[name]()).eval()
    with torch.no_grad():
        for key, parameter in model.named_parameters():
            if parameter.ndim > 1:
                parameter.normal_(0, 0.12)
            elif "norm" in key or "ln_" in key or key.endswith("bias"):
                parameter.add_(torch.randn_like(parameter) * 0.1)
    return model


DOWN = {
    "gpt2": ["mlp.c_proj"],
    "gpt_neox": ["mlp.dense_4h_to_h"],
    "opt": ["fc2"],
    "biogpt": ["fc2"],
    "gptj": ["mlp.fc_out"],
    "bloom": ["mlp.dense_4h_to_h"],
    "falcon": ["mlp.dense_4h_to_h"],
    "phi": ["mlp.fc2"],
    "mpt": ["ffn.down_proj"],
}
"""Where a family's MLPs write; elsewhere `mlp.down_proj`, or what `EXPERTS` lists."""

EXPERTS = {"mixtral", "gpt_oss", "granitemoeshared", "deepseek_v3"}
_WRITES = ("down_proj", "output_linear", "w2.")

OUT = {
    "gpt2": "attn.c_proj",
    "gpt_neox": "attention.dense",
    "opt": "self_attn.out_proj",
    "biogpt": "self_attn.out_proj",
    "gptj": "attn.out_proj",
    "bloom": "self_attention.dense",
    "falcon": "self_attention.dense",
    "phi": "self_attn.dense",
    "mpt": "attn.out_proj",
}
"""Where a family's attention writes; elsewhere `self_attn.o_proj`."""


def layer_of(model: Any, index: int) -> torch.nn.Module:
    """Return one decoder layer."""
    return next(m for m in model.modules() if isinstance(m, torch.nn.ModuleList))[index]


def silence(module: torch.nn.Module) -> None:
    """Set all weights of a module to 0."""
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.zero_()


def silence_mlp(model: Any, name: str, index: int) -> None:
    """Remove an MLP by surgery on the weights that write to the residual stream."""
    layer = layer_of(model, index)
    if name in EXPERTS:
        with torch.no_grad():
            for key, parameter in layer.named_parameters():
                if any(part in key for part in _WRITES):
                    parameter.zero_()
        return
    for path in DOWN.get(name, ["mlp.down_proj"]):
        silence(layer.get_submodule(path))


def silence_attention(model: Any, name: str, index: int) -> None:
    """Remove a layer's attention by surgery on its output projection."""
    silence(layer_of(model, index).get_submodule(OUT.get(name, "self_attn.o_proj")))
