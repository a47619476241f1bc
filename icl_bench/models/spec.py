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
import unicodedata
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from icl_bench.errors import SpecError, nearest
from icl_bench.naming import explain_name, is_name, plain_name

if TYPE_CHECKING:
    from icl_bench.models.hub import HubModel
    from icl_bench.models.series import Checkpoint

Kind = Literal["builtin", "hub", "folder", "gguf", "callable", "object"]

FORMS = (
    "a model is builtin:NAME, a hub id (NAME or ORG/NAME, with @REVISION if wanted), a local "
    "folder, FILE.gguf, or package.module:callable; '@*' after a name, id or folder makes it a "
    "series of checkpoints, and 'NAME=' before it gives it a name of your own"
)
MANY = "names several checkpoints, and one model is needed here: give '@STEP'"
WEIGHT_SUFFIXES = (".safetensors", ".bin", ".pt", ".pth", ".ckpt", ".h5", ".json", ".onnx")
"""Suffixes of files that people name when the folder around them is meant."""

_HUB_ID = re.compile(r"(?:[A-Za-z0-9][\w.-]*/)?[A-Za-z0-9_][\w.-]*", re.ASCII)
_WINDOWS_PATH = re.compile(r"[A-Za-z]:[\\/]|.*\\")
_ORIGIN_DIGITS = 12
_UNSEEN = "\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069\ufeff"
"""Characters that turn the direction of a text. Joiners, which many scripts need, are none."""


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


def parse_spec(text: str) -> ModelSpec:
    """Decide what a model spec names.

    Args:
        text: what the user wrote.

    Raises:
        SpecError: it has none of the accepted forms, or names something unknown.
    """
    text = text.strip()
    name, spec = _split_name(text)
    if not spec:
        named = f"model {text!r}: " if text else ""
        raise SpecError(f"{named}the model spec is empty; {FORMS}")
    try:
        if name is not None and (why := explain_name(name)):
            raise SpecError(f"the name {name!r} {why}")
        return replace(_parse(spec), name=name)
    except SpecError as error:
        before = text.partition("=")[0]
        hint = ""
        if name is None and before != text and not _looks_like_path(before):
            hint = f"; {before!r} is no name: it may hold letters, digits and '_.-'"
        raise SpecError(f"model {text!r}: {error}{hint}") from None


def _split_name(text: str) -> tuple[str | None, str]:
    """`NAME=SPEC` as name and spec. A path that has an '=' in it has no name before it."""
    name, equals, spec = text.partition("=")
    folder = text.rpartition("@")[0]
    paths = (os.path.expanduser(path) for path in (text, folder) if path)
    if not equals or not is_name(name) or any(os.path.exists(path) for path in paths):
        return None, text
    return name, spec.strip()


def _parse(text: str) -> ModelSpec:
    if any(char in _UNSEEN or unicodedata.category(char) in ("Cc", "Zl", "Zp") for char in text):
        raise SpecError(f"it holds a control character; {FORMS}")
    if text.startswith("builtin:"):
        return _parse_builtin(text)
    if "://" in text:
        raise SpecError(_explain_url(text))
    path = os.path.expanduser(text)
    if os.path.isdir(path):
        return ModelSpec(text, "folder", os.path.abspath(path))
    if path.lower().endswith(".gguf"):
        return ModelSpec(text, "gguf", os.path.abspath(path))
    if path.lower().endswith(WEIGHT_SUFFIXES):
        raise SpecError(
            f"this is one file of a checkpoint; give the folder that holds it{_up(path)}"
        )
    if os.path.isfile(path) and (_looks_like_path(text) or not _HUB_ID.fullmatch(text)):
        raise SpecError(
            "this is a file, but its name does not end in .gguf; give a folder or a GGUF"
        )
    # Folders may have an '@' in their own name; a hub's revision may have one too.
    base, at, revision = text.rpartition("@")
    if at and revision and os.path.isdir(os.path.expanduser(base)):
        from icl_bench.models.series import find_local

        return find_local(text, base, revision)
    if at and _looks_like_path(base) and ("*" in revision or "," in revision):
        return ModelSpec(text, "folder", os.path.abspath(os.path.expanduser(base)), series=revision)
    base, at, revision = text.partition("@")
    if at and (os.path.exists(os.path.expanduser(base)) or base.lower().endswith(".gguf")):
        raise SpecError(
            f"{base!r} is a local path, and those have no revisions; leave '@{revision}' out, or "
            "give the folder that holds that revision"
        )
    if _looks_like_path(text):
        return ModelSpec(text, "folder", os.path.abspath(path))
    if ":" in base:
        return _parse_callable(text, base, revision if at else None)
    return _parse_hub(text, base, revision if at else None)


