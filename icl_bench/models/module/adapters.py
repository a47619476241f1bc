"""An adapter in the folder of the weights that it belongs to: merged into them.

Transformers applies it if peft is installed and leaves it out if not, and with it checks the
adapter's names only. Here weights and adapter are loaded one after the other, each by its rule.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from icl_bench.errors import IclError, ModelError, SpecError

ADAPTER_CONFIG = "adapter_config.json"
ADAPTER_WEIGHTS = ("adapter_model.safetensors", "adapter_model.bin")


def has_adapter(folder: Path) -> bool:
    """Whether a folder holds an adapter.

    Args:
        folder: the folder.
    """
    return any((folder / name).is_file() for name in (ADAPTER_CONFIG, *ADAPTER_WEIGHTS))


def check_adapter(folder: Path) -> None:
    """Check that an adapter in a checkpoint's folder, if there is one, can be applied.

    Args:
        folder: the folder.

    Raises:
        SpecError: it lacks its config or weights, or peft is not installed.
    """
    if not has_adapter(folder):
        return
    if not (folder / ADAPTER_CONFIG).is_file():
        raise SpecError(f"it holds weights of an adapter without {ADAPTER_CONFIG}")
    if not (folder / ADAPTER_WEIGHTS[0]).is_file():
        # An adapter's pickle is read by peft, which asks nobody.
        raise SpecError(f"it holds {ADAPTER_CONFIG} without {ADAPTER_WEIGHTS[0]}")
    if importlib.util.find_spec("peft") is None:
        raise SpecError(
            f"it holds an adapter beside its weights ({ADAPTER_CONFIG}), and applying that needs "
            "one more package: pip install peft"
        )


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
            if path.name not in (ADAPTER_CONFIG, *ADAPTER_WEIGHTS):
                (Path(folder) / path.name).symlink_to(path)
        yield folder


def merge_adapter(model: Any, folder: str) -> tuple[Any, str]:
    """Merge the adapter in a folder into a model.

    Args:
        model: the model with the folder's own weights.
        folder: the folder.

    Returns:
        the model, and the adapter's kind and size for the record.

    Raises:
        ModelError: it cannot be applied, fits only in part, or cannot be merged.
    """
    from peft import PeftConfig, PeftModel

    from icl_bench.models.module.weights import explain_failure

    if getattr(model, "hf_quantizer", None) is not None:
        raise ModelError("an adapter cannot be merged into quantized weights; dequantize them")
    try:
        config = PeftConfig.from_pretrained(folder)
        config.inference_mode = True
        adapted = PeftModel(model, config)
        found = adapted.load_adapter(folder, "default", is_trainable=False)
        left = [*found.unexpected_keys, *found.missing_keys]
        if left:
            raise ModelError(f"its adapter does not fit: {len(left)} weights ({left[0]} first)")
        merge = getattr(adapted, "merge_and_unload", None)
        if merge is None or config.is_prompt_learning:
            raise ModelError(f"its adapter ({config.peft_type}) cannot be merged into weights")
        merged = merge(safe_merge=True)
    except IclError:
        raise
    except Exception as error:
        raise ModelError(f"its adapter cannot be applied: {explain_failure(error)}") from error
    # What peft leaves on the module would make it look adapted still.
    for name in ("peft_config", "_hf_peft_config_loaded"):
        if name in vars(merged):
            delattr(merged, name)
    kind = str(getattr(config.peft_type, "value", config.peft_type))
    rank = getattr(config, "r", None)
    return merged, f"{kind}{f' of rank {rank}' if rank else ''}, in the folder of the weights"
