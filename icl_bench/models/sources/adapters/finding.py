"""Where an adapter's files are, and which base it belongs to."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from icl_bench.errors import SpecError
from icl_bench.models.module.adapter_files import (
    ADAPTER_CONFIG,
    PICKLE_ADAPTER,
    SAFE_ADAPTER,
    check_adapter,
    check_adapter_config,
    check_fit,
    is_only_adapter,
)
from icl_bench.models.module.config_file import read_json
from icl_bench.models.module.quantized_files import find_quantization
from icl_bench.models.module.quiet import silenced
from icl_bench.models.module.tokenizer import tokenizer_names
from icl_bench.models.sources.checkpoint_files import (
    SAFE_INDEX,
    SAFE_WEIGHTS,
    check_safetensors,
    read_shards,
)
from icl_bench.models.sources.hub import HubModel, Unavailable, download, find_on_hub
from icl_bench.models.sources.hub_source import verify_file
from icl_bench.models.sources.parsing import parse_spec
from icl_bench.models.sources.source import Found, Opening
from icl_bench.models.sources.spec import HUB_ID, ModelSpec, looks_like_path

GIVE_BASE = "give the base in front of it: BASE+ADAPTER"
_BUILTIN = re.compile(r"builtin:[\w.@-]+")


@dataclass(frozen=True)
class Adapter:
    """One adapter.

    Args:
        folder: where its files are.
        name: what reports call it; of a local path only the last component.
        config: its parsed config.
        repo: repository id, of an adapter on a hub.
        commit: of that repository.
        files: names of that repository's files.
    """

    folder: Path
    name: str
    config: Mapping[str, Any]
    repo: str | None = None
    commit: str | None = None
    files: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Adapted(Found):
    """A base and the adapters that are applied to it, in this order."""

    base: ModelSpec
    found: Found | None
    adapters: tuple[Adapter, ...]


def find_adapter(spec: ModelSpec, allow_pickle: bool) -> Adapter:
    """Find the adapter that a spec names, and check its files as far as they are here.

    Args:
        spec: its target is the adapter's folder or repository id.
        allow_pickle: accept weights that are stored as a pickle.

    Raises:
        SpecError: there is none, or it is no adapter that can be applied.
    """
    if not spec.is_local:
        return _find_on_hub(spec, allow_pickle)
    folder = Path(spec.target)
    if not folder.is_dir():
        raise SpecError(f"there is no adapter folder {spec.target!r}")
    if not (folder / ADAPTER_CONFIG).is_file():
        inside = sorted(path.parent.name for path in folder.glob(f"*/{ADAPTER_CONFIG}"))
        hint = f"; it holds several, give one of them: {', '.join(inside[:5])}" if inside else ""
        raise SpecError(f"{folder.name!r} is no adapter: it has no {ADAPTER_CONFIG}{hint}")
    name = f"{folder.parent.name}/{folder.name}" if spec.revision else folder.name
    return Adapter(folder, name, check_adapter(folder, allow_pickle=allow_pickle))


def _find_on_hub(spec: ModelSpec, allow_pickle: bool) -> Adapter:
    with silenced():
        found = find_on_hub(spec.target, spec.revision, allow_pickle=allow_pickle)
    if not found.adapter or found.folder is None:
        raise SpecError(f"repository {spec.target!r} holds no adapter ({ADAPTER_CONFIG})")
    config = check_adapter_config(read_json(found.folder / ADAPTER_CONFIG))
    return Adapter(found.folder, spec.target, config, spec.target, found.commit, found.files)


def fetch_adapter(adapter: Adapter, how: Opening) -> Path:
    """Return the folder that holds an adapter's files, downloaded if it is on a hub.

    Args:
        adapter: the adapter.
        how: what is trusted, and the folder to keep digests in.

    Raises:
        SpecError: a file cannot be had, or the adapter is not complete.
        ModelError: a file was damaged on the way.
    """
    if adapter.repo is not None and adapter.files:
        weights = [name for name in (SAFE_ADAPTER, PICKLE_ADAPTER) if name in adapter.files][:1]
        try:
            with silenced():
                for name in [*weights, *tokenizer_names(adapter.files)]:
                    verify_file(download(adapter.repo, name, adapter.commit), how)
        except Unavailable as error:
            raise SpecError(str(error)) from None
    check_adapter(adapter.folder, allow_pickle=how.options.allow_pickle)
    return adapter.folder


def find_base(adapter: Adapter) -> ModelSpec:
    """Return the base that an adapter's config names.

    It is looked for beside the adapter, then in the working directory, then on the hub. Python
    code, which a spec can name, is never run because an adapter says so.

    Args:
        adapter: the adapter.

    Raises:
        SpecError: it names none, or none that is there.
    """
    named = adapter.config.get("base_model_name_or_path")
    if not isinstance(named, str) or not named.strip():
        raise SpecError(
            f"its {ADAPTER_CONFIG} does not say which model it belongs to "
            f"(base_model_name_or_path); {GIVE_BASE}"
        )
    for folder in (*([] if adapter.repo else [adapter.folder]), Path.cwd()):
        path = os.path.abspath(folder / os.path.expanduser(named))
        if os.path.exists(path) and path != os.path.abspath(adapter.folder):
            return parse_spec(path)
    revision = adapter.config.get("revision")
    known = HUB_ID.fullmatch(named) is not None and not looks_like_path(named)
    if not known and not _BUILTIN.fullmatch(named):
        raise SpecError(
            f"its base {named!r} (base_model_name_or_path) is not there: looked beside the "
            f"adapter and in {os.getcwd()}; {GIVE_BASE}"
        )
    at = f"@{revision}" if known and isinstance(revision, str) and revision else ""
    try:
        return parse_spec(f"{named}{at}")
    except SpecError as error:
        raise SpecError(f"its base (base_model_name_or_path): {error}; {GIVE_BASE}") from None


def check_against(
    adapter: Adapter, base: ModelSpec, found: Found | None, earlier: Sequence[Adapter] = ()
) -> None:
    """Check an adapter's ranks and shapes against its base, as far as both files are here.

    Args:
        adapter: the adapter.
        base: its base.
        found: what checking the base returned.
        earlier: adapters that are applied before it.

    Raises:
        SpecError: they do not fit.
    """
    weights = adapter.folder / SAFE_ADAPTER
    if not weights.is_file():
        return
    folder = found.folder if isinstance(found, HubModel) else Path(base.target)
    config: Any = {}
    header: dict[str, Any] = {}
    if base.is_local or isinstance(found, HubModel):
        if folder is not None and (folder / "config.json").is_file():
            config = read_json(folder / "config.json")
        quantization = find_quantization(config)
        if folder is not None and quantization is None:
            header = _read_header(folder)
        if quantization and quantization.get("load_in_8bit") and adapter.config.get("use_dora"):
            raise SpecError(
                "DoRA cannot be applied to weights in LLM.int8 of bitsandbytes; give a base that "
                "is not quantized, or in 4 bits"
            )
        kinds = {bool(one.config.get("use_dora")) for one in (*earlier, adapter)}
        if quantization and earlier and True in kinds:
            raise SpecError(
                "DoRA and another adapter cannot be applied to quantized weights one after the "
                "other; give a base that is not quantized"
            )
    check_fit(check_safetensors(weights), adapter.config, header, config)


def _read_header(folder: Path) -> dict[str, Any]:
    if (folder / SAFE_WEIGHTS).is_file():
        return check_safetensors(folder / SAFE_WEIGHTS)
    header: dict[str, Any] = {}
    if (folder / SAFE_INDEX).is_file() and folder.is_dir():
        try:
            for shard in read_shards(folder / SAFE_INDEX):
                header.update(check_safetensors(shard))
        except SpecError:  # of a hub, not downloaded yet
            return {}
    return header


def holds_adapters(folder: Path, names: Mapping[str, int]) -> bool:
    """Whether the checkpoints of a run are adapters.

    Args:
        folder: the run.
        names: its checkpoints.
    """
    return any(is_only_adapter(folder / name) for name in names)
