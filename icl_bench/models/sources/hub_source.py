"""The source of models on a hub: `NAME`, `ORG/NAME@REVISION`, or `ORG/NAME@*`."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from icl_bench.errors import ModelError, SpecError
from icl_bench.models.module.quiet import silenced
from icl_bench.models.module.tokenizer import tokenizer_names
from icl_bench.models.sources.checkpoint_files import (
    PICKLE_INDEX,
    PICKLE_WEIGHTS,
    SAFE_INDEX,
    SAFE_WEIGHTS,
    shard_names,
)
from icl_bench.models.sources.file_identity import borrows_code, digest_content
from icl_bench.models.sources.hub import (
    TIMEOUT,
    HubModel,
    Unavailable,
    asking,
    download,
    find_on_hub,
    not_waiting,
)
from icl_bench.models.sources.pretrained import load_pretrained
from icl_bench.models.sources.series import Checkpoints, is_series, step_of
from icl_bench.models.sources.source import Found, LoadedParts, Opening, Source
from icl_bench.models.sources.spec import FORMS, HUB_ID, ModelSpec, suggest_local
from icl_bench.models.sources.stored import Stored
from icl_bench.models.sources.table import get_source


def _adapters() -> Source:
    return get_source("adapter")


class Hub(Source):
    """Repositories of a model hub, by id and revision."""

    remote = True

    def recognise(self, text: str) -> ModelSpec | None:
        repo, at, revision = text.partition("@")
        if at and (not revision or re.search(r"\s|\.\.|[~^:?\[\\]", revision)):
            raise SpecError(
                f"{revision!r} after the '@' is not a revision; give a branch, tag or commit"
            )
        if repo.count("/") > 1:
            raise SpecError(
                "there is no such folder here, and a hub id is NAME or "
                f"ORG/NAME{suggest_local(text)}"
            )
        if (
            not HUB_ID.fullmatch(repo)
            or re.search(r"--|\.\.|[.-](?:/|$)|\.git$", repo)
            or len(repo) > 96
        ):
            raise SpecError(
                f"not a hub id, and no such file or folder; {FORMS}{suggest_local(text)}"
            )
        if is_series(revision):
            return ModelSpec(text, "hub", repo, series=revision)
        return ModelSpec(text, "hub", repo, revision if at else None)

    def check(self, spec: ModelSpec, *, allow_pickle: bool = False) -> Found | None:
        found = find_on_hub(spec.target, spec.revision, allow_pickle=allow_pickle)
        # That a repository holds an adapter is not seen from its name.
        return _adapters().check(spec, allow_pickle=allow_pickle) if found.adapter else found

    def checkpoints(self, spec: ModelSpec) -> Checkpoints:
        steps = {name: step_of(name) for name in _list_revisions(spec.target)}
        return Checkpoints(
            {name: step for name, step in steps.items() if step is not None},
            f"repository {spec.target!r}",
            looked_for="branches and tags",
            mixed=True,
        )

    def identity(self, spec: ModelSpec, how: Opening) -> Any | None:
        found = how.found
        if not isinstance(found, HubModel):
            return None if found is None else _adapters().identity(spec, how)
        if how.options.trust_remote_code and (found.folder is None or borrows_code(found.folder)):
            return None
        return [spec.target, found.commit]

    def open(self, spec: ModelSpec, how: Opening) -> LoadedParts:
        found = how.found
        if not isinstance(found, HubModel):
            return _adapters().open(spec, how)
        try:
            _fetch(spec.target, found, how)
            with not_waiting():
                return load_pretrained(spec.target, how, commit=found.commit, cached=found.cached)
        except Unavailable as error:
            raise ModelError(str(error)) from None

    def pour(self, spec: ModelSpec, how: Opening) -> Stored | None:
        found = how.found
        if not isinstance(found, HubModel):
            return None
        try:
            folder = _fetch(spec.target, found, how, pickles=False)
        except (ModelError, Unavailable) as error:
            raise SpecError(str(error)) from None
        return Stored(folder, spec.target, found.commit, found.cached)


def _list_revisions(repo: str) -> list[str]:
    """Names of a repository's branches and tags, of its cache where the hub cannot be reached."""
    from huggingface_hub import constants

    why = "the hub is switched off (HF_HUB_OFFLINE)"
    if not constants.HF_HUB_OFFLINE:
        try:
            with silenced():
                return _ask_revisions(repo)
        except Unavailable as error:
            why = str(error)
    refs = Path(constants.HF_HUB_CACHE, f"models--{repo.replace('/', '--')}", "refs")
    names = [path.relative_to(refs).as_posix() for path in refs.rglob("*") if path.is_file()]
    if not names:
        raise SpecError(f"{why}, and no revision of it is in the cache, which would have been used")
    return sorted(names)


def _ask_revisions(repo: str) -> list[str]:
    from huggingface_hub import constants
    from huggingface_hub.utils import (  # type: ignore[attr-defined]
        build_hf_headers,
        get_session,
        hf_raise_for_status,
    )

    # As `HfApi.list_repo_refs` does it, which has no time limit.
    address = f"{constants.ENDPOINT}/api/models/{repo}/refs"
    with asking(repo):
        answer = get_session().get(address, headers=build_hf_headers(), timeout=TIMEOUT)
        hf_raise_for_status(answer)
        refs = answer.json()
        return sorted({ref["name"] for kind in ("branches", "tags") for ref in refs[kind]})


def _fetch(repo: str, model: HubModel, how: Opening, pickles: bool = True) -> Path:
    """Return the folder with config, weights and tokenizer of a commit, downloaded and verified.

    Transformers finds them there. Were it to download them, what goes wrong would be told in its
    words, a tokenizer that was not sent would be none, and a changed bit would not be noticed:
    the hub's library compares sizes alone.
    """
    there = model.files
    if model.cached and model.folder is not None:
        there = frozenset(path.name for path in model.folder.iterdir())
    kinds = [(SAFE_WEIGHTS, SAFE_INDEX), (PICKLE_WEIGHTS, PICKLE_INDEX)]
    allowed = kinds[: 1 + (pickles and how.options.allow_pickle)]
    found = next((kind for kind in allowed if there & {*kind}), None)
    if found is None:
        raise ModelError(f"the repository has no weights ({SAFE_WEIGHTS})")
    with silenced():
        try:
            weights, index = found
            names = [weights] if weights in there else shard_names(_file(repo, index, model))
            files = [_file(repo, name, model) for name in [*names, *tokenizer_names(there)]]
            for file in files:
                verify_file(file, how)
        except OSError as error:
            raise ModelError(f"its files cannot be read ({error.strerror or error})") from None
    return files[0].parent


def _file(repo: str, name: str, model: HubModel) -> Path:
    if model.cached and model.folder is not None:
        return model.folder / name
    return download(repo, name, model.commit)


_SHA256 = re.compile(r"[0-9a-f]{64}")


def verify_file(file: Path, how: Opening) -> None:
    """Raise ModelError where a file is not what the hub says: its cache names large files so.

    Args:
        file: in the hub's cache.
        how: the folder to keep digests in.
    """
    stored = file.resolve()
    if not _SHA256.fullmatch(stored.name):
        return
    if not stored.name.startswith(digest_content(stored, how.cache_dir / "digests")):
        raise ModelError(
            f"{file.name} was damaged on the way or on the disk: its SHA-256 is not the one that "
            f"the hub gives; delete {stored} and run again"
        )


SOURCE = Hub()
