"""Many numbers in little room: what stands in a page as a grid of every head's score."""

from __future__ import annotations

import base64
from array import array
from collections.abc import Sequence
from sys import byteorder


def pack(content: bytes) -> str:
    """Return bytes as base64; `icl.bytes` in `base.js` reads them back.

    Args:
        content: of float32 numbers little-endian, for `icl.floats`.
    """
    return base64.b64encode(content).decode()


def pack_grid(grid: Sequence[Sequence[float | None]]) -> str:
    """Return rows of numbers as base64 of little-endian float32, row after row.

    Written out as text they would take twice the room; `icl.grid` reads them back.

    Args:
        grid: a row a layer; None where there is no number.
    """
    packed = array("f", (float("nan") if v is None else v for row in grid for v in row))
    if byteorder == "big":
        packed.byteswap()
    return pack(packed.tobytes())
