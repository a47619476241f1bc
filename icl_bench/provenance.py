"""Which code makes the numbers: versions of libraries, and a digest of the package's own files."""

from __future__ import annotations

import functools
import hashlib
import importlib.metadata
import importlib.util
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

PACKAGE = Path(__file__).parent
MEASURING = ("measures", "models", "probes", "reference", "tasks")
"""Sub-packages whose code, or facts, can change a number."""
LIBRARIES = ("torch", "transformers", "tokenizers", "numpy", "scipy")
"""Libraries that numbers come from."""
READERS = (
    *("sentencepiece", "tiktoken", "protobuf", "gguf", "peft", "accelerate"),
    *("compressed-tensors", "bitsandbytes", "torchao", "gptqmodel", "optimum"),
)
"""Optional libraries that decide whether a tokenizer or weights can be read."""


def digest(described: Any) -> str:
    """Return the SHA-256 of anything that JSON can express; the order of keys does not count.

    Args:
        described: what to take the digest of.

    Raises:
        ValueError: it holds NaN or infinity.
    """
    text = json.dumps(described, sort_keys=True, allow_nan=False)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def digest_files(paths: Iterable[Path], root: Path) -> str:
    """Return the SHA-256 over names, below `root`, and contents of files.

    Args:
        paths: the files, in any order.
        root: folder that their names are told from.

    Raises:
        OSError: one of them cannot be read.
    """
    found = {path.relative_to(root).as_posix(): path for path in paths}
    return digest(
        {name: hashlib.sha256(path.read_bytes()).hexdigest() for name, path in found.items()}
    )


@functools.cache
def code_version() -> str:
    """Return the digest of every file of the package that can change a number."""
    files = [path for name in MEASURING for path in (PACKAGE / name).rglob("*.py")]
    files += (PACKAGE / "tasks").rglob("*.json")
    return digest_files(files, PACKAGE)


@functools.cache
def module_version(name: str) -> str | None:
    """Return the digest of a module's file, None for modules of the package itself.

    Args:
        name: full name of the module; it is not imported.
    """
    if name.split(".")[0] == PACKAGE.name:
        return None
    try:
        found = importlib.util.find_spec(name)
    except ValueError:  # made by hand: it comes from no file
        found = None
    if found is None or found.origin is None or not Path(found.origin).is_file():
        return "unknown"
    return hashlib.sha256(Path(found.origin).read_bytes()).hexdigest()


@functools.cache
def package_version(name: str) -> str | None:
    """Return the digest of every file of the package that a module is in, None for this package.

    Args:
        name: full name of the module; it is not imported.
    """
    top = name.split(".")[0]
    try:
        found = importlib.util.find_spec(top)
    except ValueError:
        found = None
    folders = [Path(folder) for folder in (found and found.submodule_search_locations) or ()]
    if top == PACKAGE.name or not folders:
        return module_version(name)
    files = ((folder, path) for folder in folders for path in folder.rglob("*") if path.is_file())
    return digest(
        [
            (path.relative_to(folder).as_posix(), hashlib.sha256(path.read_bytes()).hexdigest())
            for folder, path in sorted(files)
            if path.suffix != ".pyc"
        ]
    )


@functools.cache
def library_versions(readers: bool = False) -> dict[str, str | None]:
    """Return the installed versions of the libraries that matter, without importing them.

    Args:
        readers: name also what some tokenizers need to be read.
    """
    return {name: _version(name) for name in LIBRARIES + (READERS if readers else ())}


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None
