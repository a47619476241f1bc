"""A leaderboard -> text for the terminal and Markdown."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from icl_bench.render.writing import numbers
from icl_bench.render.writing.markup import bounds, escape, table
from icl_bench.render.writing.page import Page
from icl_bench.render.writing.text import one_line

if TYPE_CHECKING:
    from icl_bench.ranking import Board, Cell, Column, Group, Row

ARROWS = {"up": "↑", "down": "↓", None: ""}
"""Which way is better -> its sign."""

MARKDOWN_METRICS = 8
"""Further metrics in the Markdown table; CSV, JSON and the page hold all."""

APART = "†"
"""Marks a number that was measured in another way than the others of its column."""
LISTED = 20
"""Reasons, and remarks on single models, that the terminal shows at most."""

_NARROWEST = 16
"""Characters that a model's name has in the terminal at least."""

RANGES = (
    "A rank is a range: best rank = 1 + models significantly better; worst rank = total - models "
    "significantly worse. All ranges of a column hold the true ranks together at 95%."
)
"""What a rank is."""


def heading(board: Board) -> str:
    """Return in one line what ranks.

    Args:
        board: the leaderboard.
    """
    column = board.column
    told = f": {column.meaning}" if column.meaning else ""
    unit = f", {column.unit}" if column.unit else ""
    better = "more is better" if column.direction == "up" else "less is better"
    return f"{column.name} {ARROWS[column.direction]} ({better}{unit}){told}"


def group_title(board: Board, number: int, group: Group) -> str:
    """Return the title of a group.

    Args:
        board: the leaderboard.
        number: of the group, from 1.
        group: the group.
    """
    models = numbers.count(len(group.rows)) + (" model" if len(group.rows) == 1 else " models")
    place = f"Group {number}: " if len(board.groups) > 1 else ""
    return f"{place}suite {board.suite} ({group.digest[:8]}), {models}"


def rank_text(cell: Cell) -> str:
    """Return the ranks that a model may have: `2`, or `2–5`; nothing without any."""
    if cell.rank is None:
        return ""
    if cell.no_circuit:
        return "no circuit"
    low, high = cell.rank
    return str(low) if low == high else f"{low}–{high}"


def say_rank(cell: Cell) -> str:
    """Return a rank in words: `rank 2–5`, or `no circuit`; nothing without one."""
    told = rank_text(cell)
    return told if cell.no_circuit or not told else f"rank {told}"


def size_text(parameters: int | None) -> str:
    """Return a number of parameters in short: 332k, 134.5M, 7.24B."""
    if parameters is None:
        return ""
    for bound, sign in ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "k")):
        if parameters >= bound:
            return f"{parameters / bound:.4g}{sign}"
    return str(parameters)


def checks_text(row: Row) -> str:
    """Return how many checks passed, failed (broken ones too) and are unclear: `10/1/0`."""
    counts = row.verdicts
    failed = counts["fail"] + counts["error"]
    return f"{counts['pass']}/{failed}/{counts['inconclusive']}"


def mark(row: Row) -> str:
    """Return the model's name, with what marks its record."""
    marks = [] if row.entry.status == "complete" else [row.entry.status]
    marks += ["older run"] if row.twin is not None else []
    return one_line(row.name + (f" [{', '.join(marks)}]" if marks else ""))


def not_measured(board: Board, group: Group) -> list[tuple[str, str]]:
    """Return the models of a group without a rank by the score, and why.

    Args:
        board: the leaderboard.
        group: the group.
    """
    return [
        (mark(row), row.cells[board.score].reason or "not ranked")
        for row in group.rows[group.ranked :]
    ]


