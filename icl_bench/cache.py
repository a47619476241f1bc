"""Measurements on disk, each under a digest of everything that can change it.

`FOLDER/measurements/KEY.json` holds a Measurement; `FOLDER/models/IDENTITY.json` what a record
says of a model, so that a model whose measurements are all here need not be opened. Entries are
written whole or not at all; one that cannot be read counts as absent and is written again. The
folder may be deleted at any time.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
import time
import warnings
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from icl_bench.models.loading import default_cache_dir
from icl_bench.options import RunOptions
from icl_bench.record import Environment, Measurement, ModelInfo, write_atomically

LIMIT = 2**30
"""Bytes that entries may take; beyond, those that were not used for longest are removed."""
LEFTOVER_SECONDS = 3600
"""Age from which an unfinished file is what a killed process left behind."""


class CacheWarning(UserWarning):
    """Measuring goes on, but its results cannot be kept."""


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


class Cache:
    """A folder of measurements and of what is known of models.

    Args:
        folder: the folder; made when something is first kept.
        limit: bytes that entries may take.
    """

    def __init__(self, folder: Path, limit: int = LIMIT) -> None:
        self.folder, self.limit = folder, limit
        self._writes = 0
        self._warned = False

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
        with contextlib.suppress(OSError):
            os.utime(path)  # what is used stays
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

    def recall(self, identity: str) -> KnownModel | None:
        """Return what is known of the model with this identity, or None."""
        entry = self._read(self._path("models", identity))
        if entry is None:
            return None
        try:
            return KnownModel.model_validate(entry)
        except ValidationError:
            return None

    def remember(self, identity: str, known: KnownModel) -> None:
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
        text = f"{why}; what is measured is not kept"
        try:
            warnings.warn(text, CacheWarning, stacklevel=2)
        except CacheWarning:
            # Where warnings are errors, this one would cost what has been measured.
            print(text, file=sys.stderr)

    def _path(self, kind: str, name: str) -> Path:
        return self.folder / kind / f"{name}.json"

    def _read(self, path: Path) -> Any:
        try:
            return json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None

    def _write(self, path: Path, content: dict[str, Any]) -> None:
        text = json.dumps(content, ensure_ascii=False, allow_nan=False)
        try:
            write_atomically(path, text + "\n")
            if self._writes == 0:
                self._trim()
            self._writes += 1
        except OSError as error:
            self.warn(f"{self.folder} cannot be written ({error.strerror or error})")

    def _trim(self) -> None:
        """Remove what killed processes left, and beyond the limit what was used longest ago."""
        entries: list[tuple[float, int, Path]] = []
        for kind in ("measurements", "models"):
            with contextlib.suppress(OSError), os.scandir(self.folder / kind) as files:
                for file in files:
                    # Another process may remove a file while this one looks at it.
                    with contextlib.suppress(OSError):
                        stat = file.stat()
                        if not file.name.startswith("."):
                            entries.append((stat.st_mtime, stat.st_size, Path(file.path)))
                        elif time.time() - stat.st_mtime > LEFTOVER_SECONDS:
                            os.unlink(file.path)
        total = sum(size for _, size, _ in entries)
        if total <= self.limit:
            return
        for _, size, path in sorted(entries):
            path.unlink(missing_ok=True)
            total -= size
            # Some way below, for the next process not to begin anew.
            if total <= self.limit * 3 // 4:
                return


def open_cache(options: RunOptions) -> Cache | None:
    """Return the cache of a run, or None when the run is to do without.

    Args:
        options: whether there is one, and where.
    """
    return Cache(options.cache_dir or default_cache_dir()) if options.cache else None
