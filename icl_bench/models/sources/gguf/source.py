"""The source of GGUF files: `FILE.gguf`, loaded from a float copy in a folder like any other.

Dequantizing takes many seconds even for a small model, so it is done once per content of the file.
"""

from __future__ import annotations

import functools
import importlib.metadata
import math
import os
import re
import shutil
import tempfile
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from icl_bench.errors import IclError, ModelError, SpecError
from icl_bench.models.module.quiet import silenced
from icl_bench.models.module.tokenizer import tokenizer_files
from icl_bench.models.module.weights import check_loading_info, explain_failure
from icl_bench.models.sources.checkpoint_files import check_folder
from icl_bench.models.sources.file_identity import digest_content, places_of
from icl_bench.models.sources.gguf.header import check_gguf, read_header
from icl_bench.models.sources.gguf.settings import ROPE_FACTORS, apply_rope, refuse_ignored
from icl_bench.models.sources.pretrained import load_pretrained
from icl_bench.models.sources.source import Found, LoadedParts, Opening, Source
from icl_bench.models.sources.spec import ModelSpec, local_path

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

LOCK_SECONDS = 3600
"""How long to wait for another process that converts the same file."""

COPIES = "gguf"
"""Folder of the copies in that of the cache."""
SUFFIX = ".gguf"

_FORM = 2
"""Raised when copies are made otherwise, so that older ones are not used. 1 had no settings of
positions that transformers ignores."""
_COPY = re.compile(r"[0-9a-f]{32}-transformers-[0-9]+(?:\.[0-9]+)?(?:-[0-9]+)?")
"""Names of the copies' folders."""


def float_copy(path: Path, cache_dir: Path) -> Path:
    """Return a folder with the model of a GGUF file in float32, made on first use.

    The folder is named by the file's content and by the version of transformers, whose config
    files change between versions. Several processes may ask at once: one converts, the others
    wait. What a killed process leaves behind is never used, and is removed.

    Args:
        path: a GGUF file that passed `check_gguf`.
        cache_dir: where copies are kept, in the sub-folder `gguf`.

    Raises:
        ModelError: it cannot be converted, or the copy cannot be written.
    """
    from filelock import FileLock, Timeout

    root = cache_dir / COPIES
    version = ".".join(importlib.metadata.version("transformers").split(".")[:2])
    try:
        root.mkdir(parents=True, exist_ok=True)
        copy = root / f"{digest_content(path, root)}-transformers-{version}-{_FORM}"
        if _is_complete(copy):
            return copy
        # The operating system frees this lock when its holder dies.
        with FileLock(f"{copy}.lock", timeout=LOCK_SECONDS):
            for leftover in root.glob(f"{copy.name}.part-*"):
                shutil.rmtree(leftover, ignore_errors=True)
            if not _is_complete(copy):
                _write_copy(path, copy)
    except Timeout:
        raise ModelError(f"another process has been converting {path.name} for an hour") from None
    except OSError as error:
        raise ModelError(
            f"no float copy of {path.name} can be kept under {root} ({error.strerror or error}); "
            "choose another folder with --icl-cache-dir"
        ) from None
    return copy


def find_copies(cache_dir: Path) -> list[Path]:
    """Return the folders of float copies, in order.

    Args:
        cache_dir: the folder that `float_copy` was given.
    """
    root = cache_dir / COPIES
    # Of one that was not finished, the name that it would have had. Other folders are not ours.
    names = {path.name.partition(".part-")[0] for path in root.glob("*") if path.is_dir()}
    return [root / name for name in sorted(names) if _COPY.fullmatch(name)]


def remove_copy(copy: Path) -> bool:
    """Remove a float copy and what a killed process left of it.

    Args:
        copy: its folder.

    Returns:
        False when that could not be done, or a process is converting the file.
    """
    from filelock import FileLock, Timeout

    try:
        # The file of the lock stays: whoever waits for it has it open.
        with FileLock(f"{copy}.lock", timeout=0):
            for folder in (copy, *copy.parent.glob(f"{copy.name}.part-*")):
                shutil.rmtree(folder, ignore_errors=True)
    except (OSError, Timeout):
        return False
    return not copy.exists()


def _is_complete(copy: Path) -> bool:
    if not copy.is_dir():
        return False
    try:
        check_folder(copy)
    except SpecError:
        return False
    return True