def leaderboard_text(
    board: Board, *, width: int = 80, color: bool = False, unicode: bool = True
) -> str:
    """Return a leaderboard as text for a terminal.

    Args:
        board: what to show.
        width: characters per line; where there is room, further metrics have columns.
        color: whether the terminal can show colours.
        unicode: whether it can show more than ASCII.
    """
    page = Page(width, color, unicode)
    page.wrap("", one_line(f"Ranked by {heading(board)}"), 0)
    for number, group in enumerate(board.groups, start=1):
        page.add()
        page.wrap("", one_line(group_title(board, number, group)), 0)
        if group.why:
            page.wrap("", one_line(group.why), 2)
        page.add()
        _add_table(page, board, group)
        missing = not_measured(board, group)
        for name, reason in missing[:LISTED]:
            page.wrap("Not measured: ", one_line(f"{name}: {reason}"), 14)
        further = [i for i, one in enumerate(board.columns) if one.read and i != board.score]
        remarks = _no_circuits(board, group) + _apart(board, group, further) + _row_remarks(group)
        for line in group.remarks + remarks[:LISTED]:
            page.wrap("- ", one_line(line), 2)
        if more := max(len(missing) - LISTED, 0) + max(len(remarks) - LISTED, 0):
            page.wrap("- ", f"{more} more lines like these are in leaderboard.md", 2)
    page.add()
    page.wrap("", RANGES + " Checks: passed/failed/unclear.", 0)
    if absent := describe_absent(board):
        page.wrap("", one_line(absent), 0)
    return "\n".join(page.lines)


def describe_absent(board: Board) -> str | None:
    """Return in a sentence which records have no part in the leaderboard; None for none.

    Args:
        board: the leaderboard.
    """
    if not board.absent:
        return None
    suites = sorted({suite for _, names in board.absent for suite in names})
    names = [name for name, _ in board.absent]
    shown = ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
    how = f" (--suite {suites[0]} ranks them)" if len(suites) == 1 else ""
    return f"Without suite {board.suite}, and not here: {shown}{how}"


def _row_remarks(group: Group) -> list[str]:
    return [f"{row.name}: {remark}" for row in group.rows for remark in row.remarks]


def _no_circuits(board: Board, group: Group) -> list[str]:
    cells = [(row.name, row.cells[board.score].no_circuit) for row in group.rows]
    return [f"{name}: {why}" for name, why in cells if why]


def _add_table(page: Page, board: Board, group: Group) -> None:
    """Add the ranked rows; architectures and further metrics where they fit."""
    rows = group.rows[: group.ranked]
    if not rows:
        return
    header = ["Rank", "Model", "Params", "", "Score", "", "Stderr", "Interval", "Checks"]
    align = ["right", "left", "right", "left", "right", "left", "left", "left", "left"]
    gaps = [2, 2, 2, 1, 1, 1, 2, 2]
    cells = [_terminal_cells(board, row) for row in rows]
    name_width = max(len(row[1]) for row in cells)

    def taken() -> int:
        others = [
            max(len(row[place]) for row in (header, *cells))
            for place in range(len(header))
            if place > 1
        ]
        others.append(max(len(word) for row in (header, *cells) for word in row[0].split(" ")))
        return sum(others) + sum(gaps)

    room = page.width - taken()
    architectures = [one_line(row.entry.model.architecture or "") for row in rows]
    further = [("Architecture", architectures, "left")]
    for index, column in enumerate(board.columns):
        if column.read and index != board.score:
            title = f"{column.short} {ARROWS[column.direction]}".rstrip()
            further.append((title, [_value(row.cells[index]) for row in rows], "right"))
    for title, values, side in further:
        wide = max(map(len, [title, *values])) + 2
        if name_width + wide > room:
            break
        header.append(one_line(title))
        align.append(side)
        gaps.append(2)
        cells = [[*row, value] for row, value in zip(cells, values)]
        room -= wide
    wrapped = [line for row in cells for line in _wrap_name(row, max(room, _NARROWEST))]
    page.table(header, wrapped, align, gaps, shrink={7: 0})


def _terminal_cells(board: Board, row: Row) -> list[str]:
    cell, column = row.cells[board.score], board.column
    figure = cell.figure
    assert figure is not None
    error = "" if figure.stderr is None else numbers.stderr(figure.stderr)
    return [
        rank_text(cell),
        mark(row),
        size_text(row.entry.model.parameters),
        ARROWS[column.direction],
        numbers.number(figure.value),
        "±" if error else "",
        error,
        bounds(figure.ci_low, figure.ci_high),
        checks_text(row),
    ]


