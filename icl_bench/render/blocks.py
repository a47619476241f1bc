"""Blocks that probes state for reports: which, their cells as text, and their lines in Markdown."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from icl_bench.probes import PROBES, kind_of, report_of
from icl_bench.records.blocks import Block, Cell, Curve, HeadGrid, Quantity, Table, Text
from icl_bench.records.record import RunRecord
from icl_bench.records.rows import is_number, list_heads
from icl_bench.render.writing import numbers
from icl_bench.render.writing.markup import escape, table

TOP = 10
"""Heads of a grid that a table shows."""


def stated(record: RunRecord) -> Iterator[tuple[str, Block]]:
    """Key of the measurement and block, of every part that a probe states.

    Args:
        record: the run.
    """
    for key, measurement in record.measurements.items():
        for block in report_of(measurement):
            yield key, block


def show_blocks(record: RunRecord) -> Iterator[str]:
    """Lines of every probe's part of the Markdown report, kind after kind.

    Args:
        record: the run.
    """
    kinds = [*dict.fromkeys(map(kind_of, PROBES)), ""]
    places = {key: kinds.index(kind_of(one.probe)) for key, one in record.measurements.items()}
    for key, block in sorted(stated(record), key=lambda part: places[part[0]]):
        heading = block.title if block.heading is None else block.heading
        if heading:
            yield ""
            yield f"## {escape(heading)}: {escape(key)}" + (
                f" ({escape(block.method)})" if block.method else ""
            )
        yield from show_block(block)


def show_block(block: Block) -> Iterator[str]:
    """Lines of one block in Markdown, without its heading.

    Args:
        block: the block.
    """
    made = as_table(block)
    for words in (block.text if isinstance(block, Text) else "", block.note):
        if words:
            yield from ("", escape(words))
    if made is not None:
        if made is not block and made.title:
            yield from ("", escape(made.title)) if not block.note else (escape(made.title),)
        yield ""
        header, rows = shown(made)
        yield from table(header, rows, right=header[made.named :])


def blocks_markdown(title: str, blocks: Sequence[Block]) -> str:
    """Return a page of blocks as Markdown.

    Args:
        title: its first line.
        blocks: what stands on it, each under its own title.
    """
    lines = [f"# {escape(title)}"]
    for block in blocks:
        lines += ["", f"## {escape(block.title)}", *show_block(block)]
    return "\n".join(lines) + "\n"


def as_table(block: Block) -> Table | None:
    """Return a block's numbers as a table; None for text.

    Args:
        block: a table itself, a curve, or a grid of heads: those with the highest score.
    """
    if isinstance(block, HeadGrid):
        scored = [row for row in block.rows if is_number(row.get(block.score))]
        best = sorted(scored, key=lambda row: -row[block.score])[:TOP]
        return Table(
            title=f"Highest {len(best)} of {len(scored)}:",
            columns=["Head", f"{block.score} ({block.unit})" if block.unit else block.score],
            rows=[
                [list_heads([row]), Quantity(row[block.score], row.get(f"{block.score}_stderr"))]
                for row in best
            ],
        )
    if isinstance(block, Curve):
        return block.table or _points(block)
    return block if isinstance(block, Table) else None


def shown(made: Table) -> tuple[list[str], list[list[str]]]:
    """Return a table's header and rows as text.

    Args:
        made: the table.
    """
    return list(made.columns), [[_cell(cell) for cell in row] for row in made.rows]


def _points(curve: Curve) -> Table:
    found: dict[float, dict[int, Cell]] = {}
    for place, line in enumerate(curve.lines):
        for row in line.rows:
            if is_number(row.get(line.x)) and is_number(row.get(line.y)):
                error = row.get(f"{line.y}_stderr")
                found.setdefault(row[line.x], {})[place] = Quantity(row[line.y], error)
    places = range(len(curve.lines))
    return Table(
        columns=[curve.x, *(f"{line.name}: {curve.y}" for line in curve.lines)],
        rows=[[x, *(cells.get(place) for place in places)] for x, cells in sorted(found.items())],
    )


def _cell(cell: Cell) -> str:
    if isinstance(cell, Quantity):
        return numbers.estimate(cell.value, cell.stderr)
    return numbers.number(cell) if isinstance(cell, (int, float)) else cell or ""
