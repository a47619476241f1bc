"""What a folder with a checkpoint must hold, read without torch: weight files and their sizes."""

from __future__ import annotations

import json
import os
import re
import struct
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

from icl_bench.errors import SpecError
from icl_bench.models.module.adapter_files import (
    ADAPTER_CONFIG,
    ADAPTER_FILES,
    check_adapter,
    has_adapter,
)
from icl_bench.models.module.config_file import check_config, is_size, read_json
from icl_bench.models.module.quantized_files import check_packages
from icl_bench.models.module.tensor_headers import check_headers

SAFE_WEIGHTS = "model.safetensors"
SAFE_INDEX = "model.safetensors.index.json"
PICKLE_WEIGHTS = "pytorch_model.bin"
PICKLE_INDEX = "pytorch_model.bin.index.json"
LFS_POINTER = b"version https://git-lfs"
NO_PICKLE = (
    "its weights are stored as a pickle, which can run any code when it is read; convert it to "
    "safetensors, or give --icl-allow-pickle if you trust its author"
)

AN_ADAPTER = (
    "; it holds an adapter beside the config of a model: remove config.json, or give the model's "
    "weights too"
)
TRAINING_STATE = {
    r"zero_to_fp32\.py$|(zero_pp_rank|mp_rank)_\d+": (
        "the sharded training state of DeepSpeed; merge it: python zero_to_fp32.py . OUT "
        "--safe_serialization"
    ),
    r"\.distcp$|\.metadata$": (
        "the sharded training state of FSDP; merge it: accelerate merge-weights "
        "FOLDER/pytorch_model_fsdp_0 OUT"
    ),
    r"model_optim_rng\.pt$": "Megatron's training state; convert it to transformers' format",
    r"model_rank_\d+|rank_?\d+.*\.pt$": "the training state of single processes; merge it",
}
"""What names of files say of weights that only training can read -> what it is, and what to do."""

_MAX_HEADER = 100 * 2**20


def check_folder(folder: Path, *, allow_pickle: bool = False) -> None:
    """Check that a folder holds a complete checkpoint of a causal language model.

    Args:
        folder: the folder.
        allow_pickle: accept weights that are stored as pickles.

    Raises:
        SpecError: something is missing, broken or of another kind.
    """
    if folder.exists() and not folder.is_dir():
        raise SpecError("this is a file, not a folder")
    if not folder.is_dir():
        raise SpecError(f"there is no folder {str(folder)!r}")
    config = folder / "config.json"
    if not config.is_file():
        raise SpecError(f"the folder has no config.json{_explain_missing_config(folder)}")
    content = read_json(config)
    check_config(content)
    check_packages(content)
    _check_weights(folder, content, allow_pickle)
    if has_adapter(folder):
        check_adapter(folder, allow_pickle=allow_pickle)


def _explain_missing_config(folder: Path) -> str:
    try:
        names = sorted(os.listdir(folder))
    except OSError as error:
        return f"; it cannot be listed ({error.strerror or error})"
    steps = [n for n in names if (folder / n / "config.json").is_file()]
    ggufs = [n for n in names if n.lower().endswith(".gguf")]
    if steps:
        listed = ", ".join(sorted(steps, key=lambda n: (len(n), n))[-5:])
        return (
            f"; these sub-folders are checkpoints, give one of them: {listed} (or all, as a "
            f"series: '{folder.name}@*')"
        )
    adapters = sorted(path.parent.name for path in folder.glob(f"*/{ADAPTER_CONFIG}"))
    if adapters:
        listed = ", ".join(f"{folder.name}/{name}" for name in adapters[:5])
        return f"; it holds several adapters, give one of them: {listed}"
    if set(names) & set(ADAPTER_FILES):
        return f"; it holds weights of an adapter without {ADAPTER_CONFIG}"
    if ggufs:
        return f"; give the GGUF file itself: {os.path.join(folder.name, ggufs[0])}"
    return "; a checkpoint folder is what save_pretrained writes"


def _check_weights(folder: Path, config: dict[str, Any], allow_pickle: bool) -> None:
    if (folder / SAFE_WEIGHTS).is_file():
        check_headers(check_safetensors(folder / SAFE_WEIGHTS), config)
    elif (folder / SAFE_INDEX).is_file():
        tensors: dict[str, Any] = {}
        for shard in read_shards(folder / SAFE_INDEX):
            tensors.update(check_safetensors(shard))
        check_headers(tensors, config)
    elif (folder / PICKLE_WEIGHTS).is_file() or (folder / PICKLE_INDEX).is_file():
        if not allow_pickle:
            raise SpecError(NO_PICKLE)
        if (folder / PICKLE_WEIGHTS).is_file():
            _check_pickle(folder / PICKLE_WEIGHTS)
        else:
            for shard in read_shards(folder / PICKLE_INDEX):
                _check_pickle(shard)
    else:
        raise SpecError(_explain_missing_weights(folder))


