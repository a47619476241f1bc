"""A suite file -> Suite, or one error that lists everything wrong with it."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any

from icl_bench.errors import SuiteError, defuse
from icl_bench.suite import document as yaml_document
from icl_bench.suite.asserting import build_checks, build_quiz
from icl_bench.suite.catalog import is_shipped, resolve_suite
from icl_bench.suite.document import BrokenDocument
from icl_bench.suite.error_messages import validate
from icl_bench.suite.measuring import Measurements, Notes
from icl_bench.suite.problems import make_error, show_path, show_value
from icl_bench.suite.schema import VERSION, SuiteFile
from icl_bench.suite.seams import find_seams
from icl_bench.suite.specs import Suite


def load_suite(path: str | os.PathLike[str]) -> Suite:
    """Load a suite from a YAML file.

    Args:
        path: the file.

    Raises:
        SuiteError: the file cannot be read or something in it is wrong; one line for each
            problem, `path:line:column: message`.
    """
    file = Path(os.path.abspath(path))
    try:
        document = yaml_document.parse(yaml_document.decode(_read(file)))
    except BrokenDocument as error:
        raise make_error(file, [error.problem]) from None
    notes = Notes(document)
    if not _check_head(notes):
        raise make_error(file, notes.problems)
    _, findings = validate(SuiteFile, document.data)
    for one in findings:
        notes.add(one.path, one.message, one.at_key)
    measurements = Measurements(notes, file.parent)
    quiz = build_quiz(notes, measurements)
    checks = build_checks(notes, measurements)
    _check_content(notes)
    if notes.problems:
        raise make_error(file, notes.problems)
    data = document.data
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
            entry["id"]: notes.document.locate((section, index, "id"))[0]
            for section in ("checks", "quiz")
            for index, entry in enumerate(data.get(section) or [])
        },
        warnings=tuple(
            "{}:{}:{}: {}".format(show_path(file), *document.locate(place), defuse(message))
            for place, message in find_seams(data)
        ),
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


def _check_content(notes: Notes) -> None:
    """Note what concerns the checks and the quiz together."""
    sections = {name: notes.document.data.get(name) for name in ("checks", "quiz")}
    if all(value is None or value == [] for value in sections.values()):
        if not any(name in notes.document.data for name in sections):
            notes.add((), "empty suite: it has neither checks nor quiz")
        else:
            present = next(name for name in sections if name in notes.document.data)
            notes.add((present,), "empty suite: it has neither checks nor quiz", at_key=True)
        return
    seen: dict[str, int] = {}
    for name, entries in sections.items():
        for index, entry in enumerate(entries if isinstance(entries, list) else []):
            identity = entry.get("id") if isinstance(entry, dict) else None
            if not isinstance(identity, str):
                continue
            line, _ = notes.document.locate((name, index, "id"))
            if identity in seen:
                message = f"id {identity!r} is taken by line {seen[identity]}"
                notes.add((name, index, "id"), message)
            seen.setdefault(identity, line)
