"""From the text of a model spec to what it names.

Nothing here imports torch or transformers, so that a typing mistake costs no start-up time.
"""

from __future__ import annotations

import os
import unicodedata
from dataclasses import replace

from icl_bench.errors import SpecError
from icl_bench.models.sources.spec import FORMS, ModelSpec, looks_like_path
from icl_bench.models.sources.table import (
    SOURCES,
    failing_in,
    find_named,
    get_source,
    suggest_source,
)
from icl_bench.naming import explain_name, is_name

_UNSEEN = "\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069\ufeff"
"""Characters that turn the direction of a text. Joiners, which many scripts need, are none."""
_LONGEST = 4096
"""Characters of a spec; no path of a file system is longer."""


def parse_spec(text: str) -> ModelSpec:
    """Decide what a model spec names.

    Args:
        text: what the user wrote.

    Raises:
        SpecError: it has none of the accepted forms, or names something unknown.
    """
    text = text.strip()
    if len(text) > _LONGEST:
        raise SpecError(f"model {text!r}: {len(text):,} characters; a spec has at most {_LONGEST}")
    name, spec = _split_name(text)
    if not spec:
        named = f"model {text!r}: " if text else ""
        raise SpecError(f"{named}the model spec is empty; {FORMS}")
    try:
        if name is not None and (why := explain_name(name)):
            raise SpecError(f"the name {name!r} {why}")
        return replace(_recognise(spec), name=name)
    except SpecError as error:
        before = text.partition("=")[0]
        hint = suggest_source(spec) if "://" in spec else ""
        if name is None and before != text and not looks_like_path(before):
            hint = f"; {before!r} is no name: it may hold letters, digits and '_.-'"
        raise SpecError(f"model {text!r}: {error}{hint}") from None


def _split_name(text: str) -> tuple[str | None, str]:
    """`NAME=SPEC` as name and spec. A path that has an '=' in it has no name before it."""
    name, equals, spec = text.partition("=")
    if not equals or not is_name(name) or any(map(os.path.exists, _paths(text))):
        return None, text
    return name, spec.strip()


def _recognise(text: str) -> ModelSpec:
    if any(map(_is_unseen, text)):
        raise SpecError(f"it holds a control character; {FORMS}")
    if not any(map(os.path.exists, _paths(text))) and (named := find_named(text)):
        name, source = named
        with failing_in(name):
            spec = source.recognise(text)
        if spec is None:
            raise SpecError(f"the source {name!r} does not understand what follows its name")
        return replace(spec, text=text, kind=name)
    for name in SOURCES:
        if (spec := get_source(name).recognise(text)) is not None:
            return spec
    raise SpecError(FORMS)


def _is_unseen(char: str) -> bool:
    # Python reads bytes of a file name that are no text as these halves of surrogate pairs.
    kinds = ("Cc", "Zl", "Zp") if "\udc80" <= char <= "\udcff" else ("Cc", "Cs", "Zl", "Zp")
    return char in _UNSEEN or unicodedata.category(char) in kinds


def _paths(text: str) -> list[str]:
    """The paths that a text may be: as it is, or without a selection at its end."""
    return [os.path.expanduser(path) for path in (text, text.rpartition("@")[0]) if path]
