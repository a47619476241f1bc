"""Names of models in test ids, report folders and tables.

A name is made of what the user wrote, and it belongs to one origin: two models of one name get
parent folders before it until they differ, in one run and in one report folder.
"""

from __future__ import annotations

import json
import os
import re
import unicodedata
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from icl_bench.models.spec import ModelSpec

LONGEST = 120
"""Bytes of a name; file systems allow 255, and files are named after it."""
RECORD = "results.json"

_DIGITS = 6
_STEP = re.compile(
    r"(?:global[-_]?)?(?:step|checkpoint|ckpt|iter|iteration|epoch|rev|revision)?[-_=]?[0-9]+"
    r"(?:[-_=.]\w*)*",
    re.IGNORECASE,
)
_HASH = re.compile(r"(?=.*[0-9])[0-9a-f]{7,64}")
_VAGUE = re.compile(
    r"main|master|latest|last|best|final|model|checkpoints?|ckpts?|snapshots?|outputs?|out|weights"
    r"|hf|merged|export|default",
    re.IGNORECASE,
)
"""Names of folders that do not say which model they hold."""


def is_name(text: str) -> bool:
    """Tell whether a text has only characters that a name may have: letters, digits, `_.-`.

    Args:
        text: what stands before the `=` of a model spec.
    """
    return bool(text) and all(map(_stays, text))


def explain_name(name: str) -> str | None:
    """Return why a text of such characters cannot be a model's name; None if it can.

    Args:
        name: the user's own name for a model.
    """
    if len(_encode(name)) > LONGEST:
        return f"is longer than {LONGEST} bytes"
    if name.startswith(("-", ".")):
        return "begins with '-' or '.'; begin with a letter or a digit"
    return None


def clean(text: str) -> str:
    """Return a text with '-' for every character that ids and file names cannot hold.

    Letters of any script stay.

    Args:
        text: any.
    """
    normal = unicodedata.normalize("NFC", text)
    return "".join(char if _stays(char) else "-" for char in normal)


def plain_name(spec: ModelSpec) -> str:
    """Return the name that a model has where no other model has it.

    Args:
        spec: the model.
    """
    return next(_candidates(spec))


def name_models(
    specs: Sequence[ModelSpec], report_dir: str | os.PathLike[str] | None = None
) -> list[str]:
    """Return a name for each model that no other origin has, in this run or in the report folder.

    A model that has a record in the report folder keeps the name that it has there. The names do
    not depend on the order of the models. Specs of one origin that would be called the same are
    one model, and get one name.

    Args:
        specs: the models of one run.
        report_dir: folder with one folder per model; None to look into none.
    """
    held = _Held(report_dir)
    chains = [list(_candidates(spec)) for spec in specs]
    places = [0] * len(specs)
    for number, (spec, chain) in enumerate(zip(specs, chains)):
        own = [place for place, name in enumerate(chain) if held.by(name, spec) is True]
        places[number] = own[0] if own else 0
    while True:
        names = [chain[place] for chain, place in zip(chains, places)]
        owners = {(_fold(name), spec.origin) for name, spec in zip(names, specs)}
        counts = Counter(name for name, _ in owners)
        moved = False
        for number, (name, spec) in enumerate(zip(names, specs)):
            kept = held.by(name, spec)
            clash = kept is False or (kept is None and counts[_fold(name)] > 1)
            if clash and places[number] + 1 < len(chains[number]):
                places[number] += 1
                moved = True
        if not moved:
            return names


def tell_names(names: Mapping[str, ModelSpec], report_dir: str | os.PathLike[str]) -> list[str]:
    """Return a line for each model that is not called as it would be called alone.

    Args:
        names: name -> model.
        report_dir: the run's report folder.
    """
    return [
        f"icl_bench: {given.name or plain_name(given)!r} is also another model's name, in this run "
        f"or in {os.fspath(report_dir)}: {given.given} is {name!r} here"
        for name, given in names.items()
        if name != plain_name(given)
    ]


def is_of_another(model: Any, folder: Path) -> bool:
    """Tell whether a folder holds the record of another model.

    Args:
        model: the model's description in a record that is to be written there.
        folder: a model's report folder.
    """
    there = _read_model(folder)
    if there is None or _same(there, model.origin, model.spec):
        return False
    known = there.get("origin") is not None and model.origin is not None
    weights = model.fingerprint
    return known or weights is None or there.get("fingerprint") != weights


