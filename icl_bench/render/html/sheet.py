"""Blocks -> an HTML page of texts and tables."""

from __future__ import annotations

from collections.abc import Sequence

from icl_bench.records.blocks import Block, Text
from icl_bench.render.blocks import as_table, shown
from icl_bench.render.html.page import make_page


def blocks_page(title: str, blocks: Sequence[Block], numbers: str) -> str:
    """Return blocks as one HTML page; curves and grids of heads as tables.

    Args:
        title: its heading.
        blocks: what stands on it, each under its own title.
        numbers: name of the file beside it that has every number.
    """
    parts = []
    for block in blocks:
        made = as_table(block)
        header, rows = shown(made) if made is not None else ([], [])
        text = block.text if isinstance(block, Text) else ""
        parts.append(
            {"title": block.title, "text": text, "note": block.note, "header": header, "rows": rows}
        )
    return make_page(
        "sheet.html.j2", title=title, data={}, charts=False, parts=parts, numbers=numbers
    )
