"""`icl-bench cache`: what earlier runs have kept, and how to be rid of it."""

from __future__ import annotations

import argparse
import contextlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

from icl_bench.commands.parsing import OK, add_command, add_options
from icl_bench.errors import IclError, SettingsError
from icl_bench.render.writing.logs import escape_ci_commands

if TYPE_CHECKING:
    from icl_bench.running.cache import Cache

DESCRIPTION = """\
Show the contents and size of the cache: measurements, descriptions of models (which save a run from
opening them) and float copies of GGUF files. At its end each run removes entries beyond the limit,
least recently used first, and none that a live run has used.

  icl-bench cache                            show sizes, remove nothing
  icl-bench cache --cache-limit=500MB        remove entries beyond the limit now
  icl-bench cache --clear                    remove everything, float copies too

Both keep entries that live runs have used; --clear keeps all float copies during a live run."""


def add_parser(commands: Any) -> None:
    """Add the command to the command line.

    Args:
        commands: what `add_subparsers` returned.
    """
    parser = add_command(
        commands, "cache", "show or clear the results kept by earlier runs", DESCRIPTION
    )
    add_options(parser, "cache-dir", "cache-limit")
    parser.add_argument(
        "--clear", action="store_true", help="remove all measurements and float copies"
    )
    parser.set_defaults(command=run)


def run(given: argparse.Namespace) -> int:
    """Carry the command out; return its exit code.

    Args:
        given: the parsed command line.

    Raises:
        SettingsError: an option is wrong.
        IclError: not all can be removed.
    """
    from icl_bench.options import default_cache_dir, read_size, refuse_url
    from icl_bench.running.cache import Cache

    if given.clear and given.cache_limit is not None:
        raise SettingsError("--clear and --cache-limit: give one of them")
    limit = None if given.cache_limit is None else read_size(given.cache_limit, "--cache-limit")
    if given.cache_dir:
        refuse_url(given.cache_dir, "--cache-dir")
    folder = Path(given.cache_dir) if given.cache_dir else default_cache_dir()
    try:
        if folder.exists() and not folder.is_dir():
            raise SettingsError(f"{folder} is not a folder")
    except OSError as error:
        raise SettingsError(f"{folder} cannot be read ({error.strerror})") from None
    cache = Cache(folder, 0 if given.clear else limit)
    if given.clear:
        _clear(cache)
        return OK
    if limit is not None and folder.exists():
        with cache:
            removed = cache.trim()
        if removed:
            print(escape_ci_commands(removed.describe("--cache-limit")))
    _show(cache, is_given=limit is not None)
    return OK


def _show(cache: Cache, *, is_given: bool) -> None:
    from rich.filesize import decimal

    from icl_bench.models.sources.gguf.source import find_copies

    entries = cache.entries()
    copies = find_copies(cache.folder)
    rows = [
        ("measurements", *entries["measurements"]),
        ("known models", *entries["models"]),
        ("float copies of GGUF files", len(copies), sum(map(_size_of, copies))),
    ]
    print(escape_ci_commands(str(cache.folder)))
    for name, count, size in rows:
        print(f"  {name:26} {count:7}  {decimal(size):>9}")
    limit = decimal(cache.limit(sum(size for _, size in entries.values())))
    why = "as given" if is_given else "by free disk; a run's --cache-limit=SIZE changes it"
    print(f"limit of measurements and known models: {limit} ({why})")


def _clear(cache: Cache) -> None:
    """Remove everything but what live runs have used, and say how much that was."""
    from rich.filesize import decimal

    from icl_bench.models.sources.gguf.source import find_copies, remove_copy

    copies = find_copies(cache.folder)
    if not copies and not any(count for count, _ in cache.entries().values()):
        print(escape_ci_commands(f"nothing is kept in {cache.folder}"))
        return
    with cache:
        if cache.mark is None:
            raise IclError(
                f"{cache.folder}: nothing was removed: runs cannot be marked there as alive, so "
                "what they use is not known; remove the folder yourself when none runs"
            )
        others = cache.mark.beside
        removed = cache.trim()
        sizes = {copy: _size_of(copy) for copy in copies}
        gone = [copy for copy in copies if not others and remove_copy(copy)]
    count, size = (removed.entries, removed.size) if removed else (0, 0)
    copied = decimal(sum(sizes[copy] for copy in gone))
    told = f"entries {count} ({decimal(size)}), float copies {len(gone)} ({copied})"
    print(escape_ci_commands(f"removed from {cache.folder}: {told}"))
    left = sum(count for count, _ in cache.entries().values())
    if not left and len(gone) == len(copies):
        return
    stays = f"not removed: entries {left}, float copies {len(copies) - len(gone)}"
    if not others:
        raise IclError(f"{cache.folder}: {stays}; they are in use or cannot be removed")
    print(f"{stays}; processes with a live run that use the folder: {others}")


def _size_of(copy: Path) -> int:
    """Bytes of a float copy, with what a killed process left of it."""
    folders = (copy, *copy.parent.glob(f"{copy.name}.part-*"))
    total = 0
    for file in (file for folder in folders for file in folder.rglob("*")):
        with contextlib.suppress(OSError):  # it may be moved while the copy is being made
            total += file.stat().st_size if file.is_file() else 0
    return total
