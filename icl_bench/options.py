"""The options of a run, in one table: pytest's, the command's, and how models are opened and run.

`--icl-NAME` of pytest is `--NAME` of `icl-bench run`, and `NAME` with underscores in Python.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from icl_bench.errors import SettingsError

SPLIT = "split"
"""As a device: over all there are, in the order accelerators, memory, disk."""

_URL = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+):/+")
"""How a URL begins; `Path` leaves one of its slashes. One letter is a drive of Windows."""
_SIZE = re.compile(r"([0-9]+(?:\.[0-9]+)?) ?(?:([kmgt])(i?))?b?", re.IGNORECASE)


Kind = Literal["text", "list", "flag"]


@dataclass(frozen=True)
class Option:
    """One option, wherever it is given.

    Args:
        name: without what its surroundings put before it.
        help: one line, without `%`.
        metavar: what stands for its value in help.
        default: what it is when not given.
        choices: the values it may have; empty for any.
        kind: `list` may be given several times, `flag` has no value.
    """

    name: str
    help: str
    metavar: str | None = None
    default: str | None = None
    choices: tuple[str, ...] = ()
    kind: Kind = "text"

    @property
    def dest(self) -> str:
        """Its name as a Python identifier."""
        return self.name.replace("-", "_")

    def keywords(self) -> dict[str, Any]:
        """Return what `argparse` and pytest's parser have to know of it."""
        told = {"help": self.help.replace("%", "%%"), "default": self.default}
        if self.kind == "flag":
            return {"help": told["help"], "action": "store_true"}
        metavar = self.metavar or "|".join(self.choices)
        action = {"action": "append"} if self.kind == "list" else {}
        return {**told, **action, "metavar": metavar}


OPTIONS = {
    option.name: option
    for option in (
        Option(
            "model",
            "model to test: builtin:NAME, hub id (with @REVISION), local folder, FILE.gguf, "
            "package.module:callable, or an adapter (ADAPTER, BASE+ADAPTER); with @* all "
            "checkpoints of a training run; NAME=SPEC sets its name",
            "SPEC",
            kind="list",
        ),
        Option(
            "suite",
            "suite to run: a shipped one (icl-bench list suites) or a file; "
            "repeatable (default: core)",
            "NAME|PATH",
            kind="list",
        ),
        Option("report-dir", "folder for reports (default: reports/)", "DIR", "reports"),
        Option(
            "plotly",
            "charting script of HTML pages: inline (default, each page works alone) or shared (one "
            "file in the report folder)",
            default="inline",
            choices=("inline", "shared"),
        ),
        Option(
            "baseline",
            "record to compare this run with, a .json file or a folder with a results.json, or a "
            "model, which is then measured first; a regression fails the run (one model)",
            "FILE|SPEC",
        ),
        Option("save-baseline", "save this run as a baseline", "FILE"),
        Option(
            "limit",
            "how much worse than the baseline METRIC may be: a number, N%, or noise (default: 2% "
            "of the gain, 0.02 of a score); - or + in front limits a fall or a rise; METRIC may be "
            "SUITE/MEASUREMENT.METRIC and contain *; repeatable",
            "METRIC=AMOUNT",
            kind="list",
        ),
        Option(
            "require-paired",
            "fail if a metric could be compared with the baseline sample by sample and is not "
            "(other tokens, another number of samples)",
            kind="flag",
        ),
        Option("code-quality", "write GitLab's Code Quality report to FILE", "FILE"),
        Option(
            "openmetrics",
            "write every checked metric to FILE as OpenMetrics text, for GitLab's metrics reports",
            "FILE",
        ),
        Option(
            "device",
            "auto (default), cpu, cuda, cuda:N, split (over all devices)",
            "DEVICE",
            "auto",
        ),
        Option(
            "dtype",
            "auto (default: float32 on CPU, else the model's), float32, bfloat16, float16",
            "DTYPE",
            "auto",
        ),
        Option("batch-size", "rows per forward pass (default: auto)", "N", "auto"),
        Option(
            "jobs",
            "processes that measure, each one model or one checkpoint at a time, with its share of "
            "cores and GPUs (default: 1)",
            "N",
            "1",
        ),
        Option("seed", "seed of all draws (default: the suite's, 0)", "N"),
        Option(
            "inconclusive",
            "how to treat a check whose interval contains its threshold, or a change that may be "
            "noise (default: fail)",
            default="fail",
            choices=("fail", "warn"),
        ),
        Option(
            "cache-dir",
            "folder for measurements and float copies of GGUF files (default: "
            "$ICL_BENCH_CACHE, else ~/.cache/icl_bench)",
            "DIR",
        ),
        Option(
            "cache-limit",
            "size limit of measurements in the cache, as 500MB or 2GiB (default: a tenth of the "
            "free disk, at least 1GiB); at its end a run removes the least recently used ones, "
            "none of its own",
            "SIZE",
        ),
        Option("no-cache", "measure everything again and keep nothing", kind="flag"),
        Option("trust-remote-code", "run code shipped with a model (default: refuse)", kind="flag"),
        Option(
            "allow-pickle",
            "read weights stored as pickles (default: refuse; a pickle can run code)",
            kind="flag",
        ),
    )
}
"""Name -> option of a run, in the order in which help lists them."""


