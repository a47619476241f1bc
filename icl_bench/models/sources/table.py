"""The sources of models, by name: those of this package, and those that other packages add.

A new source is a file with an object of the protocol `Source` and a row here. Nothing is imported
until a source is asked for.
"""

from __future__ import annotations

import contextlib
import difflib
import functools
import importlib
import inspect
import re
from collections.abc import Iterator

from icl_bench import extensions
from icl_bench.errors import IclError, SpecError
from icl_bench.models.module.weights import explain_failure
from icl_bench.models.sources.source import OPERATIONS, Source
from icl_bench.models.sources.spec import OPEN
from icl_bench.provenance import package_version

SOURCES: dict[str, str] = {
    "adapter": "icl_bench.models.sources.adapters.source:SOURCE",
    "builtin": "icl_bench.models.sources.builtin:SOURCE",
    "gguf": "icl_bench.models.sources.gguf.source:SOURCE",
    "folder": "icl_bench.models.sources.folder:SOURCE",
    "callable": "icl_bench.models.sources.callable_source:SOURCE",
    "hub": "icl_bench.models.sources.hub_source:SOURCE",
}
"""Name -> `module:object`, in the order in which they are asked whether a text is theirs."""

_PREFIX = re.compile(r"([A-Za-z][\w-]+):")
"""What may be the name of another package's source. Modules in packages have dots, and one letter
is a drive of Windows."""


def get_source(name: str) -> Source:
    """Return the source of a spec's `kind`.

    Args:
        name: a row of the table, or the name of an entry point.

    Raises:
        SpecError: there is none, or what another package adds cannot be used.
    """
    if name in SOURCES:
        module, _, attribute = SOURCES[name].partition(":")
        source: Source = getattr(importlib.import_module(module), attribute)
        return source
    added: Source = _load(name).object
    return added


def find_named(text: str) -> tuple[str, Source] | None:
    """Return name and source if a text begins with `NAME:` of another package's source.

    Args:
        text: a model spec.

    Raises:
        SpecError: what that package adds cannot be used.
    """
    match = _PREFIX.match(text)
    if match is None or match[1] in SOURCES or _find(match[1]) is None:
        return None
    return match[1], get_source(match[1])


def suggest_source(text: str) -> str:
    """Return `; did you mean ...?` if a text begins nearly like the name of a source and ':'.

    Args:
        text: a model spec.
    """
    match = _PREFIX.match(text)
    if match is None or match[1] in SOURCES:
        return ""
    names = ["builtin", *extensions.names(extensions.SOURCES)]
    close = difflib.get_close_matches(match[1], names, n=1, cutoff=0.6)
    return f"; did you mean '{close[0]}{text[match.end(1) :]}'?" if close else ""


@contextlib.contextmanager
def failing_in(name: str) -> Iterator[None]:
    """Make one message of whatever another package's source raises that is no error of ours.

    Args:
        name: a spec's `kind`.

    Raises:
        SpecError: in place of what was raised.
    """
    try:
        yield
    except IclError:
        raise
    except (Exception, SystemExit) as error:
        if name in SOURCES:
            raise
        extension = _load(name)
        raise SpecError(
            f"source {name!r} of package {extension.package} {extension.version} broke: "
            f"{explain_failure(error)}"
        ) from error


def source_version(name: str) -> list[str | None] | None:
    """Return package, version and a digest of the files of another package's source, else None.

    Args:
        name: a spec's `kind`.
    """
    added = None if name in SOURCES or name == OPEN else _find(name)
    if added is None:
        return None
    return [
        added.package,
        added.version,
        package_version(added.where.partition(":")[0]),
    ]


def _load(name: str) -> extensions.Extension:
    added = _find(name)
    if added is None:
        raise SpecError(f"the source {name!r} is not installed")
    return added


@functools.cache
def _find(name: str) -> extensions.Extension | None:
    added = extensions.find(extensions.SOURCES, name, SOURCES, wanted=OPERATIONS, error=SpecError)
    if added is not None and inspect.isclass(added.object):
        raise SpecError(
            f"source {name!r} of package {added.package}, {added.where}, is a class; its entry "
            "point must name an object of it"
        )
    return added
