"""Names of models in test ids, report folders and tables.

A name is made of what the user wrote, and it belongs to one origin: two models of one name get
parent folders before it until they differ, in one run and in one report folder.
"""

from __future__ import annotations

import json
import os
import re
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from icl_bench.models.sources.spec import ModelSpec

LONGEST = 120
"""Bytes of a name; file systems allow 255, and files are named after it."""
RECORD = "results.json"
"""Name of a record's file in its report folder."""

_DIGITS = (6, 12)
_RESERVED = re.compile(r"(?:leaderboard|comparison|results|report|plotly)\b.*", re.IGNORECASE)
"""How files begin that reports are put into, beside the folders of models."""
_STEP = re.compile(
    r"(?:global[-_]?)?(?:step|checkpoint|ckpt|iter|iteration|epoch|rev|revision)?[-_=]?[0-9]+"
    r"(?:[-_=.][-_=.\w]*)?",
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
    if _is_file(name):
        return "is that of a file in the report folder"
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

    A model that has a record in the report folder keeps the name that it has there, and the user's
    own names come before those that are made. The names do not depend on the order of the models.
    Specs of one origin that would be called the same are one model, and get one name.

    Args:
        specs: the models of one run.
        report_dir: folder with one folder per model; None to look into none.
    """
    held = _Held(report_dir)
    chains = [list(_candidates(spec)) for spec in specs]
    places = [0] * len(specs)
    for number, (spec, chain) in enumerate(zip(specs, chains)):
        found = [held.by(name, spec) for name in chain]
        places[number] = next((found.index(sure) for sure in ("own", "like") if sure in found), 0)
    while True:
        names = [chain[place] for chain, place in zip(chains, places)]
        ranks: dict[str, dict[str | None, int]] = {}
        for name, spec in zip(names, specs):
            claim = 2 * (held.by(name, spec) == "own") + (spec.name is not None)
            claims = ranks.setdefault(_fold(name), {})
            claims[spec.origin] = max(claim, claims.get(spec.origin, 0))
        moved = False
        for number, (name, spec) in enumerate(zip(names, specs)):
            claims = ranks[_fold(name)]
            others = [claim for origin, claim in claims.items() if origin != spec.origin]
            lost = bool(others) and claims[spec.origin] <= max(others)
            if (held.by(name, spec) == "other" or lost) and places[number] + 1 < len(
                chains[number]
            ):
                places[number] += 1
                moved = True
        if not moved:
            return names


def may_be_called(name: str, spec: ModelSpec) -> bool:
    """Tell whether a model may be called so, beside other models or in another report folder.

    Args:
        name: the name.
        spec: the model.
    """
    return name in _candidates(spec)


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
    if there is None:
        return False
    origins, weights = (
        (there.get("origin"), model.origin),
        (there.get("fingerprint"), model.fingerprint),
    )
    if None not in origins:
        return bool(origins[0] != origins[1])
    if origins == (None, None) and None not in weights:
        # Of models that were open already only the weights tell.
        return bool(weights[0] != weights[1])
    return bool(there.get("spec") != model.spec)


def further_names(name: str, origin: str | None) -> Iterator[str]:
    """Yield what a model is called where its name is another's: with digits of its origin.

    Args:
        name: what it is called otherwise.
        origin: as in `ModelSpec.origin`; None for a model that has none.
    """
    ends = [origin[:count] for count in _DIGITS] if origin else ["other"]
    ends += (f"{ends[-1]}-{number}" for number in range(2, 1000))
    yield from (f"{_cut(name, len(end) + 1)}-{end}" for end in ends)


def _candidates(spec: ModelSpec) -> Iterator[str]:
    """The names that a spec may get, the one to be preferred first."""
    if spec.name is not None:
        first = clean(spec.name)
        yield first
    elif spec.base is not None:
        base = plain_name(spec.base)
        names = _candidates(
            replace(spec, base=None, text=spec.text.removeprefix(f"{spec.base.text}+"))
        )
        first = _fit(f"{base}-{next(names)}", spec)
        yield first
        yield from (_fit(f"{base}-{name}", spec) for name in names)
    elif spec.is_local:
        parts = _path_parts(spec)
        needed = 1 if spec.revision is None else 2
        while needed < len(parts) and _says_little(parts[-needed]):
            needed += 1
        first = _fit("-".join(parts[-needed:]), spec)
        yield first
        for count in range(needed + 1, len(parts) + 1):
            yield _fit("-".join(parts[-count:]), spec)
    else:
        first = _fit(spec.public, spec)
        yield first
    yield from further_names(first, spec.origin)


def _path_parts(spec: ModelSpec) -> list[str]:
    path = Path(spec.target)
    parts = [part for part in path.parts if part != path.anchor]
    if spec.suffix:
        parts[-1] = parts[-1][: -len(spec.suffix)]
    elif spec.revision is not None:
        parts[-1] = spec.revision
    elif spec.series is not None:
        parts[-1:] = [f"{parts[-1]}@{spec.series}" if parts else f"@{spec.series}"]
    return parts


def _says_little(part: str) -> bool:
    part = part.partition("@")[0]
    return any(pattern.fullmatch(part) for pattern in (_VAGUE, _STEP, _HASH))


def _fit(text: str, spec: ModelSpec) -> str:
    name = clean(text).lstrip(".-").rstrip(".")
    if not any(char.isalnum() for char in name):
        return next(further_names("model", spec.origin))
    fits = len(_encode(name)) <= LONGEST and not _is_file(name)
    return name if fits else next(further_names(name, spec.origin))


def _is_file(name: str) -> bool:
    return "." in name and _RESERVED.fullmatch(name) is not None


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

    def by(self, name: str, spec: ModelSpec) -> Literal["own", "like", "other"] | None:
        """Whose record has a name: this model's, perhaps this model's, another's, or nobody's.

        Records of earlier versions do not hold the origin: one of the same spec may be its own.
        """
        found: Literal["own", "like"] | None = None
        for folder in self._folders.get(_fold(name), []):
            if folder not in self._models:
                self._models[folder] = _read_model(folder)
            model = self._models[folder]
            if model is None:
                continue
            if model.get("origin") is not None and spec.origin is not None:
                if model["origin"] != spec.origin:
                    return "other"
                found = "own"
            elif model.get("spec") != spec.public:
                return "other"
            else:
                found = found or "like"
        return found


def _read_model(folder: Path) -> dict[str, Any] | None:
    """What a model's report folder says of its model; None where nothing can be read."""
    try:
        data = json.loads((folder / RECORD).read_text(encoding="utf-8-sig"))
    except (OSError, ValueError, RecursionError):
        return None
    model = data.get("model") if isinstance(data, dict) else None
    return model if isinstance(model, dict) else None
