"""Opening the checkpoints of one training run, one after the other, in one module.

The first checkpoint is opened as any other model. Those that follow and have the same config are
poured into its module, one tensor at a time, so that no more than one model is in memory and
nothing is built anew. A checkpoint that cannot be poured so is opened as any other model, after
the one before was let go.
"""

from __future__ import annotations

import gc
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from icl_bench.errors import IclError, ModelError, SpecError
from icl_bench.models.model import Model
from icl_bench.models.module.leftovers import explain_leftovers, is_harmless
from icl_bench.models.module.memory import opening_within_memory, ran_out_of_memory
from icl_bench.models.module.placement import is_spread
from icl_bench.models.module.weights import check_finite
from icl_bench.models.opening.opening import load, make_model, size_on_disk
from icl_bench.models.sources.checking import check_one
from icl_bench.models.sources.source import Found, LoadedParts, Opening
from icl_bench.models.sources.spec import ModelSpec
from icl_bench.models.sources.stored import Entry, Stored
from icl_bench.models.sources.table import get_source
from icl_bench.options import RunOptions

if TYPE_CHECKING:
    from torch import Tensor


class _Unfit(Exception):
    """A checkpoint cannot be poured into the module that is there; it has to be opened."""


@dataclass
class _Skeleton:
    """A module that checkpoints are poured into.

    Args:
        parts: the module, and the tokenizer that belongs to the checkpoint in it.
        config: what has to be the same for another checkpoint to fit.
        tokenizer: digest of that tokenizer's files; None where they are not at hand.
        renamed: name in a checkpoint -> name in the module, where they are not the same.
        kept: buffers that no checkpoint holds, by name, as they were when it was opened.
    """

    parts: LoadedParts
    config: dict[str, Any]
    tokenizer: str | None
    renamed: dict[str, str] = field(default_factory=dict)
    kept: dict[str, Tensor] = field(default_factory=dict)


class CheckpointStream:
    """Opens checkpoints one after the other; what was opened before must no longer be used."""

    def __init__(self) -> None:
        self._skeleton: _Skeleton | None = None

    def open(
        self, spec: ModelSpec, slug: str, options: RunOptions, found: Found | None = None
    ) -> Model:
        """Open one checkpoint in place of the one before.

        Args:
            spec: which checkpoint.
            slug: name of the series in ids and folders.
            options: device, dtype, batch size, what is trusted; the same in all calls.
            found: what checking it returned; None to check it.

        Raises:
            SpecError: it is missing, broken or not a model; the next one can be opened.
            ModelError: its weights are incomplete, do not fit or are not finite, or it cannot be
                run; the next one can be opened.
        """
        try:
            with opening_within_memory(spec.text, size_on_disk(spec)):
                return self._open(spec, slug, options, found)
        except ModelError as error:
            if ran_out_of_memory(error.__cause__ or error):
                self.close()  # it may be filled in part
            raise

    def _open(self, spec: ModelSpec, slug: str, options: RunOptions, found: Found | None) -> Model:
        if found is None:
            found = check_one(spec, allow_pickle=options.allow_pickle)
        try:
            stored = get_source(spec.kind).pour(spec, Opening(options, found))
        except SpecError:
            stored = None  # opening it will meet it again, and say it
        if self._skeleton is not None and stored is not None:
            try:
                parts = _pour(self._skeleton, stored, options)
            except IclError as error:
                raise type(error)(f"model {spec.text!r}: {error}") from error.__cause__
            except _Unfit:
                pass
            else:
                return make_model(parts, spec, slug, options)
        self.close()
        parts = load(spec, options, found)
        model = make_model(parts, spec, slug, options)
        if stored is not None:
            self._skeleton = _make_skeleton(parts, stored, options)
        return model

    def close(self) -> None:
        """Let go of the module."""
        if self._skeleton is not None:
            self._skeleton = None
            gc.collect()


def _make_skeleton(parts: LoadedParts, stored: Stored, options: RunOptions) -> _Skeleton | None:
    """What further checkpoints are poured into; None where that would not give the same weights.

    What is in the files is compared with the module, tensor by tensor: so it is not taken on trust
    which names are meant, nor that transformers changes no values when it loads them.
    """
    config = stored.read_config(_is_own_dtype(parts, options))
    if is_spread(parts.model) or "quantization_config" in config or "auto_map" in config:
        return None
    try:
        files = stored.read_header()
    except IclError:
        return None
    if files is None:
        return None
    state = parts.model.state_dict()
    missing, surplus = _differences(parts, files)
    renamed: dict[str, str] = {}
    for name, tensor in stored.read_tensors(files):
        if name in state and not _is_same(tensor, state[name]):
            return None
        if name in surplus:
            same = [other for other in missing if _is_same(tensor, state[other])]
            if len(same) != 1:
                return None
            renamed[name] = same[0]
    if sorted(renamed.values()) != sorted(missing):
        return None
    kept = {
        name: buffer.clone() for name, buffer in parts.model.named_buffers() if name not in state
    }
    return _Skeleton(parts, config, stored.digest_tokenizer(), renamed, kept)


