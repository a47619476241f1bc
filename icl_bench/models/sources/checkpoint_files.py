"""What a folder with a checkpoint must hold, read without torch: config, weights, their sizes."""

from __future__ import annotations

import json
import os
import re
import struct
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

from icl_bench.errors import SpecError
from icl_bench.models.module.adapters import ADAPTER_CONFIG, ADAPTER_WEIGHTS, check_adapter
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

AN_ADAPTER = "; it holds an adapter: merge it into its base model and save that"
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

ENCODERS = frozenset(
    {
        *("albert", "bert", "camembert", "convbert", "deberta", "deberta-v2", "distilbert"),
        *("electra", "esm", "funnel", "longformer", "modernbert", "mpnet", "nomic_bert", "roberta"),
        *("squeezebert", "xlm-roberta", "xlm-roberta-xl", "clip", "vit", "wav2vec2"),
    }
)
"""Model types that never predict the next token unless the config says `is_decoder`."""
CAUSAL_ENDINGS = ("ForCausalLM", "LMHeadModel")
"""How the class names of causal language models end, whatever else their config says."""
_MAX_HEADER = 100 * 2**20
_DEEPEST = 100
"""Levels of a JSON file; none that describes a model has a tenth of them."""
_COUNTS = frozenset(
    {
        *("vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "head_dim"),
        *("num_key_value_heads", "intermediate_size", "max_position_embeddings"),
        *("n_embd", "n_layer", "n_head", "n_inner", "n_positions", "n_ctx", "d_model", "d_ff"),
        *("n_layers", "n_heads", "num_layers", "num_heads", "ffn_dim", "decoder_layers"),
    }
)
_GROUPS = frozenset(
    {
        *("text_config", "rope_scaling", "rope_parameters", "quantization_config", "auto_map"),
        *("vision_config", "audio_config"),
    }
)


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
    _check_weights(folder, content, allow_pickle)
    check_adapter(folder)


def check_config(config: Any) -> None:
    """Check that the content of a `config.json` can describe a causal language model.

    Args:
        config: the parsed JSON.

    Raises:
        SpecError: it describes no model, or surely one of another kind.
    """
    if not isinstance(config, dict):
        raise SpecError("its config.json is not a JSON object")
    kind, classes = config.get("model_type"), config.get("architectures")
    _check_kinds(config)
    if not kind and not classes:
        raise SpecError("its config.json names neither a model_type nor architectures")
    if isinstance(classes, list) and any(str(name).endswith(CAUSAL_ENDINGS) for name in classes):
        return
    shape = None
    if config.get("is_encoder_decoder") is True:
        shape = "an encoder-decoder model"
    elif kind in ENCODERS and config.get("is_decoder") is not True:
        shape = "an encoder"
    if shape:
        raise SpecError(f"not a causal language model: its config.json describes {shape} ({kind})")


def _check_kinds(config: dict[str, Any]) -> None:
    """Refuse settings of a kind that no model has; what else may be wrong, loading will find."""

    def refuse(name: str, expected: str) -> None:
        found = json.dumps(config[name])
        raise SpecError(f"its config.json has {name} {found:.60}, which should be {expected}")

    for name, value in config.items():
        if value is None:
            continue
        several = value if isinstance(value, list) else [value]
        if name == "model_type" and not isinstance(value, str):
            refuse(name, "text")
        elif name == "architectures" and not (
            isinstance(value, list) and all(isinstance(one, str) for one in value)
        ):
            refuse(name, "a list of class names")
        elif name in _GROUPS and not isinstance(value, dict):
            refuse(name, "an object")
        elif name in _COUNTS and not all(map(_is_count, several)):
            refuse(name, "a whole number from 0 on")
    if isinstance(config.get("text_config"), dict):
        _check_kinds(config["text_config"])


def _is_count(value: Any) -> bool:
    return value is None or _is_length(value)


def read_json(path: Path) -> Any:
    """Return the content of a JSON file.

    Args:
        path: the file.

    Raises:
        SpecError: it cannot be read, is not JSON, or is nested too deep.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if _is_deep(content):
            raise RecursionError
        return content
    except OSError as error:
        raise SpecError(f"{path.name} cannot be read ({error.strerror or error})") from None
    except RecursionError:
        raise SpecError(f"{path.name} is nested too deep to describe a model") from None
    except ValueError as error:
        raise SpecError(f"{path.name} is not valid JSON ({error})") from None


def _is_deep(content: Any) -> bool:
    """Whether something has more levels than functions may call themselves on."""
    level = [content]
    for _ in range(_DEEPEST):
        level = [
            part
            for one in level
            if isinstance(one, (dict, list))
            for part in (one.values() if isinstance(one, dict) else one)
        ]
    return bool(level)


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
    if ADAPTER_CONFIG in names:
        return AN_ADAPTER
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
    if ADAPTER_CONFIG in names or set(names) & set(ADAPTER_WEIGHTS):
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
    whole = all(isinstance(part, list) and all(map(_is_length, part)) for part in parts)
    return whole and len(entry["data_offsets"]) == 2


def _is_length(value: Any) -> bool:
    return type(value) is int and 0 <= value < 2**63


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
