"""A model spec: what the user wrote, and which kind of thing it names.

Nothing here imports torch or transformers, so that a typing mistake costs no start-up time.
"""

from __future__ import annotations

import contextlib
import difflib
import hashlib
import importlib
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from icl_bench.errors import SpecError
from icl_bench.naming import plain_name

if TYPE_CHECKING:
    pass

Kind = Literal["builtin", "hub", "folder", "gguf", "callable", "object"]

FORMS = (
    "a model is builtin:NAME, a hub id (NAME or ORG/NAME, with @REVISION if wanted), a local "
    "folder, FILE.gguf, or package.module:callable; '@*' after a name, id or folder makes it a "
    "series of checkpoints, and 'NAME=' before it gives it a name of your own"
)
MANY = "names several checkpoints, and one model is needed here: give '@STEP'"

HUB_ID = re.compile(r"(?:[A-Za-z0-9][\w.-]*/)?[A-Za-z0-9_][\w.-]*", re.ASCII)
_ORIGIN_DIGITS = 12


@dataclass(frozen=True)
class ModelSpec:
    """A model, or a series of checkpoints of one model, as the user named it.

    Args:
        text: the spec as given, without `NAME=`.
        kind: what sort of thing it names; `object` for a model that is already open.
        target: builtin name, repository id, absolute path, or `package.module:callable`.
        revision: branch, tag or commit of a hub id, step of a built-in model, or name of a
            checkpoint in a folder of several, if one was given.
        series: of a series what stands after the '@': `*`, a pattern, or names with commas
            between; its target is then what holds the checkpoints.
        name: the user's own name for it (`NAME=SPEC`), or None.
    """

    text: str
    kind: Kind
    target: str
    revision: str | None = None
    series: str | None = None
    name: str | None = None

    @property
    def given(self) -> str:
        """The spec with the user's own name for it, as an option takes it."""
        return self.text if self.name is None else f"{self.name}={self.text}"

    @property
    def origin(self) -> str | None:
        """12 hex digits that stand for where the model comes from; None for an open model.

        Two folders of one name differ in it; a folder that is trained further does not. It is the
        SHA-256 of the resolved path, hub id (with its revision) or callable.
        """
        if self.kind == "object":
            return None
        text = self.target
        if self.kind in ("folder", "gguf"):
            text = os.path.realpath(text)
        elif self.kind == "builtin":
            text = f"builtin:{text}"
        local_step = self.kind == "folder" and self.series is None
        selection = None if local_step else self.series or self.revision
        if selection is not None:
            text = f"{text}@{selection}"
        digest = hashlib.sha256(text.encode("utf-8", "surrogateescape"))
        return digest.hexdigest()[:_ORIGIN_DIGITS]

    @property
    def public(self) -> str:
        """The spec for reports: of a local path only its last component."""
        if self.kind not in ("folder", "gguf"):
            return self.text
        path = Path(self.target)
        if self.kind == "folder" and self.revision is not None:
            return f"{path.parent.name}@{self.revision}"
        name = path.name or self.text
        return name if self.series is None else f"{path.name}@{self.series}"

    def describe(self, slug: str) -> dict[str, Any]:
        """Return what a record says of how a model is named.

        Args:
            slug: its name in this run.
        """
        plain = plain_name(self)
        told = {"spec": self.public, "slug": slug, "origin": self.origin}
        return told | {"plain": None if plain == slug else plain}

    def require_one(self) -> None:
        """Raise SpecError when this is a series and one model is needed."""
        if self.series is not None:
            raise SpecError(f"model {self.text!r}: '@{self.series}' {MANY}")


def suggest_local(text: str) -> str:
    """Return `; did you mean ...?` for a built-in model, folder or GGUF file of nearly that name.

    Args:
        text: what the user wrote.
    """
    parent, name = os.path.split(os.path.expanduser(text.rstrip("/")))
    known: dict[str, str] = {}
    with contextlib.suppress(OSError), os.scandir(parent or ".") as entries:
        for entry in entries:
            if entry.is_dir() or entry.name.lower().endswith(".gguf"):
                known[entry.name] = os.path.join(parent, entry.name)
    builtin = importlib.import_module("icl_bench.reference").NAMES
    known.update({other: f"builtin:{other}" for other in builtin})
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.6)
    return f"; did you mean {known[close[0]]!r}?" if close else ""