def _pour(skeleton: _Skeleton, stored: Stored, options: RunOptions) -> LoadedParts:
    """Put a checkpoint's weights into the module; nothing is changed where they do not fit."""
    import torch

    module = skeleton.parts.model
    own_dtype = _is_own_dtype(skeleton.parts, options)
    if stored.read_config(own_dtype) != skeleton.config:
        raise _Unfit
    header = stored.read_header()
    if header is None:
        raise _Unfit
    files = {skeleton.renamed.get(name, name): entry for name, entry in header.items()}
    missing, surplus = _differences(skeleton.parts, files)
    if missing and surplus:
        raise _Unfit  # the names of another version perhaps, which transformers knows
    if missing:
        raise ModelError(f"{len(missing)} weights are missing from the checkpoint: {_few(missing)}")
    if surplus:
        raise ModelError(f"{explain_leftovers(surplus)} (the other checkpoints have none such)")
    state = module.state_dict()
    for name, entry in files.items():
        if name not in state:
            continue
        shape, wanted = entry.shape, tuple(state[name].shape)
        if shape != wanted:
            raise ModelError(f"{name} has the shape {shape}, and the other checkpoints' {wanted}")
        if own_dtype and entry.dtype != state[name].dtype:
            raise _Unfit
    poured: set[int] = set()
    with torch.no_grad():
        for name, tensor in stored.read_tensors(files):
            if name not in state:
                continue
            target = state[name]
            # Tied weights are one tensor; a checkpoint in which they differ is not of this module.
            if target.data_ptr() in poured and not _is_same(tensor, target):
                raise _Unfit
            target.copy_(tensor)
            poured.add(target.data_ptr())
        for name, buffer in module.named_buffers():
            if name in skeleton.kept:
                buffer.copy_(skeleton.kept[name])
    check_finite(module)
    return _with_tokenizer(skeleton, stored, options)


def _with_tokenizer(skeleton: _Skeleton, stored: Stored, options: RunOptions) -> LoadedParts:
    """The module with the tokenizer of the checkpoint that is in it now."""
    known, digest = skeleton.parts, stored.digest_tokenizer()
    parts = LoadedParts(known.model, known.tokenizer, stored.commit, known.tokenizer_note)
    if digest is None or digest != skeleton.tokenizer:
        parts.tokenizer, parts.tokenizer_note = stored.load_tokenizer(options.trust_remote_code)
        parts.settle_tokenizer()
        skeleton.tokenizer = digest
    skeleton.parts = parts
    return parts


def _is_same(tensor: Tensor, target: Tensor) -> bool:
    """Whether a tensor of a checkpoint is, in the module's type, the one in the module."""
    import torch

    if tensor.shape != target.shape:
        return False
    return torch.equal(tensor.to(target.device, target.dtype), target)


def _differences(parts: LoadedParts, files: dict[str, Entry]) -> tuple[set[str], set[str]]:
    """Names that the checkpoint lacks and that the module lacks; tied weights count once."""
    state = parts.model.state_dict()
    there = {(state[name].data_ptr(), state[name].shape) for name in files if name in state}
    missing = {
        name
        for name, tensor in state.items()
        if name not in files and (tensor.data_ptr(), tensor.shape) not in there
    }
    known = getattr(parts.model, "_keys_to_ignore_on_load_unexpected", None) or ()
    surplus = {
        name
        for name in files
        if name not in state
        and not is_harmless(name)
        and not any(re.search(pattern, name) for pattern in known)
    }
    return missing, surplus


def _is_own_dtype(parts: LoadedParts, options: RunOptions) -> bool:
    """Whether a checkpoint is opened in the type that it is stored in."""
    return options.dtype == "auto" and parts.model.device.type != "cpu"


def _few(names: set[str]) -> str:
    listed = sorted(names)
    return ", ".join(listed[:3]) + (f" and {len(listed) - 3} more" if len(listed) > 3 else "")
