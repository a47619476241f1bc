"""Digests by which a changed file is noticed: of parsed values, so that layout does not count."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Literal

from icl_bench.provenance import digest

FIELD = "digest"
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")


def sign(data: Mapping[str, Any]) -> str:
    """Return the digest of parsed JSON, its own `digest` left out.

    Args:
        data: what the file holds.

    Raises:
        ValueError: it holds NaN or infinity.
    """
    return "sha256:" + digest({key: value for key, value in data.items() if key != FIELD})


def state_of(data: Mapping[str, Any]) -> Literal["intact", "changed", "unsigned"]:
    """Return whether parsed JSON is what its digest was made of.

    Args:
        data: what the file holds, fields of later versions included.

    Returns:
        `unsigned` for a file of before there were digests.
    """
    if FIELD not in data:
        # A digest under another name: the name itself was changed.
        odd = any(isinstance(one, str) and _DIGEST.fullmatch(one) for one in data.values())
        return "changed" if odd else "unsigned"
    try:
        return "intact" if data[FIELD] == sign(data) else "changed"
    except (ValueError, RecursionError):
        return "changed"
