"""Finding a model on a hub, with errors that say what to do.

Only a few short requests are made, each with its own time limit and none repeated, so that a
hub that cannot be reached costs seconds. Downloading is left to transformers.
"""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from icl_bench.errors import SpecError
from icl_bench.models.module.adapter_files import ADAPTER_CONFIG, has_adapter
from icl_bench.models.module.config_file import check_config, read_json
from icl_bench.models.module.quantized_files import check_packages
from icl_bench.models.module.quiet import silenced
from icl_bench.models.module.weights import explain_failure
from icl_bench.models.sources.checkpoint_files import (
    NO_PICKLE,
    PICKLE_INDEX,
    PICKLE_WEIGHTS,
    SAFE_INDEX,
    SAFE_WEIGHTS,
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
        adapter: whether it is an adapter without its base.
    """

    commit: str
    cached: bool
    folder: Path | None = None
    files: frozenset[str] = frozenset()
    adapter: bool = False


class Unavailable(Exception):
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
        if "config.json" not in files and ADAPTER_CONFIG in files:
            folder = download(repo, ADAPTER_CONFIG, revision).parent
            return HubModel(folder.name, cached=False, folder=folder, files=files, adapter=True)
        if "config.json" not in files:
            raise SpecError(
                f"the repository has no config.json, so it is no transformers model (if it holds "
                f"GGUF files, download one and give its path){_at(revision)}"
            )
        if ADAPTER_CONFIG in files:
            raise SpecError(_BESIDE)
        # By the name that was given, for the cache to remember which commit it stood for.
        config = download(repo, "config.json", revision)
        check_config(content := read_json(config))
        check_packages(content)
        commit = config.parent.name
        if not files & {SAFE_WEIGHTS, SAFE_INDEX}:
            if not files & {PICKLE_WEIGHTS, PICKLE_INDEX}:
                raise SpecError(f"the repository has no weights ({SAFE_WEIGHTS}){_at(revision)}")
            if not allow_pickle:
                raise SpecError(NO_PICKLE)
        for weights, index in ((SAFE_WEIGHTS, SAFE_INDEX), (PICKLE_WEIGHTS, PICKLE_INDEX)):
            if weights in files or index in files:
                if weights not in files:
                    shard_names(download(repo, index, commit))
                break
    except Unavailable as error:
        return _find_in_cache(repo, revision, allow_pickle, str(error))
    return HubModel(commit, cached=False, folder=config.parent, files=files)


def _at(revision: str | None) -> str:
    return f" at revision {revision!r}" if revision else ""


def _ask(repo: str, revision: str | None) -> frozenset[str]:
    """Return the names of a repository's files."""
    from huggingface_hub import HfApi, constants

    with asking(repo, revision):
        info = HfApi(endpoint=constants.ENDPOINT).model_info(
            repo, revision=revision, timeout=TIMEOUT
        )
    if not info.sha:
        raise Unavailable(_not_a_hub())
    return frozenset(file.rfilename for file in info.siblings or ())


@contextlib.contextmanager
def asking(repo: str, revision: str | None = None) -> Iterator[None]:
    """Say in our own words what the hub answers to a question about a repository.

    Args:
        repo: repository id.
        revision: branch, tag or commit that is asked for.

    Raises:
        SpecError: there is no such repository or revision.
        Unavailable: the hub gives no answer, or refuses one.
    """
    from huggingface_hub.errors import (
        EntryNotFoundError,
        GatedRepoError,
        HfHubHTTPError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    hub = _address()
    try:
        yield
    except (EntryNotFoundError, json.JSONDecodeError, KeyError, TypeError, AttributeError):
        raise Unavailable(_not_a_hub()) from None
    except RevisionNotFoundError:
        raise SpecError(f"{hub} has this model, but no revision {revision!r}") from None
    except GatedRepoError:
        raise Unavailable(_restricted(repo)) from None
    except RepositoryNotFoundError:
        raise SpecError(
            f"{hub} has no such model; if it is private, {LOG_IN}{suggest_local(repo)}"
        ) from None
    except HfHubHTTPError as error:
        raise Unavailable(_explain_status(error.response)) from None
    except Exception as error:
        # Which exceptions a dead connection raises depends on the hub library's HTTP client.
        raise Unavailable(f"{hub} cannot be reached ({_root(error)})") from None


def _explain_status(response: Any) -> str:
    hub, status = _address(), response.status_code
    if status in (401, 403):
        return f"{hub} refuses access (status {status}); {LOG_IN}"
    if status == 429:
        wait = _explain_wait(response.headers)
        return f"{hub} limits how often it is asked (status 429): run again {wait}, or {LOG_IN}"
    return f"{hub} answers with status {status}"


def _explain_wait(headers: Mapping[str, str]) -> str:
    """When a hub will answer again, by its `Retry-After` (seconds or a date) or `RateLimit`."""
    after = headers.get("Retry-After", "").strip()
    limit = re.search(r"\bt=(\d{1,9})\b", headers.get("RateLimit", ""))
    if re.fullmatch(r"\d{1,9}", after, re.ASCII):
        return f"in {int(after)} seconds"
    if after.isascii() and after.isprintable() and 0 < len(after) < 40:
        return f"after {after}"
    return f"in {limit[1]} seconds" if limit else "later"


def _restricted(repo: str) -> str:
    address = f"{_address()}/{repo}"
    return f"access to it is restricted: accept its terms at {address}, then {LOG_IN}"


def _address() -> str:
    """The hub's, without the name and password that HF_ENDPOINT may hold."""
    from huggingface_hub import constants

    return re.sub(r"//[^/@]*@", "//", constants.ENDPOINT)


def _not_a_hub() -> str:
    return f"what answers at {_address()} is not a model hub; check HF_ENDPOINT and proxy"


def _root(error: BaseException) -> str:
    """The first cause of a network error; what wraps it repeats addresses and internals."""
    while (cause := error.__cause__ or error.__context__) is not None:
        error = cause
    return explain_failure(error)


def download(repo: str, name: str, revision: str | None) -> Path:
    """Return a file of a repository in the hub's cache, downloaded if need be.

    Args:
        repo: repository id.
        name: the file's name.
        revision: branch, tag or commit; None for the default branch.

    Raises:
        Unavailable: it cannot be had.
    """
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import GatedRepoError

    try:
        with not_waiting():
            return Path(hf_hub_download(repo, name, revision=revision, etag_timeout=TIMEOUT))
    except Unavailable as error:
        raise Unavailable(f"{name} could not be downloaded: {error}") from None
    except GatedRepoError:
        raise Unavailable(_restricted(repo)) from None
    except Exception as error:
        raise Unavailable(_explain_download(name, error)) from None


class _Limited(BaseException):
    """The hub limits how often it is asked. No Exception, for no library on the way to try on."""


@contextlib.contextmanager
def not_waiting() -> Iterator[None]:
    """Raise Unavailable where the hub's library would wait as long as the hub tells it to.

    That may be an hour, several times, and nothing would be said of it.
    """
    from huggingface_hub.utils import get_session  # type: ignore[attr-defined]

    def refuse(response: Any) -> None:
        if response.status_code == 429:
            raise _Limited(_explain_status(response))

    # Clients of older versions have no such hooks, and do not wait.
    hooks = getattr(get_session(), "event_hooks", {}).get("response", [])
    hooks.append(refuse)
    try:
        yield
    except _Limited as error:
        raise Unavailable(str(error)) from None
    finally:
        hooks.remove(refuse)


def _explain_download(name: str, error: BaseException) -> str:
    from huggingface_hub.errors import LocalEntryNotFoundError

    chain = [error]
    while (cause := chain[-1].__cause__ or chain[-1].__context__) is not None:
        chain.append(cause)
    refused = [getattr(one, "response", None) for one in chain]
    answers = [one for one in refused if getattr(one, "status_code", 0) >= 400]
    if answers:
        return f"{name} could not be downloaded: {_explain_status(answers[-1])}"
    sizes = re.search(r"should be of size (\d+) but has size (\d+)", str(error))
    # What stops the transfer is a class of whatever HTTP client the hub's library uses.
    broke_off = type(error).__module__.partition(".")[0] not in ("builtins", "huggingface_hub")
    if sizes or (broke_off and not isinstance(error, LocalEntryNotFoundError)):
        why = f"{int(sizes[2]):,} of {int(sizes[1]):,} bytes" if sizes else _root(error)
        return f"incomplete download of {name} ({why}); run again"
    return f"{name} could not be downloaded ({_root(error)})"


def _find_in_cache(repo: str, revision: str | None, allow_pickle: bool, why: str) -> HubModel:
    config = _cached(repo, "config.json", revision)
    adapter = _cached(repo, ADAPTER_CONFIG, revision) if config is None else None
    if adapter is not None:
        return HubModel(adapter.parent.name, cached=True, folder=adapter.parent, adapter=True)
    if config is None:
        raise SpecError(
            f"{why}, and no copy of it{_at(revision)} is in the cache, which would have been used"
            f"{suggest_local(repo)}"
        )
    check_config(content := read_json(config))
    check_packages(content)
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
