"""The source of local folders: a checkpoint, `RUN@STEP` of a folder of them, or `RUN@*`."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from icl_bench.errors import SpecError
from icl_bench.models.module.adapter_files import has_adapter
from icl_bench.models.module.config_file import read_json
from icl_bench.models.sources.checkpoint_files import check_folder
from icl_bench.models.sources.file_identity import (
    borrows_code,
    digest_folder,
    model_files,
    places_of,
)
from icl_bench.models.sources.pretrained import load_pretrained
from icl_bench.models.sources.series import (
    Checkpoint,
    Checkpoints,
    choose,
    find_sub_folders,
    is_series,
)
from icl_bench.models.sources.source import Found, LoadedParts, Opening, Source
from icl_bench.models.sources.spec import HUB_ID, ModelSpec, local_path, looks_like_path
from icl_bench.models.sources.stored import Stored

TRAINER_STATE = "trainer_state.json"
"""Where transformers' Trainer keeps, in each checkpoint, the losses up to it."""
WEIGHT_SUFFIXES = (".safetensors", ".bin", ".pt", ".pth", ".ckpt", ".h5", ".json", ".onnx")
"""Suffixes of files that people name when the folder around them is meant."""


class Folder(Source):
    """Checkpoints as `save_pretrained` writes them; a folder wins over a hub id of its name."""

    def recognise(self, text: str) -> ModelSpec | None:
        path = local_path(text)
        if os.path.isdir(path):
            return ModelSpec(text, "folder", os.path.abspath(path))
        if path.lower().endswith(WEIGHT_SUFFIXES):
            raise SpecError(
                f"this is one file of a checkpoint; give the folder that holds it{_up(path)}"
            )
        if os.path.isfile(path) and (looks_like_path(text) or not HUB_ID.fullmatch(text)):
            raise SpecError(
                "this is a file, but its name does not end in .gguf; give a folder or a GGUF"
            )
        # Folders may have an '@' in their own name; a hub's revision may have one too.
        base, at, selection = text.rpartition("@")
        folder = os.path.abspath(os.path.expanduser(base))
        several = ModelSpec(text, "folder", folder, series=selection)
        if at and selection and os.path.isdir(os.path.expanduser(base)):
            return several if is_series(selection) else self._find_step(several, base, selection)
        if at and looks_like_path(base) and is_series(selection):
            return several
        base, at, selection = text.partition("@")
        if at and (os.path.exists(os.path.expanduser(base)) or base.lower().endswith(".gguf")):
            raise SpecError(_no_revisions(base, selection))
        if looks_like_path(text):
            return ModelSpec(text, "folder", os.path.abspath(path))
        return None

    def _find_step(self, several: ModelSpec, base: str, selection: str) -> ModelSpec:
        available = self.checkpoints(several)
        if not available.steps:
            raise SpecError(_no_revisions(base, selection))
        ((_, name),) = choose(available, selection).items()
        target = os.path.join(several.target, name)
        return replace(several, target=target, revision=selection, series=None)

    def check(self, spec: ModelSpec, *, allow_pickle: bool = False) -> Found | None:
        try:
            check_folder(Path(spec.target), allow_pickle=allow_pickle)
        except SpecError as error:
            if HUB_ID.fullmatch(spec.text) and os.path.exists(spec.target):
                note = " (in the local folder of that name, which wins over a hub id)"
                raise SpecError(f"{error}{note}") from None
            raise
        return None

    def checkpoints(self, spec: ModelSpec) -> Checkpoints:
        if not os.path.isdir(spec.target):
            raise SpecError(f"there is no folder {spec.target!r}")
        base = spec.text.rpartition("@")[0]
        return Checkpoints(find_sub_folders(Path(spec.target)), f"folder {base!r}")

    def training_loss(
        self, spec: ModelSpec, checkpoints: Iterable[Checkpoint]
    ) -> Mapping[int, float]:
        """Return what transformers' Trainer has written into the last checkpoint that has it."""
        for checkpoint in sorted(checkpoints, key=lambda one: -one.step):
            try:
                content = read_json(Path(checkpoint.spec.target, TRAINER_STATE))
            except SpecError:
                continue
            if losses := _losses_of(content):
                return losses
        return {}

    def identity(self, spec: ModelSpec, how: Opening) -> Any | None:
        folder = Path(spec.target).resolve()
        if how.options.trust_remote_code and borrows_code(folder):
            return None
        return places_of(model_files(folder, how.options))

    def content(self, spec: ModelSpec, how: Opening) -> str | None:
        folder = Path(spec.target)
        if how.options.trust_remote_code and borrows_code(folder):
            return None
        return digest_folder(folder, how.options, how.cache_dir / "digests")

    def open(self, spec: ModelSpec, how: Opening) -> LoadedParts:
        return load_pretrained(spec.target, how)

    def pour(self, spec: ModelSpec, how: Opening) -> Stored | None:
        if has_adapter(Path(spec.target)):
            return None  # its weights are not those of the files
        return Stored(Path(spec.target), spec.target)


def _no_revisions(base: str, selection: str) -> str:
    return (
        f"{base!r} is a local path, and those have no revisions; leave '@{selection}' out, or "
        "give the folder that holds that revision"
    )


def _up(path: str) -> str:
    parent = os.path.dirname(path) or "."
    return f": {parent!r}" if os.path.isfile(os.path.join(parent, "config.json")) else ""


def _losses_of(state: Any) -> dict[int, float]:
    history = state.get("log_history") if isinstance(state, dict) else None
    losses = {}
    for entry in history if isinstance(history, list) else []:
        step = entry.get("step") if isinstance(entry, dict) else None
        loss = entry.get("loss") if isinstance(entry, dict) else None
        if isinstance(step, int) and isinstance(loss, (int, float)) and math.isfinite(loss):
            losses[step] = float(loss)
    return dict(sorted(losses.items()))


SOURCE = Folder()
