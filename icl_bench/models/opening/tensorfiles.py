"""Safetensors files of a checkpoint: where its tensors are, and their values one at a time."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from icl_bench.errors import ModelError
from icl_bench.models.module.weights import explain_failure
from icl_bench.models.sources.folder import SAFE_INDEX, SAFE_WEIGHTS, read_shards

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Entry:
    """A tensor in a file, under the name that it has there."""

    file: Path
    name: str
    shape: tuple[int, ...]
    dtype: Any


def read_header(folder: Path) -> dict[str, Entry] | None:
    """Return name -> place, shape and type of every tensor of a checkpoint, without its values.

    Args:
        folder: the checkpoint's.

    Returns:
        None where its weights are in files of another kind.

    Raises:
        SpecError: an index or a file that it names is missing or broken.
        ModelError: a file cannot be read.
    """
    if (folder / SAFE_WEIGHTS).is_file():
        files = [folder / SAFE_WEIGHTS]
    elif (folder / SAFE_INDEX).is_file():
        files = read_shards(folder / SAFE_INDEX)
    else:
        return None
    found: dict[str, Entry] = {}
    for file in files:
        with _opened(file) as content:
            for name in content.keys():  # noqa: SIM118 (it is no mapping)
                part = content.get_slice(name)
                shape, dtype = tuple(part.get_shape()), _dtype_of(part.get_dtype())
                found[name] = Entry(file, name, shape, dtype)
    return found


def read_tensors(files: dict[str, Entry]) -> Iterator[tuple[str, Tensor]]:
    """Yield name and values of one tensor after the other, file by file.

    Args:
        files: name -> place.

    Raises:
        ModelError: a file or a tensor cannot be read.
    """
    for file in sorted({entry.file for entry in files.values()}):
        with _opened(file) as content:
            for name in sorted(name for name, entry in files.items() if entry.file == file):
                try:
                    tensor = content.get_tensor(files[name].name)
                except Exception as error:
                    raise ModelError(f"{name} cannot be read: {explain_failure(error)}") from error
                yield name, tensor


def _opened(file: Path) -> Any:
    from safetensors import safe_open

    try:
        return safe_open(str(file), framework="pt", device="cpu")
    except Exception as error:
        raise ModelError(f"{file.name} cannot be read: {explain_failure(error)}") from error


def _dtype_of(name: str) -> Any:
    """Torch's type for a name of safetensors', None for those that no weight of ours has."""
    import torch

    return {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16}.get(
        name, torch.bfloat16 if name == "BF16" else None
    )
