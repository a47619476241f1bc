"""A checkpoint as it is stored: config, tokenizer, and its tensors one at a time."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from icl_bench.errors import ModelError
from icl_bench.models.module.config_file import read_json
from icl_bench.models.module.quiet import silenced
from icl_bench.models.module.tokenizer import load_tokenizer, tokenizer_files
from icl_bench.models.module.weights import explain_failure
from icl_bench.models.sources.checkpoint_files import SAFE_INDEX, SAFE_WEIGHTS, read_shards

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedTokenizerBase

_DTYPES = ("dtype", "torch_dtype")
_NOTED = ("transformers_version", "name_or_path")
"""Entries of a config that say where a checkpoint comes from, not what it is."""


@dataclass(frozen=True)
class Entry:
    """A tensor in a file, under the name that it has there."""

    file: Path
    name: str
    shape: tuple[int, ...]
    dtype: Any


@dataclass(frozen=True)
class Stored:
    """A checkpoint in safetensors files, for its tensors to be copied into an open module.

    A source whose checkpoints are stored otherwise makes a subclass.

    Args:
        folder: config and safetensors weights.
        source: what transformers loads its tokenizer from: the folder, or a hub id.
        commit: of a hub id.
        cached: whether the hub is not to be asked.
    """

    folder: Path
    source: str
    commit: str | None = None
    cached: bool = False

    def read_config(self, with_dtype: bool) -> dict[str, Any]:
        """Return the config without what says where it comes from.

        Args:
            with_dtype: whether data types stay in it.

        Raises:
            SpecError: it cannot be read.
        """

        def plain(content: Any) -> Any:
            if isinstance(content, dict):
                return {
                    key: plain(value)
                    for key, value in content.items()
                    if not key.startswith("_")
                    and key not in _NOTED
                    and (with_dtype or key not in _DTYPES)
                }
            return [plain(value) for value in content] if isinstance(content, list) else content

        config: dict[str, Any] = plain(read_json(self.folder / "config.json"))
        return config

    def read_header(self) -> dict[str, Entry] | None:
        """Return name -> place, shape and type of every tensor, without its values.

        Returns:
            None where its weights are in files of another kind.

        Raises:
            SpecError: an index or a file that it names is missing or broken.
            ModelError: a file cannot be read.
        """
        if (self.folder / SAFE_WEIGHTS).is_file():
            files = [self.folder / SAFE_WEIGHTS]
        elif (self.folder / SAFE_INDEX).is_file():
            files = read_shards(self.folder / SAFE_INDEX)
        else:
            return None
        entries: dict[str, Entry] = {}
        for file in files:
            with _opened(file) as content:
                for name in content.keys():  # noqa: SIM118 (it is no mapping)
                    part = content.get_slice(name)
                    shape, dtype = tuple(part.get_shape()), _dtype_of(part.get_dtype())
                    entries[name] = Entry(file, name, shape, dtype)
        return entries

    def read_tensors(self, entries: dict[str, Entry]) -> Iterator[tuple[str, Tensor]]:
        """Yield name and values of one tensor after the other, file by file.

        Args:
            entries: name -> place.

        Raises:
            ModelError: a file or a tensor cannot be read.
        """
        for file in sorted({entry.file for entry in entries.values()}):
            with _opened(file) as content:
                for name in sorted(name for name, entry in entries.items() if entry.file == file):
                    try:
                        tensor = content.get_tensor(entries[name].name)
                    except Exception as error:
                        raise ModelError(
                            f"{name} cannot be read: {explain_failure(error)}"
                        ) from error
                    yield name, tensor

    def digest_tokenizer(self) -> str | None:
        """Return the digest of the tokenizer's files; None on a hub, which is not asked."""
        if self.commit is not None:
            return None
        hashed = hashlib.sha256()
        for file in tokenizer_files(self.folder):
            content = file.read_bytes()
            hashed.update(f"{file.name} {len(content)}\n".encode())
            hashed.update(content)
        return hashed.hexdigest()

    def load_tokenizer(
        self, trust_remote_code: bool
    ) -> tuple[PreTrainedTokenizerBase | None, str | None]:
        """Return the tokenizer, or None and the reason why there is none.

        Args:
            trust_remote_code: run code that it brings.
        """
        load: dict[str, Any] = {"trust_remote_code": trust_remote_code}
        if self.commit is not None:
            load.update(revision=self.commit, local_files_only=self.cached)
        with silenced():
            return load_tokenizer(self.source, load)


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