def _explain_missing_weights(folder: Path) -> str:
    names = sorted(os.listdir(folder))
    if set(names) & set(ADAPTER_FILES):
        return f"the folder has no {SAFE_WEIGHTS}{AN_ADAPTER}"
    inside = [*names, *(f"{path.parent.name}/{path.name}" for path in folder.glob("*/*"))]
    for pattern, what in TRAINING_STATE.items():
        if found := next((name for name in inside if re.search(pattern, name)), None):
            return f"the folder has no {SAFE_WEIGHTS}, but {what} ({found})"
    others = [name for name in names if name.endswith((".safetensors", ".bin", ".pt"))]
    beside = f" (it holds {', '.join(others[:3])})" if others else ""
    return f"the folder has no {SAFE_WEIGHTS} and no {SAFE_INDEX}{beside}"


def read_shards(index: Path) -> list[Path]:
    """Return the files that a sharded checkpoint consists of.

    Args:
        index: its `*.index.json`.

    Raises:
        SpecError: the index is broken, or a file that it names is missing.
    """
    files = shard_names(index)
    try:
        missing = [name for name in files if not (index.parent / name).is_file()]
    except OSError as error:  # a name that no file system takes
        raise SpecError(f"{index.name} names no file ({error.strerror or error})") from None
    if missing:
        more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        raise SpecError(
            f"{missing[0]}{more} of {len(files)} weight files named in {index.name} missing"
        )
    return [index.parent / name for name in files]


def shard_names(index: Path) -> list[str]:
    """Return the names of the files that a sharded checkpoint consists of, there or not.

    Args:
        index: its `*.index.json`.

    Raises:
        SpecError: the index is broken.
    """
    content = read_json(index)
    names = content.get("weight_map") if isinstance(content, dict) else None
    if not isinstance(names, dict) or not names:
        raise SpecError(f"{index.name} has no weight_map")
    for name in names.values():
        if not isinstance(name, str) or not name.isprintable():
            raise SpecError(f"{index.name} names {json.dumps(name):.60}, which is no file's name")
        parts = (PurePosixPath(name), PureWindowsPath(name))
        if not name or any(part.anchor or ".." in part.parts for part in parts):
            raise SpecError(
                f"{index.name} names a file outside of the checkpoint, {name[:60]!r}: it is not "
                "opened; names are relative to the folder of the index"
            )
    return sorted(set(names.values()))


def check_safetensors(path: Path) -> dict[str, Any]:
    """Check that a safetensors file has a sound header and all the data that it promises.

    Args:
        path: the file.

    Returns:
        name -> entry of each tensor in its header.

    Raises:
        SpecError: it is no safetensors file, or is cut short.
    """
    try:
        size = path.stat().st_size
        with path.open("rb") as stream:
            start = stream.read(8)
            length = struct.unpack("<Q", start)[0] if len(start) == 8 else 0
            plausible = 2 <= length <= min(_MAX_HEADER, size - 8)
            header = stream.read(length) if plausible else stream.read(64)
    except OSError as error:
        raise SpecError(f"{path.name} cannot be read ({error.strerror or error})") from None
    explain_lfs(path.name, start + header)
    if not plausible:
        raise SpecError(f"{path.name} is cut short or not a safetensors file ({size} bytes)")
    try:
        tensors = json.loads(header)
        entries = [entry for name, entry in tensors.items() if name != "__metadata__"]
        if not all(map(_is_entry, entries)):
            raise TypeError
        ends = [entry["data_offsets"][1] for entry in entries]
        needed = max(ends, default=0)
    except (ValueError, TypeError, AttributeError, RecursionError):
        raise SpecError(f"{path.name} is not a safetensors file: its header is broken") from None
    if not ends:
        raise SpecError(f"{path.name} holds no weights")
    if size - 8 - length != needed:
        raise SpecError(
            f"{path.name} is cut short or damaged: its header promises {needed} bytes of weights, "
            f"the file has {size - 8 - length}; copy or download it again"
        )
    return {name: entry for name, entry in tensors.items() if name != "__metadata__"}


def _is_entry(entry: Any) -> bool:
    """Whether a tensor's entry in a header has the kinds that the format asks for."""
    if not isinstance(entry, dict) or not isinstance(entry.get("dtype"), str):
        return False
    parts = [entry.get("shape"), entry.get("data_offsets")]
    whole = all(isinstance(part, list) and all(map(is_size, part)) for part in parts)
    return whole and len(entry["data_offsets"]) == 2


def _check_pickle(path: Path) -> None:
    try:
        with path.open("rb") as stream:
            start = stream.read(64)
    except OSError as error:
        raise SpecError(f"{path.name} cannot be read ({error.strerror or error})") from None
    explain_lfs(path.name, start)
    if not start:
        raise SpecError(f"{path.name} is empty")


def explain_lfs(name: str, start: bytes) -> None:
    """Raise SpecError when a file is a Git LFS pointer that stands in for the real one.

    Args:
        name: the file's name.
        start: its first bytes.
    """
    if start.startswith(LFS_POINTER):
        raise SpecError(f"{name} is a Git LFS pointer, not the file itself; run 'git lfs pull'")
