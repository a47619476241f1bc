"""Adapters of peft: merged into the weights, or applied beside quantized ones.

Transformers applies an adapter that lies beside the weights if peft is installed and leaves it out
if not, and with it checks the adapter's names only. Here weights and adapters are loaded one after
the other, each by its rule.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from icl_bench.errors import IclError, ModelError
from icl_bench.models.module.adapter_files import ADAPTER_FILES, has_adapter
from icl_bench.models.module.weights import explain_failure

UNMERGED = "applied beside quantized weights"


@contextlib.contextmanager
def without_adapter(source: str) -> Iterator[str]:
    """Give a folder with all files of a checkpoint but its adapter.

    Args:
        source: the checkpoint's folder, or a hub id.

    Yields:
        `source` itself where it holds no adapter, else a folder of links that is then deleted.
    """
    if not os.path.isdir(source) or not has_adapter(Path(source)):
        yield source
        return
    with tempfile.TemporaryDirectory(prefix="icl_bench-base-") as folder:
        for path in Path(source).resolve().iterdir():
            if path.name not in ADAPTER_FILES:
                (Path(folder) / path.name).symlink_to(path)
        yield folder


def apply_adapters(model: Any, folders: Sequence[Path]) -> tuple[Any, list[str]]:
    """Apply adapters to a model, one after the other.

    They are merged into the weights. Quantized weights stay as they are, for merging would round
    them anew: there the adapters stand beside them.

    Args:
        model: the base.
        folders: the adapters' folders, in the order in which they are applied.

    Returns:
        the model, and kind and size of each adapter for the record.

    Raises:
        ModelError: one cannot be applied, fits only in part, or cannot be merged.
    """
    told = []
    quantized = getattr(model, "hf_quantizer", None) is not None
    adapted: Any = None
    if quantized and any(hasattr(module, "weight_packed") for module in model.modules()):
        _unpack(model)
    for number, folder in enumerate(folders):
        try:
            if not quantized:
                adapted = None
            adapted, description = _apply(adapted or model, folder, f"adapter_{number}")
            told.append(description)
            if not quantized:
                model = adapted.merge_and_unload(safe_merge=True)
        except IclError:
            raise
        except Exception as error:
            raise ModelError(
                f"its adapter {folder.name!r} cannot be applied: {explain_failure(error)}"
            ) from error
    if quantized and adapted is not None:
        if len(folders) > 1:
            adapted.base_model.set_adapter([f"adapter_{n}" for n in range(len(folders))])
        model = adapted.get_base_model()
        told = [f"{one}, {UNMERGED}" for one in told]
    model.requires_grad_(False).eval()
    # What peft leaves on the module would make it look adapted still.
    for name in ("peft_config", "_hf_peft_config_loaded"):
        if name in vars(model):
            delattr(model, name)
    return model, told


def _unpack(model: Any) -> None:
    """Let compressed-tensors unpack weights, as in a first pass: peft reads them before that."""
    import torch

    device = next(model.parameters()).device
    with torch.no_grad():
        model(torch.zeros(1, 1, dtype=torch.long, device=device))


def _apply(model: Any, folder: Path, name: str) -> tuple[Any, str]:
    from peft import PeftConfig, PeftModel

    config: Any = PeftConfig.from_pretrained(str(folder))
    kind = str(getattr(config.peft_type, "value", config.peft_type))
    if isinstance(model, PeftModel):
        known = {one.peft_type for one in model.peft_config.values()}
        if known != {config.peft_type}:
            raise ModelError("adapters of different kinds cannot be applied to quantized weights")
        adapted: Any = model
    else:
        _make_place(model, folder)
        config.inference_mode = True
        adapted = PeftModel(model, config, adapter_name=name)
    found = adapted.load_adapter(str(folder), name, is_trainable=False)
    left = [*found.unexpected_keys, *found.missing_keys]
    if left:
        raise ModelError(
            f"its adapter {folder.name!r} does not fit: {len(left)} of its weights have no place "
            f"in this base, or are missing from it ({left[0]} first)"
        )
    if not hasattr(adapted, "merge_and_unload") or config.is_prompt_learning:
        raise ModelError(f"its adapter ({kind}) cannot be merged into weights")
    rank = getattr(config, "r", None)
    beside = " with magnitudes (DoRA)" if getattr(config, "use_dora", False) else ""
    return adapted, f"{kind}{f' of rank {rank}' if isinstance(rank, int) and rank else ''}{beside}"


def _make_place(model: Any, folder: Path) -> None:
    """Give the embedding as many rows as an adapter that brings its own was trained with."""
    from safetensors import safe_open

    file = folder / "adapter_model.safetensors"
    if not file.is_file():
        return
    rows = {}
    with safe_open(str(file), framework="pt") as content:
        for name in content.keys():  # noqa: SIM118 (it is no mapping)
            for own, module in (
                ("embedding", model.get_input_embeddings()),
                ("head", model.get_output_embeddings()),
            ):
                ending = _ending_of(model, module)
                if ending and name.endswith(f".{ending}.weight"):
                    rows[own] = content.get_slice(name).get_shape()[0]
    tied = getattr(model.config.get_text_config(), "tie_word_embeddings", False)
    wanted = rows.get("embedding")
    if wanted in (None, model.get_input_embeddings().weight.shape[0]):
        return
    if not tied and rows.get("head") != wanted:
        raise ModelError(
            f"its adapter {folder.name!r} brings {wanted} embeddings, and no unembedding for them"
        )
    model.resize_token_embeddings(wanted, mean_resizing=False)


def _ending_of(model: Any, module: Any) -> str | None:
    """Last part of a module's name."""
    names = (name for name, one in model.named_modules() if one is module and module is not None)
    return next((name.rpartition(".")[2] for name in names), None)
