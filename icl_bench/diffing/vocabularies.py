"""Token ids that stand for the same text in two models, for sequences that both can be given.

Sequences are drawn by the places of ids in a list. Two lists of one length whose ids stand, place
by place, for the same text therefore give the same text, whatever the ids are.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from icl_bench.models.model import Model

LEAST = 256
"""Texts that two vocabularies must share for sequences to be drawn from them alone."""
_SPACES = str.maketrans({"Ġ": " ", "▁": " "})
"""How tokenizers write the space before a word."""


def list_texts(model: Model) -> dict[str, int]:
    """Return text -> id of the usable ids whose text is known: ASCII, and of one id only.

    Args:
        model: the model; without a tokenizer no text is known.
    """
    if model.tokenizer is None:
        return {}
    tokens = model.tokenizer.convert_ids_to_tokens(model.vocabulary)
    texts = [str(token).translate(_SPACES) for token in tokens]
    counts = Counter(texts)
    return {
        text: index
        for text, index in zip(texts, model.vocabulary)
        if text.isascii() and counts[text] == 1
    }


def share_ids(a: Mapping[str, int], b: Mapping[str, int]) -> tuple[list[int], list[int]]:
    """Return the ids of the texts that two vocabularies share, in the order of A's ids.

    Args:
        a: text -> id in A.
        b: text -> id in B.
    """
    shared = sorted(a.keys() & b.keys(), key=lambda text: a[text])
    return [a[text] for text in shared], [b[text] for text in shared]
