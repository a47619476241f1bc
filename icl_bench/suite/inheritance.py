"""A suite that extends another one: the files that it is made of, and what they say together."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from icl_bench.errors import SuiteError, nearest
from icl_bench.suite import document as yaml_document
from icl_bench.suite.catalog import resolve_suite
from icl_bench.suite.document import BrokenDocument, Document, PathKey
from icl_bench.suite.problems import Problem, make_error, show_path

OWN_KEYS = ("icl_suite", "name", "version", "description")
"""Keys that a suite states for itself and takes from no other."""
LISTED = ("checks", "quiz")
"""Sections whose entries are known by their id."""


@dataclass(frozen=True)
class Written:
    """One file of a suite: its path, absolute, and its content."""

    path: Path
    document: Document

    def problem(self, place: PathKey, message: str, at_key: bool = False) -> Problem:
        """Return a problem with the value (or the key) at a place of this file."""
        return Problem(*self.document.locate(place, at_key), message, self.path)


def read_files(path: Path, read: Callable[[Path], bytes]) -> list[Written]:
    """Read a suite's file and those that it extends, itself first.

    Args:
        path: the file, absolute.
        read: returns the bytes of a file, or raises SuiteError.

    Raises:
        SuiteError: a file cannot be read or is not YAML, or there is no such suite to extend.
    """
    files: list[Written] = []
    seen: set[Path] = set()
    while True:
        try:
            document = yaml_document.parse(yaml_document.decode(read(path)))
        except BrokenDocument as error:
            raise make_error(path, [error.problem]) from None
        document.problems = [replace(problem, file=path) for problem in document.problems]
        document.file = path
        file = Written(path, document)
        files.append(file)
        seen.add(path.resolve())
        base = document.data.get("extends") if isinstance(document.data, dict) else None
        if not isinstance(base, str) or not base:
            return files  # it extends nothing, or that is a mistake which its schema names
        try:
            path = resolve_suite(base, path.parent).absolute()
            if not path.is_file():  # to read a pipe would block
                what = "a folder" if path.is_dir() else "no regular file"
                raise SuiteError(f"{show_path(path)}: {what}; a suite is one YAML file")
        except SuiteError as error:
            problem = file.problem(("extends",), f"extends: {error}")
            raise make_error(file.path, [problem]) from None
        if path.resolve() in seen:
            way = " -> ".join(show_path(one) for one in (*(f.path for f in files), path))
            problem = file.problem(("extends",), f"extends goes in a circle: {way}")
            raise make_error(file.path, [problem])


def merge(base: Written, suite: Written) -> Document:
    """Put together what a suite and the one that it extends say.

    Settings in `defaults` and in a measurement replace those of the same name, checks and quiz
    items those of the same id. A measurement with another probe replaces the whole one.

    Args:
        base: what is extended, put together itself; no section is of a wrong kind.
        suite: the suite, of which the same holds.

    Returns:
        the content of both, each piece with its place in the file that it is from; its problems are
        names in `remove` that `base` does not have.
    """
    old, new = base.document.data, suite.document.data
    removed = set(new.get("remove", []))
    data: dict[str, Any] = {key: new[key] for key in OWN_KEYS if key in new}
    made = Document(data, problems=_check_removed(old, suite), file=suite.path)
    made.removed = dict(base.document.removed)
    for place, name in enumerate(new.get("remove", [])):
        made.removed[name] = suite.problem(("remove", place), f"{name!r} is removed")
    kept: dict[PathKey, PathKey] = {}
    own: dict[PathKey, PathKey] = {}
    for section in ("defaults", "measure", *LISTED):
        if section in old or section in new:
            kept[section,] = (section,)
    if ("defaults",) in kept:
        given = new.get("defaults", {})
        data["defaults"] = {**old.get("defaults", {}), **given}
        kept |= {("defaults", key): ("defaults", key) for key in data["defaults"].keys() - given}
    if ("measure",) in kept:
        data["measure"] = _merge_measurements(old, new, removed, kept)
    replaced = {_id(entry) for section in LISTED for entry in new.get(section, [])}
    for section in LISTED:
        if (section,) in kept:
            data[section] = _merge_entries(section, old, new, (removed, replaced), (kept, own))
    _place(made, base, lambda path: _moved(path, kept))
    _place(made, suite, lambda path: _moved(path, own) or path)
    return made


def _id(entry: dict[str, Any]) -> str | None:
    identity = entry.get("id")
    return identity if isinstance(identity, str) else None


def _check_removed(old: dict[str, Any], suite: Written) -> list[Problem]:
    """Return what is wrong with `remove`: names that the base does not have, and repeated ones."""
    ids = {_id(entry) for section in LISTED for entry in old.get(section, [])}
    known = {name for name in ids | set(old.get("measure", {})) if name is not None}
    wanted = suite.document.data.get("remove", [])
    problems = []
    for place, name in enumerate(wanted):
        if name not in known:
            message = f"{old.get('name')!r} has no check, quiz item or measurement {name!r}"
            message = f"{message}; {nearest(name, known)}"
        elif name in wanted[:place]:
            message = f"{name!r} is listed twice"
        else:
            continue
        problems.append(suite.problem(("remove", place), message))
    return problems


def _merge_measurements(
    old: dict[str, Any], new: dict[str, Any], removed: set[str], kept: dict[PathKey, PathKey]
) -> dict[str, Any]:
    """Return the measurements of both; places of the base that stay go to `kept`."""
    given = new.get("measure", {})
    found: dict[str, Any] = {}
    for name, entry in old.get("measure", {}).items():
        if name in removed:
            continue
        own = given.get(name, {})
        if own.get("probe", entry.get("probe")) != entry.get("probe"):
            entry = {}
        found[name] = {**entry, **own}
        if name not in given:
            kept["measure", name] = ("measure", name)
        for key in entry.keys() - own:
            kept["measure", name, key] = ("measure", name, key)
    return {**found, **{name: entry for name, entry in given.items() if name not in found}}


def _merge_entries(
    section: str,
    old: dict[str, Any],
    new: dict[str, Any],
    gone: tuple[set[str], set[str | None]],
    moved: tuple[dict[PathKey, PathKey], dict[PathKey, PathKey]],
) -> list[dict[str, Any]]:
    """Return entries of the base in its order, each replaced where it stands, then new ones.

    Args:
        section: checks or quiz.
        old: what is extended.
        new: the suite.
        gone: ids that are removed, and those that the suite gives in either section.
        moved: where entries of both go.
    """
    (removed, replaced), (kept, own) = gone, moved
    given = new.get(section, [])
    left = dict(enumerate(given))
    by_id = {_id(entry): place for place, entry in left.items()}
    found: list[dict[str, Any]] = []
    for place, entry in enumerate(old.get(section, [])):
        identity = _id(entry)
        if identity is not None and identity in removed:
            continue
        if identity is not None and identity in by_id:
            target = by_id[identity]
            own[section, target] = (section, len(found))
            found.append(left.pop(target))
        elif identity is None or identity not in replaced:
            kept[section, place] = (section, len(found))
            found.append(entry)
    for place, entry in left.items():
        own[section, place] = (section, len(found))
        found.append(entry)
    return found


def _moved(path: PathKey, places: dict[PathKey, PathKey]) -> PathKey | None:
    """Return where a piece goes, by what is said of it or of what it is a part of."""
    for length in (3, 2, 1):
        if length <= len(path) and (target := places.get(path[:length])):
            return (*target, *path[length:]) if length > 1 or len(path) == 1 else None
    return None


def _place(made: Document, file: Written, move: Callable[[PathKey], PathKey | None]) -> None:
    """Note where the pieces of a file that `move` has a target for stand."""
    source = file.document
    for places, chosen in ((source.keys, made.keys), (source.values, made.values)):
        for path, place in places.items():
            if (target := move(path)) is not None:
                chosen[target] = place
                made.origins[target] = source.origins.get(path, file.path)


def own_names(files: Iterable[Written]) -> list[str]:
    """Return ids of checks and quiz items, and names of measurements, that files give or remove.

    Args:
        files: those of a valid suite.
    """
    names: set[str] = set()
    for file in files:
        data = file.document.data
        names |= {entry["id"] for section in LISTED for entry in data.get(section, [])}
        names |= {*data.get("measure", {}), *data.get("remove", [])}
    return sorted(names)
