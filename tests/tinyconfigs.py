"""Tiny configs of every type of causal language model in transformers.

Sizes shrink by general rules; a table has what these cannot know. Every kind of layer that a type
has stays, and windows are shorter than the sequences that are measured.
"""

from __future__ import annotations

import json
import re
from typing import Any

from transformers.models.auto.configuration_auto import CONFIG_MAPPING

VOCABULARY, LAYERS, WINDOW = 96, 4, 8

_SIZES: list[tuple[str, Any]] = [
    (r"(decoder_)?vocab_size|unpadded_vocab_size|vocab_size_per_layer_input", VOCABULARY),
    (r"hidden_size|d_model|n_embd|emb_dim|word_embed_proj_dim|embedding_dim", 64),
    (r"embedding_size|(in|out)put_embedding_size|lru_width|attention_hidden_size", 64),
    (r"num_hidden_layers|n_layers?|num_(de|en)?(coder_)?layers|(de|en)coder_layers", LAYERS),
    (r"num_attention_heads|n_heads?|num_heads|(de|en)coder_attention_heads|attention_heads", 4),
    (r"num_(de|en)coder_attention_heads|swa_num_attention_heads|num_query_groups", 4),
    (r"num_key_value_heads|num_kv_heads|swa_num_key_value_heads|num_global_key_value_heads", 2),
    (r"head_dim|kv_channels|swa_head_dim|global_head_dim|dim_head|d_head|attention_head_size", 16),
    (r"(moe_|mlp_)?intermediate_size|ffn_dim|ffn_hidden_size|(de|en)coder_ffn_dim", 48),
    (r"n_inner|dff|dim_ff|d_inner|feed_forward_size|intermediate_size_mlp", 48),
    (r"(dense_|shared_|shared_experts?_|expert_ffn_hidden_|moe_shared_expert_).*size", 48),
    (r"max_position_embeddings|n_positions|n_ctx|max_seq_len|context_length|seq_length", 160),
    (r"max_(source|target)_positions|model_max_length|keep_window_size", 160),
    (r"sliding_window|window_size|attention_window_size|sliding_window_size", WINDOW),
    (r"attention_chunk_size|local_attention|rel_extent", WINDOW),
    (r"num_(local_)?experts|n_routed_experts|moe_num_experts|zero_expert_num", 4),
    (r"num_experts_per_tok(en)?|moe_top_?k|moe_k", 2),
    (r"n_group|topk_group|num_expert_group|n_shared_experts|num_shared_experts", 1),
    (r"q_lora_rank|kv_lora_rank|o_lora_rank|index_head_dim|laurel_rank|hc_lowrank", 16),
    (r"qk_nope_head_dim", 16),
    (r"qk_rope_head_dim|rotary_dim|d_rel", 8),
    (r"v_head_dim", 12),
    (r"index_n_heads|linear_num_(key_|value_)?heads", 2),
    (r"index_topk|index_topk_blocks", 6),
    (r"index_block_size", 2),
    (r"linear_((key|value)_)?head_dim", 16),
    (r"mamba_d_state|ssm_state_size|state_size", 8),
    (r"mamba_d_head|mamba_head_?dim", 16),
    (r"mamba_n_heads|mamba_num_heads|n_mamba_heads", 8),
    (r"(mamba_)?n_groups|mamba_ngroups", 1),
    (r"(mamba_)?chunk_size", 8),
    (r"hidden_size_per_layer_input|router_hidden_size|adapter_rank", 16),
    (r"first_k_dense_replace|num_dense_layers|num_mem_blocks", 1),
    (r"original_max_position_embeddings", 160),
]
"""Name of a setting -> what it is in the tiny model; for whole numbers only."""

_PER_LAYER = re.compile(
    r"layer_types|layers_block_type|mlp_layer_types|attention_layers|no_rope_layers|.*_per_layer|"
    r"layer_rope_theta|activation_sparsity_pattern|indexer_types"
)

_WINDOWED = ["sliding_attention", "full_attention"] * 2
_GEMMA4 = {
    "num_kv_shared_layers": 2,
    "layer_types": _WINDOWED,
    "global_head_dim": 32,
    "per_layer_config": None,
}
_DOTS = {
    "per_layer_config": None,
    "layer_types": ["sliding_attention", "indexed_attention"] * 2,
    "swa_num_attention_heads": 4,
    "swa_num_key_value_heads": 4,
    "swa_q_lora_rank": 16,
    "swa_kv_lora_rank": 16,
    "swa_head_dim": 24,
    "swa_qk_nope_head_dim": 16,
    "swa_v_head_dim": 12,
}
_ASSISTED = {
    "text_config": {
        "num_kv_shared_layers": 4,
        "hidden_size_per_layer_input": 0,
        "vocab_size_per_layer_input": 0,
    },
    "backbone_hidden_size": 64,
}
_ASSISTANTS = {
    "gemma4_assistant": "gemma4_text",
    "gemma4_unified_assistant": "gemma4_unified_text",
}
_QSA = {
    "indexer_n_heads": 2,
    "indexer_kv_heads": 1,
    "indexer_head_dim": 16,
    "indexer_budget": 8,
    "indexer_compress_ratio": 2,
    "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0},
    "layer_types": ["linear_attention", "indexed_attention"] * 2,
}