def declare(add: Callable[..., Any], prefix: str, names: Iterable[str] = OPTIONS) -> dict[str, Any]:
    """Declare options, and return name -> what `add` returned for it.

    Args:
        add: `add_argument` of argparse, or pytest's `addoption`.
        prefix: what stands before the names: `--icl-` or `--`.
        names: which.
    """
    return {name: add(f"{prefix}{name}", **OPTIONS[name].keywords()) for name in names}


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

    @classmethod
    def read(cls, get: Callable[[str], Any], prefix: str) -> RunOptions:
        """Read and check the options that say how models are opened and run.

        Args:
            get: returns what was given for the `dest` of an option.
            prefix: what stands before the options' names, for messages.

        Raises:
            SettingsError: a value cannot be used.
        """
        batch, seed = get("batch_size"), get("seed")
        folder, limit = get("cache_dir"), get("cache_limit")
        if folder:
            refuse_url(folder, f"{prefix}cache-dir")
        options = cls(
            device=get("device"),
            dtype=get("dtype"),
            batch_size=None if batch in (None, "auto") else read_int(batch, f"{prefix}batch-size"),
            seed=None if seed is None else read_int(seed, f"{prefix}seed"),
            cache_dir=Path(folder) if folder else None,
            trust_remote_code=bool(get("trust_remote_code")),
            allow_pickle=bool(get("allow_pickle")),
            cache=not get("no_cache"),
            cache_limit=None if limit is None else read_size(limit, f"{prefix}cache-limit"),
        )
        options.validate()
        return options

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


def default_cache_dir() -> Path:
    """Return where copies and results are kept: $ICL_BENCH_CACHE, else the user's cache folder."""
    chosen = os.environ.get("ICL_BENCH_CACHE")
    if chosen:
        refuse_url(chosen, "$ICL_BENCH_CACHE")
        return Path(chosen).expanduser()
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "icl_bench"


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
            f"{option}={text}: must be a size such as 500MB, 1.5GiB or a number of bytes"
        )
    number, unit, binary = match.groups()
    power = "kmgt".index(unit.lower()) + 1 if unit else 0
    factor: int = (1024 if binary else 1000) ** power
    size = float(number) * factor
    if not size < 2**63:
        raise SettingsError(f"{option}={text:.60}: more than any disk holds")
    return round(size)


def read_int(text: str, option: str) -> int:
    """Return a whole number.

    Args:
        text: what was given.
        option: what it was given for, as the message names it.

    Raises:
        SettingsError: it is none.
    """
    try:
        return int(text)
    except ValueError:
        raise SettingsError(f"{option}={text}: must be a whole number") from None


def check_choice(name: str, text: str, prefix: str) -> str:
    """Return the value of an option that has a few, if it is one of them.

    Args:
        name: of the option.
        text: what was given.
        prefix: what stands before the options' names, for the message.

    Raises:
        SettingsError: it is another.
    """
    choices = OPTIONS[name].choices
    if text not in choices:
        raise SettingsError(f"{prefix}{name}={text}: use {' or '.join(choices)}")
    return text


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
