"""A suite file -> Suite, or one error that lists everything wrong with it."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from icl_bench.errors import SuiteError
from icl_bench.suite import document as yaml_document
from icl_bench.suite.asserting import build_checks, build_quiz
from icl_bench.suite.catalog import is_shipped, resolve_suite
from icl_bench.suite.document import BrokenDocument
from icl_bench.suite.error_messages import validate
from icl_bench.suite.inheritance import LISTED, Written, merge, own_names, read_files
from icl_bench.suite.measuring import Measurements
from icl_bench.suite.notes import Notes
from icl_bench.suite.problems import list_problems, make_error, show_path, show_value
from icl_bench.suite.schema import VERSION, SuiteFile
from icl_bench.suite.seams import find_seams
from icl_bench.suite.specs import Base, Suite

SECTIONS = ("measure", *LISTED)
"""Of these a suite needs at least one."""


def load_suite(path: str | os.PathLike[str]) -> Suite:
    """Load a suite from a YAML file, and the suites that it extends.

    Args:
        path: the file.

    Raises:
        SuiteError: a file cannot be read or something in one is wrong; one line for each
            problem, `path:line:column: message`.
    """
    file = Path(os.path.abspath(path))
    files = read_files(file, _read)
    notes, bases = _resolve(files)
    measurements = Measurements(notes, file.parent)
    quiz = build_quiz(notes, measurements)
    checks = build_checks(notes, measurements)
    document, data = notes.document, notes.document.data
    if not notes.problems and not any(data.get(section) for section in SECTIONS):
        present = next((section for section in SECTIONS if section in data), None)
        place = () if present is None else (present,)
        notes.add(place, "empty suite: it has no measurement, check or quiz item", at_key=True)
    if notes.problems:
        raise make_error(file, notes.problems)
    for where, message in find_seams(data):
        notes.warn(where, message)
    extends = document.locate(("extends",), at_key=True)[0]
    return Suite(
        path=file,
        name=data["name"],
        description=data.get("description"),
        measure=measurements.specs,
        checks=checks,
        quiz=quiz,
        sha256=digest(data),
        shipped=is_shipped(file),
        version=data.get("version", 1),
        lines={
            entry["id"]: document.locate(place)[0] if document.file_of(place) == file else extends
            for section in LISTED
            for index, entry in enumerate(data.get(section) or [])
            for place in [(section, index, "id")]
        },
        warnings=tuple(list_problems(file, notes.warnings)),
        resolved=data,
        extends=bases,
        own=tuple(own_names(one for one in files if not is_shipped(one.path))) if bases else (),
    )


def find_suite(name_or_path: str | os.PathLike[str]) -> Suite:
    """Load a shipped suite by name, or a suite file.

    Args:
        name_or_path: a bare name means the shipped suite; `./name` means the file.

    Raises:
        SuiteError: there is no such suite (the message names the nearest one), or
            something in it is wrong.
    """
    return load_suite(resolve_suite(name_or_path))


def read_text(name_or_path: str | os.PathLike[str]) -> str:
    """Return the text of a suite's own file, whatever is in it.

    Args:
        name_or_path: as for `find_suite`.

    Raises:
        SuiteError: there is no such suite, or it cannot be read as text.
    """
    path = resolve_suite(name_or_path)
    try:
        return yaml_document.decode(_read(path))
    except BrokenDocument as error:
        raise make_error(path, [error.problem]) from None


def digest(data: Any) -> str:
    """Return the SHA-256 (hex) of parsed data; the order of keys does not change it."""
    text = json.dumps(data, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def _read(file: Path) -> bytes:
    try:
        if file.is_dir():
            raise SuiteError(f"{show_path(file)}: a folder; a suite is one YAML file")
        with file.open("rb") as stream:
            return stream.read(yaml_document.MAX_BYTES + 1)
    except FileNotFoundError:
        raise SuiteError(f"{show_path(file)}: no such suite file") from None
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or error
        raise SuiteError(f"{show_path(file)}: cannot be read ({why})") from None


def _resolve(files: Sequence[Written]) -> tuple[Notes, tuple[Base, ...]]:
    """Put the files of a suite together, the ones that are extended first.

    Args:
        files: as `read_files` gives them.

    Returns:
        the content of all, with the problems found in it so far, and what is extended.

    Raises:
        SuiteError: one of several files is not well-formed by itself.
    """
    checked = [_check_file(file) for file in files]
    problems = [problem for notes in checked for problem in notes.problems]
    bases: list[Base] = []
    if len(files) == 1:
        return checked[0], ()
    document = files[-1].document
    for base, file in zip(reversed(files[1:]), reversed(files[:-1])):
        if not problems:
            data = {key: value for key, value in document.data.items() if key != "extends"}
            shipped = is_shipped(base.path)
            bases.insert(0, Base(data["name"], data.get("version", 1), digest(data), shipped))
            document = merge(Written(base.path, document), file)
            problems += document.problems
    if problems:
        raise make_error(files[0].path, problems)
    return Notes(document), tuple(bases)


def _check_file(file: Written) -> Notes:
    """Check what can be checked of one file without the others."""
    notes = Notes(file.document)
    if not _check_head(notes):
        raise make_error(file.path, notes.problems)
    _, findings = validate(SuiteFile, file.document.data)
    for one in findings:
        notes.add(one.path, one.message, one.at_key)
    if "remove" in file.document.data and "extends" not in file.document.data:
        notes.add(("remove",), "'remove' goes with 'extends' only", at_key=True)
    _check_ids(notes)
    return notes


def _check_head(notes: Notes) -> bool:
    """Check that the file is a suite of a version that can be read; note why not."""
    data = notes.document.data
    if data is None:
        notes.add((), "the file is empty; a suite begins with `icl_suite: 1`")
        return False
    if not isinstance(data, dict):
        notes.add(
            (),
            "not a suite: the top level must be a mapping that begins with icl_suite: 1",
        )
        return False
    if "icl_suite" not in data:
        notes.add((), f"not a suite: the first key must be icl_suite: {VERSION}")
        return False
    version = data["icl_suite"]
    if type(version) is not int or version != VERSION:
        shown = show_value(version)
        message = f"icl_suite: version {shown} cannot be read; this icl_bench reads {VERSION}"
        notes.add(("icl_suite",), message)
        return False
    if next(iter(data)) != "icl_suite":
        notes.add(("icl_suite",), "icl_suite must be the first key of the file", at_key=True)
    return True


def _check_ids(notes: Notes) -> None:
    """Note ids that two entries of a file have."""
    seen: dict[str, int] = {}
    for name in LISTED:
        for index, entry in enumerate(notes.section(name, list)):
            identity = entry.get("id") if isinstance(entry, dict) else None
            if not isinstance(identity, str):
                continue
            line, _ = notes.document.locate((name, index, "id"))
            if identity in seen:
                message = f"id {identity!r} is taken by line {seen[identity]}"
                notes.add((name, index, "id"), message)
            seen.setdefault(identity, line)
