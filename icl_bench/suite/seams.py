"""Where a prompt and its choices meet: a space too few or too many changes every token after it."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator
from typing import Any

from icl_bench.suite.document import PathKey

_UNSPACED = ("CJK", "HIRAGANA", "KATAKANA", "THAI", "LAO", "KHMER", "MYANMAR", "FULLWIDTH")
"""How the names of characters begin that are written without spaces between words."""


def find_seams(data: Any) -> Iterator[tuple[PathKey, str]]:
    """Yield place and warning of each choice that meets its prompt in a doubtful way.

    Of a question the first such choice is named.

    Args:
        data: the parsed content of a valid suite.
    """
    items: list[tuple[PathKey, Any]] = [(("quiz",), data.get("quiz"))]
    for name, entry in (data.get("measure") or {}).items():
        if isinstance(entry, dict):
            items.append((("measure", name, "items"), entry.get("items")))
    for path, questions in items:
        for number, one in enumerate(questions if isinstance(questions, list) else []):
            prompt = one.get("prompt") if isinstance(one, dict) else None
            choices = one.get("choices") if isinstance(one, dict) else None
            if not isinstance(prompt, str) or not isinstance(choices, list):
                continue
            for place, choice in enumerate(choices):
                if fault := isinstance(choice, str) and _explain(prompt, choice):
                    yield (*path, number, "choices", place), str(fault)
                    break


def _explain(prompt: str, choice: str) -> str | None:
    if not prompt or not choice:
        return None
    end, start = prompt[-1], choice[0]
    if end.isspace() and start.isspace():
        return (
            f"choice {choice!r} begins with whitespace and its prompt ends with it ({end!r}); "
            "drop one (YAML's `|` ends with a line break, `|-` does not)"
        )
    # Before or after punctuation that sticks to a word, or in scripts without spaces, none is due.
    sticks = unicodedata.category(end) in ("Ps", "Pi", "Pd") or end in "\"'/_#@$"
    due = start.isalnum() and not sticks
    if end.isspace() or start.isspace() or not due or _is_unspaced(end) or _is_unspaced(start):
        return None
    return (
        f"no whitespace stands between the prompt's {end!r} and choice {choice!r}; begin choices "
        'with a space, in quotes: " word"'
    )


def _is_unspaced(character: str) -> bool:
    return unicodedata.name(character, "").startswith(_UNSPACED)
