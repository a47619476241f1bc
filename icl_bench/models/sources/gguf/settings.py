"""Settings and tensors of a GGUF file that transformers ignores: given to the model, or refused.

A file's header decides about the model as config.json does, but transformers reads those keys only
that it has a name for, and those tensors only that the model has a place for.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from icl_bench.errors import ModelError, SpecError

ROPE_FACTORS = "rope_freqs.weight"
"""Tensor that rotary frequencies are divided by."""
_OWN_ROPE = ("gpt-oss", "gpt_oss")
"""Architectures whose scaling of positions transformers reads itself."""
_LONG_ROPE = ("rope_factors_long.weight", "rope_factors_short.weight")
_SCALING = "rope.scaling."
_LINEAR = ("rope.scaling.factor", "rope.scale_linear")
_WITHOUT_EFFECT = frozenset(
    {
        *("context_length", "vocab_size", "tensor_data_layout", "pooling_type"),
        *("rope.scaling.original_context_length", "rope.scaling.finetuned"),
    }
)
"""Keys that say what a model was made for or how its file was written, not what it computes."""
_CONFIG_NAMES: dict[str, tuple[str, ...]] = {
    "attention.key_length": ("head_dim",),
    "attention.value_length": ("v_head_dim", "head_dim"),
    "attention.layer_norm_epsilon": ("layer_norm_epsilon", "layer_norm_eps", "norm_epsilon"),
    "attention.layer_norm_rms_epsilon": ("rms_norm_eps", "norm_eps"),
    "attention.sliding_window": ("sliding_window",),
    "attention.shared_kv_layers": ("num_kv_shared_layers",),
    "attention.scale": ("attention_multiplier",),
    "attn_logit_softcapping": ("attn_logit_softcapping",),
    "final_logit_softcapping": ("final_logit_softcapping",),
    "logit_scale": ("logit_scale", "logits_scaling"),
    "embedding_scale": ("embedding_multiplier",),
    "residual_scale": ("residual_multiplier",),
    "feed_forward_length": ("intermediate_size", "n_inner", "ffn_dim"),
    "expert_count": ("num_local_experts", "num_experts", "n_routed_experts"),
    "expert_used_count": ("num_experts_per_tok",),
    "expert_feed_forward_length": ("moe_intermediate_size", "intermediate_size"),
    "expert_shared_feed_forward_length": ("shared_expert_intermediate_size",),
    "expert_weights_norm": ("norm_topk_prob",),
    "use_parallel_residual": ("use_parallel_residual",),
    "attention.causal": ("is_causal",),
}
"""Keys that transformers may ignore and that agree with what its config has all the same."""


def check_settings(metadata: Mapping[str, Any], tensors: Iterable[str]) -> None:
    """Refuse a scaling of positions that cannot be given to a model of transformers.

    Args:
        metadata: key -> value of the header.
        tensors: names.

    Raises:
        SpecError: there is one; the message names its key.
    """
    architecture = metadata.get("general.architecture")
    if architecture in _OWN_ROPE:
        return
    key = f"{architecture}.{_SCALING}type"
    if metadata.get(key, "none") not in ("none", "linear"):
        raise SpecError(
            f"{key} is {metadata[key]!r}, which is lost when transformers reads the file: the "
            "numbers would be another model's; use the checkpoint that it was made of"
        )
    if found := sorted(set(_LONG_ROPE) & set(tensors)):
        raise SpecError(f"tensor {found[0]} is lost when transformers reads the file")


def refuse_ignored(metadata: Mapping[str, Any], tensors: Iterable[str], model: Any) -> None:
    """Refuse settings and tensors that transformers has left out and that change the model.

    Args:
        metadata: key -> value of the header.
        tensors: names.
        model: what transformers made of the file.

    Raises:
        ModelError: there is one; the message names it.
    """
    from transformers.integrations import ggml

    mapping: Any = ggml.GGUF_CONFIG_MAPPING
    architecture = str(metadata.get("general.architecture"))
    names = {architecture, model.config.model_type, architecture.replace("-", "_")}
    used = {
        key
        for name in names
        for key, value in mapping.get(name, {}).items()
        if value is not None and value != -1
    }
    for key, value in metadata.items():
        kind, _, setting = key.partition(".")
        if kind != architecture or setting in used or setting in _WITHOUT_EFFECT:
            continue
        if setting.startswith(_SCALING) or setting in _LINEAR:
            continue  # `apply_rope` does as they say
        # What is off, and arrays, which the header's reader leaves out.
        if value in (None, 0, False, "", "none") or _agrees(setting, value, model.config):
            continue
        raise ModelError(
            f"{key} is {value!r}, which transformers ignores: the numbers would be another model's"
        )
    unused = sorted(set(tensors) - _mapped(model, architecture, tensors) - {ROPE_FACTORS})
    if unused:
        more = f" and {len(unused) - 1} more" if len(unused) > 1 else ""
        raise ModelError(f"tensor {unused[0]}{more} in the file has no place in the model")


def _agrees(setting: str, value: Any, config: Any) -> bool:
    """Whether the config has the value of a key that transformers did not read."""
    rope = getattr(config, "rope_parameters", None) or {}
    heads = getattr(config, "num_attention_heads", None)
    width = getattr(config, "head_dim", None) or (config.hidden_size // heads if heads else None)
    if setting == "rope.freq_base":
        there = [rope.get("rope_theta"), getattr(config, "rope_theta", None)]
    elif setting == "rope.dimension_count":
        share = rope.get("partial_rotary_factor", getattr(config, "partial_rotary_factor", None))
        there = [width and int(width * (1.0 if share is None else share))]
        there.append(getattr(config, "qk_rope_head_dim", None))
    else:
        there = [getattr(config, name, None) for name in _CONFIG_NAMES.get(setting, ())]
        if setting in ("attention.key_length", "attention.value_length"):
            there.append(width)
        if setting == "attention.causal":
            there.append(True)
    return any(one is not None and abs(one - value) <= 1e-6 * abs(value) for one in there)


def _mapped(model: Any, architecture: str, tensors: Iterable[str]) -> set[str]:
    """Names of the tensors that transformers has a place for in the model."""
    from transformers import modeling_gguf_pytorch_utils

    reading: Any = modeling_gguf_pytorch_utils
    kind = reading.TENSOR_PROCESSORS.get(architecture, reading.TensorProcessor)
    places = set(reading.get_gguf_hf_weights_map(model, kind(config=model.config.to_dict())))
    # Of experts the place is known without the ending.
    stems = {place.removesuffix(".weight") for place in places}
    return {name for name in tensors if name in places or name.removesuffix(".weight") in stems}


def apply_rope(metadata: Mapping[str, Any], factors: Sequence[float] | None, model: Any) -> None:
    """Give a model the scaling of positions that the header asks for; transformers ignores it.

    Args:
        metadata: key -> value of the header.
        factors: the tensor that rotary frequencies are divided by, or None.
        model: what transformers made of the file; its config is changed.

    Raises:
        ModelError: the model has no frequencies that could be scaled.
    """
    import torch

    architecture = metadata.get("general.architecture")
    if architecture in _OWN_ROPE:
        return
    scaled = metadata.get(f"{architecture}.{_SCALING}type", "linear") == "linear"
    keys = [f"{architecture}.{name}" for name in _LINEAR]
    linear = next((metadata[key] for key in keys if scaled and metadata.get(key)), 1.0)
    for name in ("attn_factor", "yarn_attn_factor"):
        key = f"{architecture}.{_SCALING}{name}"
        if scaled and metadata.get(key, 1.0) not in (0.0, 1.0):
            raise ModelError(f"{key} is {metadata[key]!r}, which no model of transformers has")
    if linear == 1.0 and factors is None:
        return
    source = ROPE_FACTORS if factors is not None else f"{architecture}.{_SCALING}factor"
    rotary = [m for n, m in model.named_modules() if n.rpartition(".")[2] == "rotary_emb"]
    if len(rotary) != 1 or not isinstance(getattr(rotary[0], "inv_freq", None), torch.Tensor):
        raise ModelError(f"{source} asks for scaled positions, which this model does not have")
    plain = rotary[0].inv_freq
    parts = [linear * factor for factor in factors or [1.0] * len(plain)]
    _set_rope(model.config, parts)
    try:
        made = type(rotary[0])(model.config).inv_freq
        right = torch.allclose(made, plain / torch.tensor(parts), rtol=1e-5)
    except Exception:
        right = False
    if not right:
        raise ModelError(f"{source} asks for scaled positions, which transformers does not follow")


def _set_rope(config: Any, parts: list[float]) -> None:
    """Ask for rotary frequencies that are divided by `parts`, at every length."""
    if len(set(parts)) == 1:
        asked: dict[str, Any] = {"rope_type": "linear", "factor": parts[0]}
    else:
        asked = {
            "rope_type": "longrope",
            "short_factor": parts,
            "long_factor": parts,
            "factor": 1.0,
            "attention_factor": 1.0,
            "original_max_position_embeddings": config.max_position_embeddings,
        }
    if getattr(config, "rope_parameters", None) is not None:  # transformers 5
        kept = ("rope_theta", "partial_rotary_factor")
        before = config.rope_parameters
        config.rope_parameters = {**{k: before[k] for k in kept if k in before}, **asked}
    else:
        config.rope_scaling = asked