def add_origin(name: str, origin: str | None) -> str:
    """Return a name that ends in six digits of the model's origin.

    Args:
        name: what it is called otherwise.
        origin: as in `ModelSpec.origin`; None for a model that has none.
    """
    return _cut(name, _DIGITS + 1) + f"-{(origin or 'unknown')[:_DIGITS]}"


def _candidates(spec: ModelSpec) -> Iterator[str]:
    """The names that a spec may get, the one to be preferred first."""
    if spec.name is not None:
        first = clean(spec.name)
        yield first
    elif spec.kind in ("folder", "gguf"):
        parts = _path_parts(spec)
        needed = 2 if spec.kind == "folder" and spec.revision is not None else 1
        while needed < len(parts) and _says_little(parts[-needed]):
            needed += 1
        first = _fit("-".join(parts[-needed:]), spec)
        yield first
        for count in range(needed + 1, len(parts) + 1):
            yield _fit("-".join(parts[-count:]), spec)
    else:
        first = _fit(spec.public, spec)
        yield first
    yield add_origin(first, spec.origin)


def _path_parts(spec: ModelSpec) -> list[str]:
    path = Path(spec.target)
    parts = [part for part in path.parts if part != path.anchor]
    if spec.kind == "gguf":
        parts[-1] = parts[-1][: -len(".gguf")]
    elif spec.revision is not None:
        parts[-1] = spec.revision
    elif spec.series is not None:
        parts[-1:] = [f"{parts[-1]}@{spec.series}" if parts else f"@{spec.series}"]
    return parts


def _says_little(part: str) -> bool:
    part = part.partition("@")[0]
    return any(pattern.fullmatch(part) for pattern in (_VAGUE, _STEP, _HASH))


def _fit(text: str, spec: ModelSpec) -> str:
    name = clean(text).strip(".")
    if not any(char.isalnum() for char in name):
        return add_origin("model", spec.origin)
    return name if len(_encode(name)) <= LONGEST else add_origin(name, spec.origin)


def _cut(name: str, room: int) -> str:
    """A name that leaves so many bytes of the longest free."""
    return _encode(name)[: LONGEST - room].decode("utf-8", "ignore")


def _encode(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")


def _stays(char: str) -> bool:
    # Vowel signs of many scripts are marks.
    return char in "_.-" or unicodedata.category(char)[0] in "LMN"


def _fold(name: str) -> str:
    """What two names share that are one folder on some file systems."""
    return unicodedata.normalize("NFC", name).casefold()


class _Held:
    """The names that models have in a report folder."""

    def __init__(self, report_dir: str | os.PathLike[str] | None) -> None:
        self._folders: dict[str, list[Path]] = {}
        self._models: dict[Path, dict[str, Any] | None] = {}
        try:
            folders = sorted(os.scandir(report_dir), key=lambda one: one.name) if report_dir else []
        except OSError:
            folders = []
        for folder in folders:
            self._folders.setdefault(_fold(folder.name), []).append(Path(folder.path))

    def by(self, name: str, spec: ModelSpec) -> bool | None:
        """Whether a name is that of this model's record; None where no record has it."""
        found = None
        for folder in self._folders.get(_fold(name), []):
            if folder not in self._models:
                self._models[folder] = _read_model(folder)
            model = self._models[folder]
            if model is not None:
                found = _same(model, spec.origin, spec.public)
                if not found:
                    return False
        return found


def _same(model: dict[str, Any], origin: str | None, public: str) -> bool:
    """Whether a record's model has this origin; records of earlier versions know the spec only."""
    known = model.get("origin")
    if known is None or origin is None:
        return bool(model.get("spec") == public)
    return bool(known == origin)


def _read_model(folder: Path) -> dict[str, Any] | None:
    """What a model's report folder says of its model; None where nothing can be read."""
    try:
        data = json.loads((folder / RECORD).read_text(encoding="utf-8-sig"))
    except (OSError, ValueError, RecursionError):
        return None
    model = data.get("model") if isinstance(data, dict) else None
    return model if isinstance(model, dict) else None