OVERRIDES: dict[str, dict[str, Any]] = {
    "blt": {
        name: {"hidden_size_global": 64, "num_key_value_heads": 4}
        for name in ("patcher_config", "encoder_config", "decoder_config", "global_config")
    }
    | {"encoder_hash_byte_group_vocab": 96},
    "cohere_compass_text": {
        "layer_types": _WINDOWED,
        "rope_parameters": {
            kind: {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [4, 2, 2]}
            for kind in _WINDOWED
        },
    },
    "dbrx": {"attn_config": {"kv_n_heads": 2, "rope_theta": 10000.0, "clip_qkv": 8.0}},
    "deepseek_v2": {"num_experts_per_tok": 2},
    "mellum": {"layer_types": _WINDOWED},
    "zaya": {"num_experts_per_tok": 1, "layer_types": ["hybrid_sliding", "hybrid"] * 2},
    "dots1": {
        "layer_types": _WINDOWED,
        "num_experts_per_tok": 2,
        "n_routed_experts": 4,
        "n_shared_experts": 1,
    },
    "dots3_note": {
        "text_config": _DOTS,
        "vision_config": {"adapter_in_dim": 64, "adapter_out_dim": 64},
        "audio_config": {"adapter_input_size": 64, "adapter_out_dim": 64},
    },
    "dots3_note_text": _DOTS,
    "lfm2": {"layer_types": ["conv", "full_attention"] * 2},
    "falcon_h1": {"mamba_d_ssm": 128, "mamba_n_heads": 8},
    "gemma3n_text": {
        "num_kv_shared_layers": 2,
        "layer_types": _WINDOWED,
        "intermediate_size": [48] * LAYERS,
    },
    "gemma4": {"text_config": _GEMMA4},
    "gemma4_text": _GEMMA4,
    "gemma4_unified": {"text_config": _GEMMA4},
    "gemma4_unified_text": _GEMMA4,
    "granitemoehybrid": {"layer_types": ["mamba", "attention"] * 2},
    "bamba": {"attn_layer_indices": [1, 3]},
    "jamba": {
        "use_mamba_kernels": False,
        "attn_layer_period": 2,
        "attn_layer_offset": 1,
        "mamba_dt_rank": 8,
    },
    "laguna": {"num_attention_heads_per_layer": [4, 8, 4, 8], "layer_types": _WINDOWED},
    "gemma4_assistant": _ASSISTED,
    "gemma4_unified_assistant": _ASSISTED,
    "nemotron": {"num_key_value_heads": 2},
    "lfm2_moe": {"layer_types": ["conv", "full_attention"] * 2},
    "mamba2": {"head_dim": 16, "num_heads": 8},
    "qwen4_exp": {"text_config": _QSA},
    "qwen4_exp_text": _QSA,
    "reformer": {"axial_pos_embds": False, "is_decoder": True},
    "roc_bert": {"pronunciation_vocab_size": 20, "shape_vocab_size": 20},
    "xmod": {"default_language": "en_XX"},
    "zamba": {"use_mamba_kernels": False, "attention_hidden_size": 128, "attention_head_dim": 32},
    "zamba2": {"attention_hidden_size": 128, "attention_head_dim": 32},
}
"""Type -> settings that the general rules cannot know; None to leave one at its default."""


def shrink(defaults: dict[str, Any]) -> dict[str, Any]:
    """Return small values for the sizes among a config's default settings."""
    small: dict[str, Any] = {}
    for name, value in defaults.items():
        if isinstance(value, dict) and "model_type" in value:
            small[name] = shrink(value)
        elif isinstance(value, list) and _PER_LAYER.fullmatch(name):
            small[name] = _cycle(value)
        elif name == "head_dim" and value is None:
            small[name] = 16
        elif isinstance(value, int) and not isinstance(value, bool):
            if name.endswith(("token_id", "token_index")) and not 0 <= value < VOCABULARY:
                small[name] = {"pad_token_id": 0, "bos_token_id": 1}.get(name, 3)
            for pattern, size in _SIZES:
                if re.fullmatch(pattern, name):
                    small[name] = size
        if name == "sliding_window" and not value:
            small[name] = WINDOW
    if "use_sliding_window" in defaults:
        small |= {"use_sliding_window": True, "max_window_layers": 2}
        if "layer_types" in small:
            small["layer_types"] = _WINDOWED
    if "kv_lora_rank" in small:  # latent attention: every head has keys and values of its own
        small["num_key_value_heads"] = 4
        if defaults.get("head_dim") == defaults.get("qk_rope_head_dim"):
            small["head_dim"] = small["qk_rope_head_dim"]
    return small


def _cycle(kinds: list[Any]) -> list[Any]:
    """Return one entry a layer in which every kind occurs."""
    distinct = list(dict.fromkeys(kinds))
    return [distinct[i % len(distinct)] for i in range(LAYERS)]


def make_config(kind: str) -> Any:
    """Return the tiny config of a type, or of one of its variants, `type[setting=value]`."""
    kind, _, variant = kind.partition("[")
    config_class = CONFIG_MAPPING[kind]
    if kind in _ASSISTANTS:  # its own defaults contradict each other
        text = CONFIG_MAPPING[_ASSISTANTS[kind]]().to_dict()
        settings = {"text_config": shrink(text)}
    else:
        settings = shrink(config_class().to_dict())
    settings = _merge(settings, OVERRIDES.get(kind, {}))
    for pair in filter(None, variant.rstrip("]").split(", ")):
        name, value = pair.split("=")
        settings[name] = json.loads(value.lower()) if value[0].isupper() else value
        if value.isdigit():
            settings[name] = int(value)
    config = config_class(**settings)
    # Only its decoder is a language model, and this class does not look for it.
    return config.decoder if kind.startswith("musicgen") else config


def _merge(settings: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    merged = dict(settings)
    for name, value in changes.items():
        if isinstance(value, dict) and isinstance(merged.get(name), dict):
            merged[name] = _merge(merged[name], value)
        elif value is None:
            merged.pop(name, None)
        else:
            merged[name] = value
    return merged