def _wrap_name(row: Sequence[str], width: int) -> list[list[str]]:
    """A row as several where the model's name does not fit; a name is never cut.

    Nor is the rank of those without a circuit, which is two words.
    """
    ranks, names = row[0].split(" ") or [""], textwrap.wrap(row[1], width) or [""]
    lines = [["", "", *row[2:]]]
    lines += [[""] * len(row) for _ in range(max(len(ranks), len(names)) - 1)]
    for place, parts in enumerate((ranks, names)):
        for line, part in zip(lines, parts):
            line[place] = part
    return lines


def _value(cell: Cell) -> str:
    if cell.figure is None:
        return "–"
    return numbers.number(cell.figure.value) + (APART if cell.reason else "")


def _apart(board: Board, group: Group, columns: Sequence[int]) -> list[str]:
    """Which numbers of further columns stand beside others, measured in another way."""
    return [
        f"{APART} {mark(row)}, {board.columns[index].short}: {cell.reason}"
        for row in group.rows[: group.ranked]
        for index in columns
        if (cell := row.cells[index]).figure is not None and cell.reason
    ]


def leaderboard_markdown(board: Board) -> str:
    """Return a leaderboard as Markdown.

    Args:
        board: what to show.
    """
    return "\n".join(_markdown(board)).rstrip() + "\n"


def _markdown(board: Board) -> Iterator[str]:
    yield "# Leaderboard"
    yield ""
    yield f"Ranked by {escape(heading(board))}"
    yield ""
    yield f"{RANGES} Checks: passed/failed/unclear."
    yield ""
    further = [i for i, one in enumerate(board.columns) if one.read and i != board.score]
    for number, group in enumerate(board.groups, start=1):
        yield f"## {escape(group_title(board, number, group))}"
        yield ""
        if group.why:
            yield escape(group.why)
            yield ""
        yield from _markdown_table(board, group, further[:MARKDOWN_METRICS])
        yield ""
        missing = not_measured(board, group)
        for name, reason in missing:
            yield f"- not measured: {escape(name)}: {escape(reason)}"
        told = _apart(board, group, further[:MARKDOWN_METRICS])
        told += group.remarks + _no_circuits(board, group) + _row_remarks(group)
        yield from (f"- {escape(line)}" for line in told)
        yield ""
        yield "How they were measured:"
        yield ""
        yield from table(
            ("Model", "Measured", "dtype", "Attention", "Device", "icl_bench", "Record"),
            [_provenance(row) for row in group.rows],
        )
        yield ""
    if absent := describe_absent(board):
        yield escape(absent)
        yield ""
    for line in board.broken:
        yield f"- left out: {escape(line)}"
    if len(further) > MARKDOWN_METRICS:
        yield ""
        yield "Further metrics are in leaderboard.csv."


def _markdown_table(board: Board, group: Group, further: Sequence[int]) -> Iterator[str]:
    header = ["Rank", "Model", "Architecture", "Parameters"]
    header += ["Metric", "", "Value", " ", "Stderr", "Interval", "Checks"]
    header += [_title(board.columns[index]) for index in further]
    rows = []
    for row in group.rows[: group.ranked]:
        cells = _terminal_cells(board, row)
        cells[2:2] = [row.entry.model.architecture or ""]
        cells[4:4] = [board.column.metric]
        rows.append([*cells, *(_with_rank(row.cells[index]) for index in further)])
    right = ("Rank", "Parameters", "Value", *header[11:])
    yield from table(header, rows, right)


def _title(column: Column) -> str:
    return f"{column.short} {ARROWS[column.direction]}".rstrip()


def _with_rank(cell: Cell) -> str:
    if cell.figure is None:
        return ""
    told = numbers.estimate(cell.figure.value, cell.figure.stderr)
    if cell.reason:
        return f"{told} {APART}"
    return f"{told} ({say_rank(cell)})" if cell.rank else told


def _provenance(row: Row) -> list[str]:
    entry = row.entry
    return [
        mark(row),
        entry.created[:19].replace("T", " "),
        entry.model.dtype or "",
        entry.model.attention or "",
        entry.environment.device or "",
        entry.version,
        record_name(row),
    ]


def record_name(row: Row) -> str:
    """Return the record's file with its folder's name alone, which tells nothing of the machine."""
    return f"{row.entry.path.parent.name}/{row.entry.path.name}".lstrip("/")