def _parse_builtin(text: str) -> ModelSpec:
    name, at, revision = text.removeprefix("builtin:").partition("@")
    reference = importlib.import_module("icl_bench.reference")
    if not reference.is_name(name):
        raise SpecError(f"there is no such built-in model; {nearest(name, reference.NAMES)}")
    if at:
        from icl_bench.models.series import find_builtin

        return find_builtin(text, name, revision)
    return ModelSpec(text, "builtin", name)


def _parse_callable(text: str, target: str, revision: str | None) -> ModelSpec:
    module, _, attribute = target.partition(":")
    parts = [*module.split("."), *attribute.split(".")]
    if not all(part.isidentifier() for part in parts):
        hint = ""
        if module.endswith(".py"):
            dotted = module.removesuffix(".py").replace("/", ".")
            hint = f"; did you mean '{dotted}:{attribute}'?"
        raise SpecError(f"not of the form package.module:callable{hint or '; ' + FORMS}")
    if revision is not None:
        raise SpecError("a callable has no revisions; leave '@...' out")
    return ModelSpec(text, "callable", target)


def _parse_hub(text: str, repo: str, revision: str | None) -> ModelSpec:
    if text == "builtin":
        names = importlib.import_module("icl_bench.reference").NAMES
        raise SpecError(f"write builtin:NAME; valid names: {', '.join(sorted(names))}")
    series = revision if revision is not None and ("*" in revision or "," in revision) else None
    if revision is not None and (not revision or re.search(r"\s|\.\.|[~^:?\[\\]", revision)):
        raise SpecError(
            f"{revision!r} after the '@' is not a revision; give a branch, tag or commit"
        )
    if repo.count("/") > 1:
        raise SpecError(
            f"there is no such folder here, and a hub id is NAME or ORG/NAME{suggest_local(text)}"
        )
    if not _HUB_ID.fullmatch(repo) or re.search(r"--|\.\.|[.-]$|\.git$", repo) or len(repo) > 96:
        raise SpecError(f"not a hub id, and no such file or folder; {FORMS}{suggest_local(text)}")
    return ModelSpec(text, "hub", repo, None if series else revision, series)


def _looks_like_path(text: str) -> bool:
    return (
        text.startswith(("/", "./", "../", "~"))
        or text.endswith("/")
        or text in (".", "..")
        or _WINDOWS_PATH.match(text) is not None
    )


def _up(path: str) -> str:
    parent = os.path.dirname(path) or "."
    return f": {parent!r}" if os.path.isfile(os.path.join(parent, "config.json")) else ""


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
    builtin = importlib.import_module("icl_bench.reference").NAMES
    known.update({other: f"builtin:{other}" for other in builtin})
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.6)
    return f"; did you mean {known[close[0]]!r}?" if close else ""


def check_spec(
    spec: ModelSpec, *, allow_pickle: bool = False
) -> HubModel | tuple[Checkpoint, ...] | None:
    """Check that what a spec names exists, can be read and can be a causal language model.

    Reads headers only; a hub id costs a few short requests.

    Args:
        spec: a parsed spec.
        allow_pickle: accept weights that are stored as pickles.

    Returns:
        where a hub id was found, for the hub not to be asked again; of a series its checkpoints;
        None for everything else.

    Raises:
        SpecError: something is missing, broken or not a model; the message says what.
    """
    try:
        if spec.series is not None:
            from icl_bench.models.series import check_series

            return check_series(spec, allow_pickle=allow_pickle)
        if spec.kind == "folder":
            from icl_bench.models.checkpoint import check_folder

            check_folder(Path(spec.target), allow_pickle=allow_pickle)
        elif spec.kind == "gguf":
            from icl_bench.models.ggufheader import check_gguf

            check_gguf(Path(spec.target))
        elif spec.kind == "hub":
            from icl_bench.models.hub import find_on_hub

            return find_on_hub(spec.target, spec.revision, allow_pickle=allow_pickle)
        elif spec.kind == "callable":
            from icl_bench.models.calling import check_callable

            check_callable(spec.target)
    except SpecError as error:
        hint = ""
        if spec.kind in ("folder", "gguf") and not os.path.exists(spec.target):
            hint = suggest_local(spec.text if spec.series is None else spec.text.rpartition("@")[0])
        elif spec.kind == "folder" and _HUB_ID.fullmatch(spec.text):
            hint = " (in the local folder of that name, which wins over a hub id)"
        raise SpecError(f"model {spec.text!r}: {error}{hint}") from None
    return None
