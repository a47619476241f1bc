"""Measurements on disk, each under a digest of everything that can change it.

`FOLDER/measurements/KEY.json` holds a Measurement; `FOLDER/models/IDENTITY.json` what a record
says of a model, so that a model whose measurements are all here need not be opened. Entries are
written whole or not at all, with a digest of their content; one that was changed since is named,
counts as absent and is written again, and so does one without a digest. The folder may be deleted
at any time.

Once, at its end, a run removes what is beyond the limit, of the entries that were used before it
and before every run that was alive when it began (`presence`). An entry's time of modification is
when it was used last.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import sys
import time
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from icl_bench.options import RunOptions, default_cache_dir
from icl_bench.records.digests import FIELD, sign, state_of
from icl_bench.records.parts import Environment, Measurement, ModelInfo
from icl_bench.records.writing import write_atomically
from icl_bench.running.presence import Mark, leave_mark

KINDS = ("measurements", "models")
"""Folders of entries."""
LEAST_LIMIT = 2**30
"""Bytes that entries may take however full the disk is, unless a limit is given."""
DISK_SHARE = 10
"""Without a limit, entries may take this share, one in so many bytes, of the free disk space and of
what they take already."""
LEFTOVER_SECONDS = 3600
"""Age from which an unfinished file is what a killed process left behind."""

_ENTRY = re.compile(r"[0-9a-f]{64}\.json")
_LEFTOVER = re.compile(r"\.[0-9a-f]{64}\.json\..+")


class CacheWarning(UserWarning):
    """Measuring goes on, but its results cannot be kept, or earlier ones were removed."""


class KnownModel(BaseModel):
    """What is known of a model once it has been opened.

    Args:
        conditions: everything about model and machine that can change a number; None when that
            cannot be told, and nothing measured on it may be kept.
        model: its description.
        environment: where it was opened.
    """

    model_config = ConfigDict(protected_namespaces=())

    conditions: dict[str, Any] | None
    model: ModelInfo
    environment: Environment


@dataclass(frozen=True)
class Removed:
    """What a run removed at its end.

    Args:
        folder: from which cache.
        entries: number of entries.
        before: how many there were.
        size: bytes of those that were removed.
        limit: bytes that entries may take.
    """

    folder: Path
    entries: int
    before: int
    size: int
    limit: int

    def describe(self, option: str) -> str:
        """Return a line about it.

        Args:
            option: what changes the limit.
        """
        from rich.filesize import decimal

        return (
            f"cache: removed {self.entries} of {self.before} entries ({decimal(self.size)}, least "
            f"recently used) from {self.folder}; limit {decimal(self.limit)}, changed by "
            f"{option}=SIZE"
        )


class Cache:
    """A folder of measurements and of what is known of models.

    Args:
        folder: the folder; made when a run begins or something is kept.
        limit: bytes that entries may take; None to go by the free disk space.
    """

    def __init__(self, folder: Path, limit: int | None = None) -> None:
        # A test may change the working directory before the run is over.
        self.folder, self._limit = folder.absolute(), limit
        self.mark: Mark | None = None
        """That this run is alive; None before `begin`, and where it cannot be written."""
        self._warned = False
        self._changed: set[Path] = set()

    def __enter__(self) -> Cache:
        self.begin()
        return self

    def __exit__(self, *_: object) -> None:
        self.end()

    def begin(self) -> None:
        """Let other runs know of this one: what it uses from now on stays."""
        try:
            self.mark = leave_mark(self.folder / "runs")
        except OSError as error:
            if self._limit:
                why = error.strerror or error
                warn(f"the limit of {self.folder} is not kept: no run can be marked there ({why})")

    def end(self) -> None:
        """Let other runs know that this one is over."""
        if self.mark is not None:
            self.mark.remove()
            self.mark = None

    def find(self, key: str) -> Measurement | None:
        """Return the measurement kept under `key`, marked as such, or None."""
        path = self._path("measurements", key)
        entry = self._read(path)
        if entry is None:
            return None
        try:
            found = Measurement.model_validate(entry)
        except ValidationError:
            return None
        self._use(path)
        return found.model_copy(update={"cached": True})

    def keep(self, key: str, measurement: Measurement) -> None:
        """Keep a measurement under `key`, in place of what is there.

        Args:
            key: digest of everything that can change it.
            measurement: what was measured.
        """
        # Not as JSON, which would make None of NaN: it is to be found as it was or not at all.
        content = measurement.model_dump(exclude={"cached"})
        with contextlib.suppress(ValueError, TypeError):
            self._write(self._path("measurements", key), content)

    def load_known(self, identity: str) -> KnownModel | None:
        """Return what is known of the model with this identity, or None."""
        path = self._path("models", identity)
        entry = self._read(path)
        if entry is None:
            return None
        try:
            known = KnownModel.model_validate(entry)
        except ValidationError:
            return None
        self._use(path)
        return known

    def save_known(self, identity: str, known: KnownModel) -> None:
        """Keep what is known of a model, in place of what was.

        Args:
            identity: digest of what a spec names and of the options that it is opened with.
            known: what is known of it.
        """
        self._write(self._path("models", identity), known.model_dump(mode="json"))

    def warn(self, why: str) -> None:
        """Say once that measuring goes on without keeping what is measured."""
        if self._warned:
            return
        self._warned = True
        warn(f"{why}; what is measured is not kept")

    def entries(self) -> dict[str, tuple[int, int]]:
        """Return of each kind of entry how many there are, and their bytes together."""
        sizes = {kind: [stat.st_size for stat, _ in self._entries(kind)] for kind in KINDS}
        return {kind: (len(found), sum(found)) for kind, found in sizes.items()}

    def limit(self, taken: int) -> int:
        """Return how many bytes entries may take.

        Args:
            taken: bytes that they take.
        """
        if self._limit is not None:
            return self._limit
        for folder in (self.folder, *self.folder.parents):
            with contextlib.suppress(OSError):
                return max(LEAST_LIMIT, (shutil.disk_usage(folder).free + taken) // DISK_SHARE)
        return LEAST_LIMIT

    def trim(self) -> Removed | None:
        """Remove what is beyond the limit, least recently used first, at the end of a run.

        What this run has used stays, and what any run has that was alive beside it, even beyond
        the limit. Nothing is removed by a run within a run of the same process, nor before `begin`.

        Returns:
            what was removed; None for nothing.
        """
        if self.mark is None or self.mark.is_nested:
            return None
        entries = [entry for kind in KINDS for entry in self._entries(kind, tidy=True)]
        left = sum(stat.st_size for stat, _ in entries)
        limit, sizes = self.limit(left), []
        for stat, path in sorted(entries, key=lambda entry: entry[0].st_mtime_ns):
            if left <= limit:
                break
            with contextlib.suppress(OSError):
                # Looked at again: another run may have used it since.
                if path.stat().st_mtime_ns < self.mark.since:
                    path.unlink()
                    sizes.append(stat.st_size)
                    left -= stat.st_size
        if not sizes:
            return None
        return Removed(self.folder, len(sizes), len(entries), sum(sizes), limit)

    def _path(self, kind: str, name: str) -> Path:
        return self.folder / kind / f"{name}.json"

    def _read(self, path: Path) -> Any:
        """The content of an entry; None where there is none, or none that can be trusted."""
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
        except OSError:
            return None
        except (ValueError, RecursionError):
            content = None
        state = state_of(content) if isinstance(content, dict) else "changed"
        if state == "intact":
            return content
        if state == "changed" and path not in self._changed:
            self._changed.add(path)
            warn(f"{path}: its content was changed after it was written; it is measured anew")
        return None

    def _write(self, path: Path, content: dict[str, Any]) -> None:
        self._touch()
        text = json.dumps(content, ensure_ascii=False, allow_nan=False)
        signed = {FIELD: sign(json.loads(text)), **content}
        try:
            write_atomically(path, json.dumps(signed, ensure_ascii=False) + "\n")
        except OSError as error:
            self.warn(f"{self.folder} cannot be written ({error.strerror or error})")

    def _touch(self) -> None:
        if self.mark is not None:
            self.mark.touch()

    def _use(self, path: Path) -> None:
        """Note that an entry is used now."""
        self._touch()
        with contextlib.suppress(OSError):
            try:
                os.utime(path)
            except PermissionError:  # another user's, in a folder that several write to
                write_atomically(path, path.read_text(encoding="utf-8"))

    def _entries(self, kind: str, *, tidy: bool = False) -> Iterator[tuple[os.stat_result, Path]]:
        """Entries of one kind; to tidy, what killed processes left half written is removed.

        Files of other names are not ours: someone may keep the cache beside work of his own.
        """
        with contextlib.suppress(OSError), os.scandir(self.folder / kind) as files:
            for file in files:
                # Another process may remove a file while this one looks at it.
                with contextlib.suppress(OSError):
                    stat = file.stat()
                    if _ENTRY.fullmatch(file.name):
                        yield stat, Path(file.path)
                    elif tidy and _LEFTOVER.fullmatch(file.name) and _is_old(stat):
                        os.unlink(file.path)


def _is_old(stat: os.stat_result) -> bool:
    return time.time() - stat.st_mtime > LEFTOVER_SECONDS


def warn(text: str) -> None:
    """Warn of something about a cache that costs nothing that has been measured.

    Args:
        text: what happened.
    """
    try:
        warnings.warn(text, CacheWarning, stacklevel=3)
    except CacheWarning:
        # Where warnings are errors, this one would cost what has been measured.
        print(text, file=sys.stderr)


def open_cache(options: RunOptions) -> Cache | None:
    """Return the cache of a run, or None when the run is to do without.

    Args:
        options: whether there is one, where, and how large it may become.
    """
    if not options.cache:
        return None
    return Cache(options.cache_dir or default_cache_dir(), options.cache_limit)
