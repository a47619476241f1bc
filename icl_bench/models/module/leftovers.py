"""What a checkpoint holds and the model does not use: refused by name, unless it is harmless.

A number measured without it would be that of another model. Every way of opening a model asks
here: folders, hubs, GGUF, the checkpoints of a series, and callables as far as they can be seen.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

HARMLESS = {
    r"(rotary\w*|rope)\.(\w+_)?inv_freq|rotary_emb\.(cos|sin)_cached": "computed from the config",
    r"position_ids": "the numbers 0, 1, 2, ...",
    r"(attn|attention|self_attention)\.(bias|masked_bias)|masked_bias": (
        "the causal mask, which older versions stored; biases of layers have the layer's name "
        "before `.bias`"
    ),
    r"(v_head|value_head|critic_head|reward_head)\..*": "rates a text after the language model",
    r"(score|classifier|qa_outputs|pooler|pooler\.dense|cls\.seq_relationship)\.(weight|bias)": (
        "classifies a text after the language model"
    ),
    r"(vision_tower|vision_model|visual|image_newline|multi_modal_projector|mm_projector|"
    r"audio_tower|embed_vision|embed_audio)(\..*)?": "only images and sound pass through it",
}
"""Ends of names (whole parts between dots) -> why the model's predictions do not depend on them."""
_HARMLESS = re.compile("|".join(rf"(^|\.)({ending})$" for ending in HARMLESS))

ADAPTER = re.compile(r"(^|[._])(lora|loha|lokr|dora|ia3|vera|hada|oft)_")
QUANTIZED = re.compile(
    r"(weight|input|output|activation|k|v|q)_(scale|zero_point)(_inv|_2)?$|_scale_inv$|"
    r"\.(scales|qweight|qzeros|qscales|g_idx|SCB|weight_format|weight_packed|weight_shape|"
    r"weight_blocks|weight_scales)$|_(blocks|scales|packed)$|\.weight\.(absmax|quant_map|"
    r"quant_state|nested_\w+)|(^|\.)codebooks$"
)
LAYER = re.compile(r"^((model|transformer|gpt_neox|model\.decoder)\.)?(layers|h|blk)\.(\d+)\.")
LOST_CONFIG = (
    "they belong to quantized weights, and config.json has no quantization_config; copy it from "
    "the original checkpoint, or save the weights dequantized"
)


def is_harmless(name: str) -> bool:
    """Whether a tensor that the model does not use changes no prediction.

    Args:
        name: its name in the checkpoint.
    """
    return _HARMLESS.search(name) is not None


def explain_leftovers(names: Iterable[str]) -> str | None:
    """Return what is wrong with tensors that the model does not use, or None if all are harmless.

    Args:
        names: their names in the checkpoint.
    """
    unused = sorted(name for name in names if not is_harmless(name))
    if not unused:
        return None
    if any(map(ADAPTER.search, unused)):
        advice = "they are an adapter; merge it into the weights and save these"
    elif any(map(QUANTIZED.search, unused)):
        advice = LOST_CONFIG
    else:
        advice = "the config does not belong to these weights"
    return f"the checkpoint holds {count_names(unused)} that the model does not use; {advice}"


def count_names(names: list[str]) -> str:
    """Return how many weights there are and the names of the first.

    Args:
        names: their names.
    """
    listed = ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
    return f"{len(names)} weight{'s' if len(names) != 1 else ''} ({listed})"
