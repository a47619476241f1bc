"""What probes state for reports: text, and a picture or a table for each block."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from icl_bench.records.blocks import Block, Curve, HeadGrid, Text
from icl_bench.records.record import RunRecord
from icl_bench.render.blocks import as_table, shown, stated
from icl_bench.render.html import copying
from icl_bench.render.html.page import make_page
from icl_bench.render.html.panels import panel, series


def section(record: RunRecord) -> dict[str, Any] | None:
    """Return texts, panels and tables; of grids, which are in the heat map, the notes.

    Those of ablations are in the section on copying.
    """
    texts: list[dict[str, str]] = []
    panels: list[dict[str, Any]] = []
    tables: list[dict[str, Any]] = []
    for key, block in stated(record):
        if record.measurements[key].probe == copying.PROBE:
            continue
        title = _title(key, block)
        if isinstance(block, HeadGrid):
            if block.note:
                texts.append({"title": title, "text": block.note, "words": ""})
            continue
        if isinstance(block, Text):
            texts.append({"title": title, "text": block.text, "words": block.note})
        if isinstance(block, Curve):
            lines = [
                series(line.name, line.rows, line.x, line.y, f"{line.y}_stderr", line.dash)
                for line in block.lines
            ]
            drawn = panel(title, block.x, block.y, lines, log=block.log)
            panels += [drawn] if drawn else []
        made = as_table(block)
        if made is not None and made.rows:
            header, rows = shown(made)
            tables.append({"title": title, "header": header, "rows": rows, "words": block.note})
    if not texts and not panels and not tables:
        return None
    return {"texts": texts, "panels": panels, "tables": tables, "data": {"panels": panels}}


def _title(key: str, block: Block) -> str:
    """The title, the measurement, and how heads were switched off where any were."""
    named = f"{key}, {block.method} ablation" if block.method else key
    return f"{block.title} ({named})" if block.title else key


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
    return make_page("sheet.html.j2", title=title, data={}, plotly="", parts=parts, numbers=numbers)
