"""What an adapter's files say before it is applied: its kind, its ranks, whether it fits its base.

Nothing here imports torch or peft: a mistake is found before a base of gigabytes is opened.
"""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from icl_bench.errors import SpecError
from icl_bench.models.module.config_file import is_size, read_json
from icl_bench.models.module.leftovers import LAYER

ADAPTER_CONFIG = "adapter_config.json"
SAFE_ADAPTER = "adapter_model.safetensors"
PICKLE_ADAPTER = "adapter_model.bin"
ADAPTER_FILES = (ADAPTER_CONFIG, SAFE_ADAPTER, PICKLE_ADAPTER)
PROMPTS = {
    *("PROMPT_TUNING", "MULTITASK_PROMPT_TUNING", "P_TUNING", "PREFIX_TUNING", "CPT"),
    *("ADAPTION_PROMPT", "CARTRIDGE"),
}
"""Kinds that put tokens or states of their own before each prompt."""

_PREFIX = "base_model.model."
_DOWN = re.compile(r"(.+)\.lora_A(?:\.weight)?$")
Header = Mapping[str, Mapping[str, Any]]
"""Name -> entry of a safetensors header (`dtype`, `shape`)."""


def has_adapter(folder: Path) -> bool:
    """Whether a folder holds an adapter.

    Args:
        folder: the folder.
    """
    return any((folder / name).is_file() for name in ADAPTER_FILES)


def is_only_adapter(folder: Path) -> bool:
    """Whether a folder holds an adapter whose base is elsewhere.

    Args:
        folder: the folder.
    """
    return (folder / ADAPTER_CONFIG).is_file() and not (folder / "config.json").is_file()


def check_adapter(folder: Path, *, allow_pickle: bool = False) -> dict[str, Any]:
    """Check that the adapter in a folder is complete, and of a kind that can be applied.

    Args:
        folder: the folder.
        allow_pickle: accept weights that are stored as a pickle.

    Returns:
        its parsed config.

    Raises:
        SpecError: it lacks its config or weights, changes no weights, or peft is not installed.
    """
    if not (folder / ADAPTER_CONFIG).is_file():
        raise SpecError(f"it holds weights of an adapter without {ADAPTER_CONFIG}")
    config = check_adapter_config(read_json(folder / ADAPTER_CONFIG))
    if not (folder / SAFE_ADAPTER).is_file():
        if not (folder / PICKLE_ADAPTER).is_file():
            raise SpecError(f"it holds {ADAPTER_CONFIG} without {SAFE_ADAPTER}")
        if not allow_pickle:
            raise SpecError(
                f"its adapter is stored as a pickle ({PICKLE_ADAPTER}, without {SAFE_ADAPTER}), "
                "which can run any code when it is read; convert it to safetensors, or give "
                "--icl-allow-pickle if you trust its author"
            )
    if importlib.util.find_spec("peft") is None:
        raise SpecError(
            f"it holds an adapter ({ADAPTER_CONFIG}), and applying that needs one more package: "
            "pip install peft"
        )
    return config


def check_adapter_config(content: Any) -> dict[str, Any]:
    """Return the parsed config of an adapter.

    Args:
        content: the parsed JSON.

    Raises:
        SpecError: it describes no adapter of weights of a language model.
    """
    kind = content.get("peft_type") if isinstance(content, dict) else None
    if not isinstance(kind, str):
        raise SpecError(f"its {ADAPTER_CONFIG} names no peft_type")
    if kind in PROMPTS:
        raise SpecError(
            f"its adapter ({kind}) puts tokens of its own before each prompt and changes no "
            "weights; heads are read without such tokens"
        )
    task = content.get("task_type")
    if task not in (None, "CAUSAL_LM"):
        raise SpecError(f"its adapter is for the task {task!s:.40}; expected CAUSAL_LM")
    config: dict[str, Any] = content
    return config


def check_fit(
    adapter: Header, config: Mapping[str, Any], base: Header, base_config: Mapping[str, Any]
) -> None:
    """Check an adapter's ranks and shapes against its config and the weights of its base.

    Args:
        adapter: header of its weights.
        config: its parsed config.
        base: header of the base's weights; empty if they are not at hand or are packed.
        base_config: the base's parsed config; empty if it is not at hand.

    Raises:
        SpecError: ranks disagree with the config, or the adapter is of another base.
    """
    shapes = {name: tuple(entry.get("shape") or ()) for name, entry in adapter.items()}
    _check_ranks(shapes, config)
    count = base_config.get("num_hidden_layers", base_config.get("n_layer"))
    for name in shapes:
        layer = LAYER.match(name.removeprefix(_PREFIX))
        if is_size(count) and layer and int(layer[4]) >= count:
            raise SpecError(
                f"the adapter is of another base: it has weights for layer {layer[4]} ({name}), "
                f"and this base has {count} layers"
            )
    for module, made in _changed_shapes(shapes):
        own = _find_shape(base, module)
        if own is not None and not _fits(made, own):
            raise SpecError(
                f"the adapter is of another base: {module} has a weight of "
                f"{' x '.join(map(str, own))} in this base, and the adapter is for "
                f"{' x '.join(map(str, made))}"
            )


def _check_ranks(shapes: Mapping[str, tuple[int, ...]], config: Mapping[str, Any]) -> None:
    if config.get("peft_type") != "LORA" or not is_size(config.get("r")):
        return
    patterns = config.get("rank_pattern")
    for name, shape in shapes.items():
        down = _DOWN.match(name)
        if down is None or len(shape) < 2:
            continue
        rank = config["r"]
        for pattern, other in (patterns if isinstance(patterns, dict) else {}).items():
            try:
                if re.match(rf"(.*\.)?({pattern})$", down[1]):
                    rank = other
                    break
            except re.error:
                continue
        up = shapes.get(name.replace("lora_A", "lora_B"), (0, shape[0]))
        if shape[0] != rank or up[1] != shape[0]:
            found = f"{shape[0]}" if up[1] == shape[0] else f"{shape[0]} and {up[1]}"
            raise SpecError(
                f"ranks do not fit: {ADAPTER_CONFIG} says {rank}, and the weights of "
                f"{down[1].removeprefix(_PREFIX)} have {found}"
            )


def _changed_shapes(
    shapes: Mapping[str, tuple[int, ...]],
) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Yield module and shape of what LoRA adds to it, or of the factors of IA3."""
    for name, shape in shapes.items():
        plain = name.removeprefix(_PREFIX)
        if (down := _DOWN.match(plain)) and len(shape) == 2:
            up = shapes.get(name.replace("lora_A", "lora_B"), ())
            if len(up) == 2:
                yield down[1], (up[0], shape[1])
        elif plain.endswith(".ia3_l") and len(shape) == 2:
            yield plain.removesuffix(".ia3_l"), shape


def _fits(made: tuple[int, ...], own: tuple[int, ...]) -> bool:
    # GPT-2 stores its weights transposed; factors of IA3 are as long as one of the sides.
    if 1 in made:
        return max(made) in own
    return made in (own, own[::-1]) or len(own) != 2


def _find_shape(base: Header, module: str) -> tuple[int, ...] | None:
    """Shape of a module's weight, whose name in the file may lack its first parts."""
    parts = f"{module}.weight".split(".")
    for start in range(len(parts) - 2):
        entry = base.get(".".join(parts[start:]))
        if entry is not None:
            return tuple(entry.get("shape") or ())
    return None
