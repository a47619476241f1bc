"""Adapters with random weights, written by peft itself."""

from __future__ import annotations

import copy
import json
import warnings
from pathlib import Path
from typing import Any

import peft
import torch

LORA = {"r": 4, "lora_alpha": 16, "target_modules": ["q_proj", "v_proj"]}
KINDS: dict[str, Any] = {
    "lora": peft.LoraConfig(**LORA, task_type="CAUSAL_LM"),
    "rslora": peft.LoraConfig(
        **LORA, use_rslora=True, rank_pattern={"v_proj": 2}, alpha_pattern={"q_proj": 3}
    ),
    "dora": peft.LoraConfig(r=4, target_modules=["o_proj", "down_proj"], use_dora=True),
    "ia3": peft.IA3Config(
        target_modules=["k_proj", "v_proj", "down_proj"], feedforward_modules=["down_proj"]
    ),
    "saved": peft.LoraConfig(**LORA, modules_to_save=["lm_head"]),
    "embedding": peft.LoraConfig(r=2, target_modules=["embed_tokens", "q_proj"]),
}
"""What an adapter is called here -> its config."""


def write_adapter(
    base: Any, folder: Path, config: Any, seed: int = 1, named: str | None = None
) -> dict[str, torch.Tensor]:
    """Write an adapter of random weights; return the weights of the model that it is merged into.

    Args:
        base: a fresh model, which is changed.
        folder: where it is written.
        config: of peft.
        seed: of the weights.
        named: what its config calls the base.
    """
    config = copy.copy(config)
    config.base_model_name_or_path = None
    torch.manual_seed(seed)
    model = peft.get_peft_model(base, config)
    model.name_or_path = ""
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(0.2 * torch.randn_like(parameter))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it saves the embedding that an adapter changes
        model.save_pretrained(folder)
    written = folder / "adapter_config.json"
    content = {**json.loads(written.read_text()), "base_model_name_or_path": named}
    written.write_text(json.dumps(content))
    return dict(model.merge_and_unload().state_dict())
