"""A model spec: what the user wrote, and which source of models it names.

Nothing here imports torch or transformers, so that a typing mistake costs no start-up time.
"""

from __future__ import annotations

import contextlib
import difflib
import hashlib
import os
import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from icl_bench.errors import SpecError
from icl_bench.naming import plain_name

OPEN = "object"
"""The `kind` of a model that is already open and comes from no source."""

FORMS = (
    "a model is builtin:NAME, a hub id (NAME or ORG/NAME, with @REVISION if wanted), a local "
    "folder, FILE.gguf, package.module:callable, or an adapter, alone or as BASE+ADAPTER; '@*' "
    "after a name, id or folder makes it a series of checkpoints, and 'NAME=' before it gives it "
    "a name of your own"
)
MANY = "names several checkpoints, but one model is expected here: give '@STEP'"

HUB_ID = re.compile(r"(?:[A-Za-z0-9][\w.-]*/)?[A-Za-z0-9_][\w.-]*", re.ASCII)
_ORIGIN_DIGITS = 12
_WINDOWS_PATH = re.compile(r"[A-Za-z]:[\\/]|.*\\")


@dataclass(frozen=True)
class ModelSpec:
    """A model, or a series of checkpoints of one model, as the user named it.

    Args:
        text: the spec as given, without `NAME=`.
        kind: name of its source in the table of sources; `object` for a model that is already
            open.
        target: what its source finds it by: a name, a repository id, `package.module:callable`;
            an absolute path if it is local.
        revision: branch, tag or commit of a hub id, step of a built-in model, or name of a
            checkpoint in a folder of several, if one was given.
        series: of a series what stands after the '@': `*`, a pattern, or names with commas
            between; its target is then what holds the checkpoints.
        name: the user's own name for it (`NAME=SPEC`), or None.
        suffix: end of the target that the model's name leaves out.
        base: of an adapter the model that it is applied to, where the user named it.
    """

    text: str
    kind: str
    target: str
    revision: str | None = None
    series: str | None = None
    name: str | None = None
    suffix: str = ""
    base: ModelSpec | None = None

    @property
    def is_local(self) -> bool:
        """Whether the target is a path of this machine."""
        return os.path.isabs(self.target)

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
        if self.kind == OPEN:
            return None
        text = os.path.realpath(self.target) if self.is_local else self.target
        prefix = f"{self.kind}:"
        if self.text.startswith(prefix):
            text = prefix + text.removeprefix(prefix)
        selection = self.series if self.is_local else self.series or self.revision
        if selection is not None:
            text = f"{text}@{selection}"
        if self.base is not None:
            text = f"{self.base.origin}+{text}"
        digest = hashlib.sha256(text.encode("utf-8", "surrogateescape"))
        return digest.hexdigest()[:_ORIGIN_DIGITS]

    @property
    def public(self) -> str:
        """The spec for reports: of a local path only its last component."""
        if self.base is not None:
            return f"{self.base.public}+{replace(self, base=None, text=self._own_text).public}"
        if not self.is_local:
            return self.text
        path = Path(self.target)
        if self.revision is not None:
            return f"{path.parent.name}@{self.revision}"
        name = path.name or self.text
        return name if self.series is None else f"{path.name}@{self.series}"

    @property
    def _own_text(self) -> str:
        """The text of an adapter without its base."""
        assert self.base is not None
        return self.text.removeprefix(f"{self.base.text}+")

    def describe(self, slug: str) -> dict[str, Any]:
        """Return what a record says of how a model is named.

        Args:
            slug: its name in this run.
        """
        plain = plain_name(self)
        described = {"spec": self.public, "slug": slug, "origin": self.origin}
        return described | {"plain": None if plain == slug else plain}

    def require_one(self) -> None:
        """Raise SpecError when this is a series and one model is needed."""
        if self.series is not None:
            raise SpecError(f"model {self.text!r}: '@{self.series}' {MANY}")


def looks_like_path(text: str) -> bool:
    """Return whether a text can only be meant as a path, there or not.

    Args:
        text: what the user wrote.
    """
    return (
        text.startswith(("/", "./", "../", "~"))
        or text.endswith("/")
        or text in (".", "..")
        or _WINDOWS_PATH.match(text) is not None
    )


def local_path(text: str) -> str:
    """Return a text as a path, `~` expanded.

    Args:
        text: what the user wrote.

    Raises:
        SpecError: it is a URL.
    """
    if "://" in text:
        raise SpecError(_explain_url(text))
    return os.path.expanduser(text)


def _explain_url(text: str) -> str:
    match = re.match(
        r"https?://(?:www\.)?(?:huggingface\.co|hf\.co)/([^/?#]+/[^/?#]+)(?:/(?:tree|blob)/([^/?#]+))?",
        text,
    )
    if match is None:
        return f"a URL is not a model spec; {FORMS}"
    repo, revision = match.groups()
    return f"give the hub id instead of its address: {repo}{f'@{revision}' if revision else ''}"


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
    from icl_bench.reference import NAMES

    known.update({other: f"builtin:{other}" for other in NAMES})
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.6)
    return f"; did you mean {known[close[0]]!r}?" if close else ""
