"""Finding a model on a hub, with errors that say what to do.

Only a few short requests are made, each with its own time limit and none repeated, so that a
hub that cannot be reached costs seconds. Downloading is left to transformers.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from icl_bench.errors import SpecError
from icl_bench.models.module.adapters import ADAPTER_CONFIG, has_adapter
from icl_bench.models.module.quiet import silenced
from icl_bench.models.module.weights import explain_failure
from icl_bench.models.sources.checkpoint_files import (
    NO_PICKLE,
    PICKLE_INDEX,
    PICKLE_WEIGHTS,
    SAFE_INDEX,
    SAFE_WEIGHTS,
    check_config,
    read_json,
    read_shards,
    shard_names,
)
from icl_bench.models.sources.source import Found
from icl_bench.models.sources.spec import suggest_local

TIMEOUT = 5.0
"""Seconds that the hub has for one answer."""
LOG_IN = "log in with 'hf auth login' or set HF_TOKEN"


@dataclass(frozen=True)
class HubModel(Found):
    """Where a model was found.

    Args:
        commit: commit hash that the revision stands for.
        cached: True when the hub was not asked or not reached, and the cache holds everything.
        folder: where the hub's cache keeps files of this commit, its config.json at least.
        files: names of the repository's files; empty when the hub was not asked.
    """

    commit: str
    cached: bool
    folder: Path | None = None
    files: frozenset[str] = frozenset()


class _Unavailable(Exception):
    """The hub gave no answer, or refused one; a cached copy may still serve."""


_BESIDE = (
    f"the repository holds an adapter beside its weights ({ADAPTER_CONFIG}); download it and give "
    "its folder, or merge the adapter into the weights and give these"
)


def find_on_hub(repo: str, revision: str | None, *, allow_pickle: bool = False) -> HubModel:
    """Find a model on the hub, or in the hub's cache when the hub cannot be reached.

    Args:
        repo: repository id.
        revision: branch, tag or commit; None for the default branch.
        allow_pickle: accept weights that are stored as pickles.

    Raises:
        SpecError: there is no such model or revision, access is refused, the hub cannot be
            reached and no copy is cached, or what it holds is not a causal language model.
    """
    with silenced():
        return _find(repo, revision, allow_pickle)


def _find(repo: str, revision: str | None, allow_pickle: bool) -> HubModel:
    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE:
        return _find_in_cache(
            repo, revision, allow_pickle, "the hub is switched off (HF_HUB_OFFLINE)"
        )
    try:
        files = _ask(repo, revision)
        if "config.json" not in files:
            raise SpecError(
                f"the repository has no config.json, so it is no transformers model (if it holds "
                f"GGUF files, download one and give its path){_at(revision)}"
            )
        if ADAPTER_CONFIG in files:
            raise SpecError(_BESIDE)
        # By the name that was given, for the cache to remember which commit it stood for.
        config = _download(repo, "config.json", revision)
        check_config(read_json(config))
        commit = config.parent.name
        if not files & {SAFE_WEIGHTS, SAFE_INDEX}:
            if not files & {PICKLE_WEIGHTS, PICKLE_INDEX}:
                raise SpecError(f"the repository has no weights ({SAFE_WEIGHTS}){_at(revision)}")
            if not allow_pickle:
                raise SpecError(NO_PICKLE)
        for weights, index in ((SAFE_WEIGHTS, SAFE_INDEX), (PICKLE_WEIGHTS, PICKLE_INDEX)):
            if weights in files or index in files:
                if weights not in files:
                    shard_names(_download(repo, index, commit))
                break
    except _Unavailable as error:
        return _find_in_cache(repo, revision, allow_pickle, str(error))
    return HubModel(commit, cached=False, folder=config.parent, files=files)


def _at(revision: str | None) -> str:
    return f" at revision {revision!r}" if revision else ""


def _ask(repo: str, revision: str | None) -> frozenset[str]:
    """Return the names of a repository's files."""
    from huggingface_hub import HfApi, constants

    with _asking(repo, revision):
        info = HfApi(endpoint=constants.ENDPOINT).model_info(
            repo, revision=revision, timeout=TIMEOUT
        )
    if not info.sha:
        raise _Unavailable(_not_a_hub(constants.ENDPOINT))
    return frozenset(file.rfilename for file in info.siblings or ())


