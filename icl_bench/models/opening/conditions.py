"""Everything about an open model that can change a number measured on it."""

from __future__ import annotations

import hashlib
import inspect
import json
import platform
import tempfile
from pathlib import Path
from typing import Any

import torch

from icl_bench.models.model import Model
from icl_bench.models.module.quantization import quantized_layers
from icl_bench.models.module.vocabulary import fingerprint
from icl_bench.provenance import code_version, digest, digest_files, library_versions

ROWS, LENGTH = 4, 12
"""Size of the batch whose losses tell how a model behaves."""
_COVERED = ("torch", "transformers", "icl_bench", "builtins")
"""Packages whose versions are part of the conditions."""
_HARMLESS = (*_COVERED, "accelerate", "compressed_tensors")
"""Packages whose hooks move or note values and change none, or whose versions are told."""


def describe_conditions(model: Model) -> dict[str, Any]:
    """Describe an open model so that equal descriptions mean equal measurements.

    Weights are not all of it: the same weights under another config, with another scaling or
    behind code of the user's own, give other numbers. Threads and batch size are left out: they
    change the order of sums only.

    Args:
        model: the open model.

    Raises:
        ValueError: it has hooks whose doing cannot be told, or its losses are not finite.
    """
    module = model.model
    _refuse_hooks(module)
    device = model.runner.device
    return {
        "weights": fingerprint(module),
        "buffers": _digest_buffers(module),
        "config": digest(_plain(module.config.to_dict())),
        "attributes": digest(_attributes(module)),
        "implementation": _implementation(module),
        "behaviour": _behave(model),
        "tokenizer": digest_tokenizer(model.tokenizer),
        "vocabulary": digest(model.vocabulary),
        "bos": model.bos,
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
        "dtype": model.dtype,
        "attention": model.attention,
        "precision": torch.get_float32_matmul_precision(),
        "machine": platform.machine(),
        "libraries": library_versions(readers=bool(quantized_layers(module))),
        "code": code_version(),
    }


def _plain(content: Any) -> Any:
    """A config without what loading notes in it: paths, versions, which kernel was asked for."""
    if isinstance(content, dict):
        return {
            str(key): _plain(value)
            for key, value in content.items()
            if not str(key).startswith("_") and key != "transformers_version"
        }
    if isinstance(content, (list, tuple)):
        return [_plain(value) for value in content]
    if isinstance(content, (set, frozenset)):
        return sorted(map(str, content))
    return content if isinstance(content, (str, int, float, bool, type(None))) else str(content)


def _digest_buffers(module: torch.nn.Module) -> str:
    """Digest of what a checkpoint does not hold: rotary frequencies, masks."""
    stored = module.state_dict().keys()
    hashed = hashlib.sha256()
    # What is moved away between calls has no values to look at; it comes from the checkpoint.
    for name, tensor in sorted(module.named_buffers()):
        if name not in stored and not tensor.is_meta:
            flat = tensor.detach().cpu().contiguous()
            hashed.update(f"{name} {tuple(flat.shape)} {flat.dtype}\n".encode())
            hashed.update(flat.reshape(-1).view(torch.uint8).numpy().data)
    return hashed.hexdigest()


def _refuse_hooks(module: torch.nn.Module) -> None:
    """Raise ValueError when someone has put a hook or a `forward` of their own on a module."""
    for name, part in module.named_modules():
        added = [*part._forward_hooks.values(), *part._forward_pre_hooks.values()]
        if "forward" in vars(part):
            added.append(vars(part)["forward"])
        for call in added:
            origin = (
                getattr(getattr(call, "func", call), "__module__", None) or type(call).__module__
            )
            if origin.split(".")[0] not in _HARMLESS:
                raise ValueError(f"{name or 'the model'} has a hook or a forward of {origin}'s own")


def _attributes(module: torch.nn.Module) -> dict[str, Any]:
    """Plain values that modules hold: scalings, windows, flags."""
    return {
        name: {
            key: _plain(value)
            for key, value in vars(part).items()
            if not key.startswith("_")
            and key not in ("training", "name_or_path")
            and isinstance(value, (str, int, float, bool, list, tuple, dict))
        }
        for name, part in module.named_modules()
    }


def _implementation(module: torch.nn.Module) -> str:
    """Digest of the names of a model's classes, and of the files that no version covers."""
    classes = {cls for part in module.modules() for cls in type(part).__mro__}
    names, files = [], {}
    for cls in classes:
        names.append(f"{cls.__module__}.{cls.__qualname__}")
        top = cls.__module__.split(".")[0]
        if top in _COVERED:
            continue
        try:
            file = Path(inspect.getsourcefile(cls) or "")
        except (TypeError, OSError):
            continue  # written at a prompt: how the model behaves has to tell
        # Code that a checkpoint brings lies in a folder of its own, and imports its neighbours.
        beside = file.parent.glob("*.py") if top == "transformers_modules" else [file]
        for path in beside:
            if path.is_file():
                files[path.name] = hashlib.sha256(path.read_bytes()).hexdigest()
    return digest([sorted(names), files])


def _behave(model: Model) -> list[float]:
    """Mean losses of a few rows, coarse enough not to depend on the order of sums.

    They tell models apart that differ in what nothing else here looks at.
    """
    ids, count = model.vocabulary, len(model.vocabulary)
    length = min(LENGTH, model.context or LENGTH)
    rows = [
        [ids[(31 * row + 7919 * place) % count] for place in range(length)] for row in range(ROWS)
    ]
    losses = model.losses(torch.tensor(rows)).nll.double().mean(dim=1)
    return [round(float(loss), 3) for loss in losses]


def digest_tokenizer(tokenizer: Any | None) -> str | None:
    """Return the digest of everything that decides which ids a text becomes, None for None.

    Args:
        tokenizer: a tokenizer of transformers, or None.
    """
    if tokenizer is None:
        return None
    kind = f"{type(tokenizer).__module__}.{type(tokenizer).__qualname__}"
    special = [sorted(tokenizer.all_special_ids), tokenizer.bos_token_id, tokenizer.eos_token_id]
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is not None:
        content = json.loads(backend.to_str())
        # Left over from the last call, and set again by the next.
        content.pop("truncation", None)
        content.pop("padding", None)
        return digest([kind, special, content])
    with tempfile.TemporaryDirectory() as folder:
        tokenizer.save_pretrained(folder)
        files = [path for path in Path(folder).rglob("*") if path.is_file()]
        return digest([kind, special, digest_files(files, Path(folder))])
