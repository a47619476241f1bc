"""How models are opened and run: what the command line and the Python API have in common."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path

from icl_bench.errors import SettingsError

SPLIT = "split"
"""As a device: over all there are, in the order accelerators, memory, disk."""

_URL = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+):/+")
"""How a URL begins; `Path` leaves one of its slashes. One letter is a drive of Windows."""


def refuse_url(path: str | os.PathLike[str], option: str) -> None:
    """Refuse a URL where a local folder or file is needed: it would become a folder `s3:`.

    Args:
        path: what was given.
        option: the option that it was given for, or what it is, with a space at its end.

    Raises:
        SettingsError: it is a URL.
    """
    found = _URL.match(os.fspath(path))
    if found:
        text = os.fspath(path)
        url = text if "://" in text else f"{found[1]}://{text[found.end() :]}"
        given = option if option.endswith(" ") else f"{option}="
        raise SettingsError(
            f"{given}{url}: a URL; reports, baselines and the cache are local files, so give a "
            "path on this machine and copy from there"
        )


def default_cache_dir() -> Path:
    """Return where copies and results are kept: $ICL_BENCH_CACHE, else the user's cache folder."""
    chosen = os.environ.get("ICL_BENCH_CACHE")
    if chosen:
        refuse_url(chosen, "$ICL_BENCH_CACHE")
        return Path(chosen).expanduser()
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "icl_bench"


_SIZE = re.compile(r"([0-9]+(?:\.[0-9]+)?) ?(?:([kmgt])(i?))?b?", re.IGNORECASE)


@dataclass(frozen=True)
class RunOptions:
    """How models are opened and run; the same for every model of a run.

    Args:
        device: auto, cpu, cuda, cuda:N, or split (over all devices, then memory, then disk).
        dtype: auto, float32, bfloat16 or float16.
        batch_size: rows of a forward pass; None to choose.
        seed: overrides the suites' seeds; None to keep them.
        cache_dir: folder for measurements and for float copies of GGUF files; None for the default.
        trust_remote_code: run code that a model brings.
        allow_pickle: read weights that are stored as pickles.
        cache: keep measurements, and take from the cache what was measured before.
        cache_limit: bytes that measurements may take there; at its end a run removes older ones
            beyond it, and none that it has used. None to go by the free disk space.
    """

    device: str = "auto"
    dtype: str = "auto"
    batch_size: int | None = None
    seed: int | None = None
    cache_dir: Path | None = None
    trust_remote_code: bool = False
    allow_pickle: bool = False
    cache: bool = True
    cache_limit: int | None = None

    def validate(self) -> None:
        """Check values that can be judged without a model.

        Raises:
            SettingsError: a value cannot be used.
        """
        if self.batch_size is not None and self.batch_size < 1:
            raise SettingsError(f"batch size {self.batch_size}: must be at least 1")
        if self.seed is not None and self.seed < 0:
            raise SettingsError(f"seed {self.seed}: must not be negative")
        if self.cache_dir is not None:
            refuse_url(self.cache_dir, "cache folder")


def read_size(text: str, option: str) -> int:
    """Return a size in bytes: 300kB and 500M count in thousands, 1.5GiB and 2Mi in 1,024s.

    Args:
        text: a number with or without a unit, in capitals or not.
        option: what it was given for, as the message names it.

    Raises:
        SettingsError: it is no size.
    """
    match = _SIZE.fullmatch(text.strip())
    if match is None:
        raise SettingsError(
            f"{option}={text}: a size is needed, such as 500MB, 1.5GiB or a number of bytes"
        )
    number, unit, binary = match.groups()
    power = "kmgt".index(unit.lower()) + 1 if unit else 0
    return round(float(number) * (1024 if binary else 1000) ** power)