@contextlib.contextmanager
def _asking(repo: str, revision: str | None = None) -> Iterator[None]:
    """Say in our own words what the hub answers to a question about a repository."""
    from huggingface_hub import constants
    from huggingface_hub.errors import (
        EntryNotFoundError,
        GatedRepoError,
        HfHubHTTPError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    hub = constants.ENDPOINT
    try:
        yield
    except (EntryNotFoundError, json.JSONDecodeError, KeyError, TypeError, AttributeError):
        raise _Unavailable(_not_a_hub(hub)) from None
    except RevisionNotFoundError:
        raise SpecError(f"{hub} has this model, but no revision {revision!r}") from None
    except GatedRepoError:
        raise _Unavailable(_restricted(repo)) from None
    except RepositoryNotFoundError:
        raise SpecError(
            f"{hub} has no such model; if it is private, {LOG_IN}{suggest_local(repo)}"
        ) from None
    except HfHubHTTPError as error:
        status = error.response.status_code
        if status in (401, 403):
            raise _Unavailable(f"{hub} refuses access (status {status}); {LOG_IN}") from None
        raise _Unavailable(f"{hub} answers with status {status}") from None
    except Exception as error:
        # Which exceptions a dead connection raises depends on the hub library's HTTP client.
        raise _Unavailable(f"{hub} cannot be reached ({_root(error)})") from None


def _restricted(repo: str) -> str:
    from huggingface_hub import constants

    address = f"{constants.ENDPOINT}/{repo}"
    return f"access to it is restricted: accept its terms at {address}, then {LOG_IN}"


def _not_a_hub(address: str) -> str:
    return f"what answers at {address} is not a model hub; check HF_ENDPOINT and proxy"


def list_revisions(repo: str) -> list[str]:
    """Return the names of a repository's branches and tags.

    Where the hub cannot be reached, those that are in its cache.

    Args:
        repo: repository id.

    Raises:
        SpecError: there is no such model, or the hub cannot be reached and the cache holds none.
    """
    from huggingface_hub import constants

    why = "the hub is switched off (HF_HUB_OFFLINE)"
    if not constants.HF_HUB_OFFLINE:
        try:
            with silenced():
                return _ask_revisions(repo)
        except _Unavailable as error:
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
    with _asking(repo):
        answer = get_session().get(address, headers=build_hf_headers(), timeout=TIMEOUT)
        hf_raise_for_status(answer)
        refs = answer.json()
        return sorted({ref["name"] for kind in ("branches", "tags") for ref in refs[kind]})


def download_weights(repo: str, model: HubModel) -> Path:
    """Return the folder with config and safetensors weights of a commit; downloaded if need be.

    Args:
        repo: repository id.
        model: the commit.

    Raises:
        SpecError: it has no safetensors weights, or they cannot be downloaded.
    """
    if model.cached and model.folder is not None:
        return model.folder
    with silenced():
        try:
            names = [SAFE_WEIGHTS]
            if SAFE_WEIGHTS not in model.files:
                names = shard_names(_download(repo, SAFE_INDEX, model.commit))
            files = [_download(repo, name, model.commit) for name in names]
            return files[0].parent
        except _Unavailable as error:
            raise SpecError(str(error)) from None


def _root(error: BaseException) -> str:
    """The first cause of a network error; what wraps it repeats addresses and internals."""
    while (cause := error.__cause__ or error.__context__) is not None:
        error = cause
    return explain_failure(error)


def _download(repo: str, name: str, revision: str | None) -> Path:
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import GatedRepoError

    try:
        return Path(hf_hub_download(repo, name, revision=revision, etag_timeout=TIMEOUT))
    except GatedRepoError:
        raise _Unavailable(_restricted(repo)) from None
    except Exception as error:
        raise _Unavailable(f"{name} could not be downloaded ({explain_failure(error)})") from None


def _find_in_cache(repo: str, revision: str | None, allow_pickle: bool, why: str) -> HubModel:
    config = _cached(repo, "config.json", revision)
    if config is None:
        raise SpecError(
            f"{why}, and no copy of it{_at(revision)} is in the cache, which would have been used"
            f"{suggest_local(repo)}"
        )
    check_config(read_json(config))
    commit = config.parent.name
    if has_adapter(config.parent):
        raise SpecError(_BESIDE)
    weights = _cached(repo, SAFE_WEIGHTS, commit) or _cached(repo, SAFE_INDEX, commit)
    if weights is None and allow_pickle:
        weights = _cached(repo, PICKLE_WEIGHTS, commit) or _cached(repo, PICKLE_INDEX, commit)
    if weights is None:
        raise SpecError(f"{why}, and the copy in the cache has no weights that can be used")
    if weights.name.endswith(".json"):
        try:
            read_shards(weights)
        except SpecError as error:
            raise SpecError(f"{why}, and the copy in the cache is incomplete: {error}") from None
    return HubModel(commit, cached=True, folder=config.parent)


def _cached(repo: str, name: str, revision: str | None) -> Path | None:
    from huggingface_hub import try_to_load_from_cache

    path: Any = try_to_load_from_cache(repo, name, revision=revision)
    return Path(path) if isinstance(path, str) else None
