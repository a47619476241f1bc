"""What other installed packages add to icl_bench: probes, reports and sources of models.

A package declares them as entry points of the groups `icl_bench.probes`, `icl_bench.reports` and
`icl_bench.sources`. Nothing is read until a name is used that icl_bench itself does not have, and
only the object of that name is imported.
"""

from __future__ import annotations

import importlib.metadata
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

from icl_bench.errors import InputError, SettingsError

PROBES, REPORTS, SOURCES = "icl_bench.probes", "icl_bench.reports", "icl_bench.sources"
"""The groups of entry points."""


@dataclass(frozen=True)
class Extension:
    """An object that another package adds.

    Args:
        name: the name that users type.
        object: the loaded object.
        where: the entry point's `module:attribute`.
        package: name of the package that adds it.
        version: that package's version.
    """

    name: str
    object: Any
    where: str
    package: str
    version: str


def find(
    group: str,
    name: str,
    known: Collection[str],
    *,
    wanted: Collection[str] = (),
    error: type[InputError] = SettingsError,
) -> Extension | None:
    """Load what an installed package adds under a name.

    Args:
        group: group of entry points.
        name: what the user typed.
        known: names that icl_bench itself has in this group.
        wanted: attributes that the object must have.
        error: class of the errors raised here.

    Returns:
        the loaded object and where it is from; None if no package adds this name.

    Raises:
        InputError: of the class `error`. A package adds a name that icl_bench has, two packages
            add the same one, or the object cannot be loaded or lacks attributes.
    """
    kind = group.rpartition(".")[2].removesuffix("s")
    entries = importlib.metadata.entry_points(group=group)
    for entry in entries:
        if entry.name in known:
            raise error(
                f"package {_package(entry)} adds a {kind} {entry.name!r}, but icl_bench has one of "
                "that name; uninstall the package or rename its entry point"
            )
    named = [entry for entry in entries if entry.name == name]
    if not named:
        return None
    packages = sorted(map(_package, named))
    if len(named) > 1:
        raise error(
            f"{len(named)} packages add a {kind} {name!r}: {', '.join(packages)}; uninstall all "
            "but one"
        )
    (entry,) = named
    what = f"{kind} {name!r} of package {packages[0]}, {entry.value},"
    try:
        loaded = entry.load()
    except (Exception, SystemExit) as failure:
        reason = " ".join(f"{type(failure).__name__}: {failure}".split())
        raise error(f"{what} cannot be loaded: {reason}") from failure
    missing = [attribute for attribute in wanted if not hasattr(loaded, attribute)]
    if missing:
        raise error(f"{what} has no {', '.join(missing)}")
    package, version = packages[0].rsplit(" ", 1)
    return Extension(name, loaded, entry.value, package, version)


def names(group: str) -> list[str]:
    """Return the names that installed packages add, sorted; nothing is imported.

    Args:
        group: group of entry points.
    """
    return sorted({entry.name for entry in importlib.metadata.entry_points(group=group)})


def _package(entry: importlib.metadata.EntryPoint) -> str:
    return f"{entry.dist.name} {entry.dist.version}" if entry.dist else "of unknown name"
