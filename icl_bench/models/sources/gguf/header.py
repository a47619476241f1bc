"""The header of a GGUF file: whether it is complete, and a language model."""

from __future__ import annotations

import importlib
import importlib.util
import math
import mmap
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from icl_bench.errors import SpecError
from icl_bench.models.sources.checkpoint_files import explain_lfs
from icl_bench.models.sources.gguf.settings import check_settings

MAGIC = b"GGUF"
VERSIONS = (2, 3)
_SCALARS = {
    0: "B",
    1: "b",
    2: "H",
    3: "h",
    4: "I",
    5: "i",
    6: "f",
    7: "?",
    10: "Q",
    11: "q",
    12: "d",
}
_STRING, _ARRAY = 8, 9
_MOST_DIMENSIONS = 8
_TEXTS = ("general.type", "general.architecture")
_COUNTS = ("split.count", "general.alignment", "general.file_type")
_MODEL_COUNTS = ("block_count", "embedding_length", "context_length", "feed_forward_length")


@dataclass(frozen=True)
class GgufHeader:
    """What the start of a GGUF file says.

    Args:
        metadata: key -> value, arrays left out.
        tensors: tensor name -> (dimensions, ggml type, offset into the data).
        data_start: where the data begins, in bytes.
    """

    metadata: dict[str, Any]
    tensors: dict[str, tuple[list[int], int, int]]
    data_start: int


class _Cursor:
    """Reads little-endian values one after the other; struct.error at the end of the file."""

    def __init__(self, data: mmap.mmap) -> None:
        self.data, self.at = data, 0

    def read(self, code: str) -> Any:
        (value,) = struct.unpack_from(f"<{code}", self.data, self.at)
        self.at += struct.calcsize(f"<{code}")
        return value

    def skip(self, count: int) -> None:
        if count > len(self.data) - self.at:
            raise struct.error("past the end of the file")
        self.at += count

    def read_string(self) -> str:
        length = self.read("Q")
        start = self.at
        self.skip(length)
        return self.data[start : self.at].decode("utf-8", "replace")

    def read_value(self, kind: int) -> Any:
        if kind == _STRING:
            return self.read_string()
        if kind != _ARRAY:
            return self.read(_SCALARS[kind])
        inner, count = self.read("I"), self.read("Q")
        if inner == _ARRAY:
            raise KeyError(inner)  # no key of a model has arrays in arrays
        if inner in _SCALARS:
            self.skip(count * struct.calcsize(f"<{_SCALARS[inner]}"))
        else:
            for _ in range(count):
                self.skip(self.read("Q")) if inner == _STRING else self.read(_SCALARS[inner])
        return None


def read_header(path: Path) -> GgufHeader:
    """Read what the start of a GGUF file says.

    Args:
        path: the file.

    Raises:
        SpecError: it cannot be read, is not GGUF, or is cut short.
    """
    if not path.is_file():
        raise SpecError(
            f"there is no file {str(path)!r} (a GGUF on the hub has to be downloaded first)"
        )
    try:
        with path.open("rb") as stream:
            start = stream.read(64)
            explain_lfs(path.name, start)
            if not start.startswith(MAGIC):
                raise SpecError(f"{path.name} is {'not a GGUF file' if start else 'empty'}")
            version = int.from_bytes(start[4:8], "little")
            if len(start) >= 8 and version not in VERSIONS:
                swapped = version and int.from_bytes(start[4:8], "big") in VERSIONS
                what = "big-endian" if swapped else f"version {version}"
                raise SpecError(
                    f"{path.name} is a GGUF file of {what}; this reads versions 2 and 3"
                )
            with mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as data:
                return _read_header(_Cursor(data))
    except OSError as error:
        raise SpecError(f"{path.name} cannot be read ({error.strerror or error})") from None
    except struct.error:
        raise SpecError(f"{path.name} is cut short: it ends within its header") from None
    except KeyError:
        raise SpecError(f"{path.name} is damaged: its header makes no sense") from None


def _read_header(cursor: _Cursor) -> GgufHeader:
    cursor.skip(8)
    tensor_count, key_count = cursor.read("Q"), cursor.read("Q")
    metadata = {}
    for _ in range(key_count):
        key, kind = cursor.read_string(), cursor.read("I")
        metadata[key] = cursor.read_value(kind)
    tensors = {}
    for _ in range(tensor_count):
        name = cursor.read_string()
        dimensions = cursor.read("I")
        if dimensions > _MOST_DIMENSIONS:
            raise KeyError(dimensions)
        shape = [cursor.read("Q") for _ in range(dimensions)]
        tensors[name] = (shape, cursor.read("I"), cursor.read("Q"))
    _check_kinds(metadata)
    alignment = metadata.get("general.alignment") or 32
    return GgufHeader(metadata, tensors, -(-cursor.at // alignment) * alignment)


def _check_kinds(metadata: dict[str, Any]) -> None:
    """Refuse values of a kind that their key cannot have; a count per layer is an array."""
    for name in _TEXTS:
        if not isinstance(metadata.get(name, ""), str):
            raise SpecError(f"the header is damaged: {name} is {metadata[name]!r:.60}, not text")
    architecture = metadata.get("general.architecture", "")
    for name in (*_COUNTS, *(f"{architecture}.{count}" for count in _MODEL_COUNTS)):
        value = metadata.get(name)
        if value is not None and (type(value) is not int or value < 0):
            raise SpecError(f"the header is damaged: {name} is {value!r:.60}, not a count")


def check_gguf(path: Path) -> None:
    """Check that a file is a complete GGUF with a language model in it.

    Args:
        path: the file.

    Raises:
        SpecError: it is not, or the packages that read it are not installed.
    """
    header = read_header(path)
    kind = header.metadata.get("general.type", "model")
    architecture = header.metadata.get("general.architecture")
    if kind == "adapter":
        raise SpecError(f"{path.name} holds a LoRA adapter, not a model; merge it into its model")
    if not architecture:
        raise SpecError(f"{path.name} has no general.architecture: it is not a language model")
    if kind != "model" or architecture == "clip":
        shown = f"type {kind!r:.40}, {architecture!r:.40}"
        raise SpecError(f"{path.name} is not a language model ({shown})")
    if header.metadata.get("split.count", 0) > 1:
        raise SpecError(
            f"{path.name} is one part of several; join them with llama-gguf-split --merge"
        )
    if not header.tensors:
        raise SpecError(f"{path.name} holds no weights (only a vocabulary)")
    if not all(importlib.util.find_spec(name) for name in ("gguf", "accelerate")):
        raise SpecError("reading GGUF files needs two more packages: pip install gguf accelerate")
    check_settings(header.metadata, header.tensors)
    missing = _data_end(header) - path.stat().st_size
    if missing > 0:
        raise SpecError(f"{path.name} is cut short: {missing} bytes of weights are missing")


def _data_end(header: GgufHeader) -> int:
    sizes = importlib.import_module("gguf.constants").GGML_QUANT_SIZES
    end = header.data_start
    for name, (shape, kind, offset) in header.tensors.items():
        if kind not in sizes:
            raise SpecError(
                f"tensor {name!r:.80} has type {kind}, unknown to the installed gguf package"
            )
        block, width = sizes[kind]
        end = max(end, header.data_start + offset + math.prod(shape) // block * width)
    return end