def _write_copy(path: Path, copy: Path) -> None:
    part = Path(tempfile.mkdtemp(prefix=f"{copy.name}.part-", dir=copy.parent))
    try:
        with silenced(), _names_made_once():
            _convert(path, part)
        part.chmod(0o755)
        if copy.exists():
            shutil.rmtree(copy)
        os.replace(part, copy)
    except (IclError, OSError):
        raise
    except Exception as error:
        raise ModelError(f"no float copy can be written: {explain_failure(error)}") from error
    finally:
        shutil.rmtree(part, ignore_errors=True)


def _convert(path: Path, folder: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM

    auto: Any = AutoModelForCausalLM
    try:
        model, info = auto.from_pretrained(
            str(path.parent),
            gguf_file=path.name,
            dtype=torch.float32,
            output_loading_info=True,
            trust_remote_code=False,
            **dict(_dequantized()),
        )
    except Exception as error:
        raise ModelError(f"it cannot be converted: {explain_failure(error)}") from error
    check_loading_info(info)
    header = read_header(path)
    refuse_ignored(header.metadata, header.tensors, model)
    # Reading a file with gguf's own reader takes seconds, and few have this tensor.
    factors = _rope_factors(path) if ROPE_FACTORS in header.tensors else None
    apply_rope(header.metadata, factors, model)
    # Both would keep transformers from saving the model, or from reading it as what it now is.
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
    model.hf_quantizer = None
    model.save_pretrained(folder)
    tokenizer, _ = load_gguf_tokenizer(path)
    if tokenizer is not None:
        tokenizer.save_pretrained(folder)


def _describe_types(path: Path) -> str | None:
    """The type that most weights of a file are stored in, if it is a quantized one."""
    from gguf import GGMLQuantizationType

    counts: Counter[int] = Counter()
    for shape, kind, _ in read_header(path).tensors.values():
        counts[kind] += math.prod(shape)
    name = GGMLQuantizationType(counts.most_common(1)[0][0]).name
    bits = re.match(r"I?Q(\d+)_", name)
    return f"GGUF {name}, {bits[1]} bits, unpacked when it was opened" if bits else None


def _rope_factors(path: Path) -> Any:
    """What the file divides the rotary frequencies by, one number each."""
    from gguf import GGUFReader

    return next(t.data for t in GGUFReader(path).tensors if t.name == ROPE_FACTORS).tolist()


@contextmanager
def _names_made_once() -> Iterator[None]:
    """Keep gguf's table of tensor names: transformers makes the same one for every module."""
    try:
        import gguf
    except ImportError:  # what needs it says so in its own words
        yield
        return
    original = gguf.get_tensor_name_map
    gguf.get_tensor_name_map = functools.cache(original)
    try:
        yield
    finally:
        gguf.get_tensor_name_map = original


def load_gguf_tokenizer(path: Path) -> tuple[PreTrainedTokenizerBase | None, str | None]:
    """Return the tokenizer inside a GGUF file, or None and the reason why there is none.

    Args:
        path: the file.
    """
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(
            str(path.parent), gguf_file=path.name, trust_remote_code=False
        )
    except Exception as error:
        return None, f"its tokenizer cannot be read: {explain_failure(error)}"
    return tokenizer, None


def _dequantized() -> Iterator[tuple[str, Any]]:
    # Transformers 5 can keep weights packed where a kernel exists for the device.
    import transformers

    config = getattr(transformers, "GgufConfig", None)
    if config is not None:
        yield "quantization_config", config(dequantize=True)


class Gguf(Source):
    """Files that llama.cpp reads, opened from a float copy."""

    def recognise(self, text: str) -> ModelSpec | None:
        path = local_path(text)
        if not path.lower().endswith(SUFFIX) or os.path.isdir(path):
            return None
        return ModelSpec(text, "gguf", os.path.abspath(path), suffix=SUFFIX)

    def check(self, spec: ModelSpec, *, allow_pickle: bool = False) -> Found | None:
        check_gguf(Path(spec.target))
        return None

    def identity(self, spec: ModelSpec, how: Opening) -> Any | None:
        return places_of([Path(spec.target)])

    def content(self, spec: ModelSpec, how: Opening) -> str | None:
        return digest_content(Path(spec.target), how.cache_dir / COPIES)

    def open(self, spec: ModelSpec, how: Opening) -> LoadedParts:
        path = Path(spec.target)
        copy = float_copy(path, how.cache_dir)
        parts = load_pretrained(str(copy), how)
        parts.quantization = _describe_types(path)
        if not tokenizer_files(copy):
            # What was missing when the copy was made, a package perhaps, may be there by now.
            with silenced():
                parts.tokenizer, parts.tokenizer_note = load_gguf_tokenizer(path)
        return parts


SOURCE = Gguf()
