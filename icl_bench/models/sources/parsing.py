"""From the text of a model spec to what it names.

Nothing here imports torch or transformers, so that a typing mistake costs no start-up time.
"""

from __future__ import annotations

import importlib
import os
import re
import unicodedata
from dataclasses import replace

from icl_bench.errors import SpecError, nearest
from icl_bench.models.sources.series import find_builtin, find_local
from icl_bench.models.sources.spec import FORMS, HUB_ID, ModelSpec, suggest_local
from icl_bench.naming import explain_name, is_name

WEIGHT_SUFFIXES = (".safetensors", ".bin", ".pt", ".pth", ".ckpt", ".h5", ".json", ".onnx")
"""Suffixes of files that people name when the folder around them is meant."""

_WINDOWS_PATH = re.compile(r"[A-Za-z]:[\\/]|.*\\")
_UNSEEN = "\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069\ufeff"
"""Characters that turn the direction of a text. Joiners, which many scripts need, are none."""


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
    if os.path.isfile(path) and (_looks_like_path(text) or not HUB_ID.fullmatch(text)):
        raise SpecError(
            "this is a file, but its name does not end in .gguf; give a folder or a GGUF"
        )
    # Folders may have an '@' in their own name; a hub's revision may have one too.
    base, at, revision = text.rpartition("@")
    if at and revision and os.path.isdir(os.path.expanduser(base)):
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
    if not HUB_ID.fullmatch(repo) or re.search(r"--|\.\.|[.-]$|\.git$", repo) or len(repo) > 96:
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
