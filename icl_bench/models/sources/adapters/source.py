"""The source of adapters: their folder or repository, or `BASE+ADAPTER`.

An adapter's base is any model that another source opens. `BASE+A+B` applies A, then B.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from icl_bench.errors import SpecError
from icl_bench.models.module.adapter_files import is_only_adapter
from icl_bench.models.module.adapters import apply_adapters
from icl_bench.models.module.quiet import silenced
from icl_bench.models.module.tokenizer import load_tokenizer, tokenizer_files
from icl_bench.models.sources.adapters.finding import (
    Adapted,
    check_against,
    fetch_adapter,
    find_adapter,
    find_base,
    holds_adapters,
)
from icl_bench.models.sources.checking import check_one
from icl_bench.models.sources.file_identity import digest_folder, model_files, places_of
from icl_bench.models.sources.parsing import parse_spec
from icl_bench.models.sources.series import Checkpoint, Checkpoints, find_sub_folders
from icl_bench.models.sources.source import Found, LoadedParts, Opening, Source
from icl_bench.models.sources.spec import ModelSpec
from icl_bench.models.sources.table import get_source
from icl_bench.provenance import digest

KIND = "adapter"


class Adapters(Source):
    """Adapters of peft on a base of any source."""

    def recognise(self, text: str) -> ModelSpec | None:
        if "+" in text and not _exists(text):
            base, _, adapter = text.rpartition("+")
            # A path may have a '+' in its own name.
            for place in [i for i, char in enumerate(text) if char == "+"][::-1]:
                if _exists(text[place + 1 :]):
                    base, adapter = text[:place], text[place + 1 :]
                    break
            if base and adapter:
                return replace(_parse(adapter), text=text, kind=KIND, base=parse_spec(base))
            return None
        return self._recognise_alone(text)

    def _recognise_alone(self, text: str) -> ModelSpec | None:
        folder = os.path.expanduser(text)
        run = os.path.expanduser(text.rpartition("@")[0])
        alone = False
        if os.path.isdir(folder):
            alone = is_only_adapter(Path(folder))
        elif run and os.path.isdir(run):
            with contextlib.suppress(SpecError):
                alone = holds_adapters(Path(run), find_sub_folders(Path(run)))
        return replace(_parse(text), kind=KIND) if alone else None

    def check(self, spec: ModelSpec, *, allow_pickle: bool = False) -> Found | None:
        adapter = find_adapter(spec, allow_pickle)
        try:
            base = find_base(adapter) if spec.base is None else spec.base
            found = check_one(base, allow_pickle=allow_pickle)
        except RecursionError:
            raise SpecError("its base is an adapter whose base is that adapter again") from None
        if not isinstance(found, Adapted):
            check_against(adapter, base, found)
            return Adapted(base, found, (adapter,))
        check_against(adapter, found.base, found.found, found.adapters)
        return replace(found, adapters=(*found.adapters, adapter))

    def checkpoints(self, spec: ModelSpec) -> Checkpoints | None:
        return get_source("folder" if spec.is_local else "hub").checkpoints(spec)

    def training_loss(
        self, spec: ModelSpec, checkpoints: Iterable[Checkpoint]
    ) -> Mapping[int, float]:
        return get_source("folder" if spec.is_local else "hub").training_loss(spec, checkpoints)

    def _found(self, spec: ModelSpec, how: Opening) -> Adapted:
        found = how.found
        if not isinstance(found, Adapted):
            found = self.check(spec, allow_pickle=how.options.allow_pickle)
        assert isinstance(found, Adapted)
        return found

    def identity(self, spec: ModelSpec, how: Opening) -> Any | None:
        found = self._found(spec, how)
        own = get_source(found.base.kind).identity(found.base, replace(how, found=found.found))
        if own is None:
            return None
        parts = [
            [one.repo, one.commit] if one.repo else places_of(model_files(one.folder, how.options))
            for one in found.adapters
        ]
        return [found.base.kind, own, parts]

    def content(self, spec: ModelSpec, how: Opening) -> str | None:
        found = self._found(spec, how)
        own = get_source(found.base.kind).content(found.base, replace(how, found=found.found))
        if own is None or any(one.repo for one in found.adapters):
            return None
        memory = how.cache_dir / "digests"
        parts = [digest_folder(one.folder, how.options, memory) for one in found.adapters]
        return digest([own, parts])

    def open(self, spec: ModelSpec, how: Opening) -> LoadedParts:
        found = self._found(spec, how)
        folders = [fetch_adapter(one, how) for one in found.adapters]
        for one in found.adapters:
            check_against(one, found.base, found.found)
        parts = get_source(found.base.kind).open(found.base, replace(how, found=found.found))
        with silenced():
            parts.model, told = apply_adapters(parts.model, folders)
            trust = {"trust_remote_code": how.options.trust_remote_code}
            for folder in folders:
                if tokenizer_files(folder):
                    parts.tokenizer, parts.tokenizer_note = load_tokenizer(str(folder), trust)
        names = [f"{one.name}: {what}" for one, what in zip(found.adapters, told)]
        parts.adapter = "; ".join(filter(None, [parts.adapter, *names]))
        parts.base = found.base.public
        parts.base_revision = parts.revision
        parts.revision = found.adapters[-1].commit
        return parts


def _exists(text: str) -> bool:
    """Whether a text is a path, or one with a selection behind it."""
    paths = (text, text.rpartition("@")[0])
    return any(path and os.path.exists(os.path.expanduser(path)) for path in paths)


def _parse(text: str) -> ModelSpec:
    """Return what names an adapter: a folder, one of a run's, or a repository."""
    spec = get_source("folder").recognise(text) or get_source("hub").recognise(text)
    assert spec is not None
    return spec


SOURCE = Adapters()
