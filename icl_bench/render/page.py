"""Lines of text within a width: paragraphs and tables, in colour or not, in Unicode or ASCII."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence

from icl_bench.record import Verdict
from icl_bench.render.text import cut, to_ascii

_COLORS: dict[Verdict, str] = {
    "pass": "32",
    "fail": "31",
    "inconclusive": "33",
    "skipped": "36",
    "error": "31;1",
}


class Page:
    """Collects lines for a terminal.

    Args:
        width: characters per line.
        color: whether verdicts are coloured with ANSI codes.
        unicode: whether more than ASCII can be shown.
    """

    def __init__(self, width: int, color: bool, unicode: bool) -> None:
        self.width = max(width, 40)
        self.color = color
        self.unicode = unicode
        self.lines: list[str] = []

    def add(self, text: str = "") -> None:
        """Add one line, however long."""
        self.lines.append(self._fit_charset(text))

    def wrap(self, head: str, body: str, indent: int, verdict: Verdict | None = None) -> None:
        """Add a paragraph that starts with `head`, everything else indented.

        Args:
            head: text in the indent of the first line; the word of `verdict` if one is given.
            body: the text.
            indent: characters that later lines are indented by.
            verdict: the verdict whose colour `head` gets.
        """
        text = self._fit_charset(f"{head:<{indent}}{body}")
        lines = textwrap.wrap(
            text, self.width, subsequent_indent=" " * indent, break_on_hyphens=False
        )
        if verdict is not None and lines:
            lines[0] = self._paint(head, verdict) + lines[0][len(head) :]
        self.lines += lines

    def table(
        self,
        header: Sequence[str],
        rows: Sequence[Sequence[str]],
        align: Sequence[str],
        gaps: Sequence[int],
        verdicts: Mapping[int, Sequence[Verdict | None]] | None = None,
        *,
        shrink: Mapping[int, int] | None = None,
        must_fit: bool = False,
    ) -> bool:
        """Add an aligned table with a line under its header, and return whether it was added.

        Args:
            header: titles of the columns.
            rows: cells, one line each.
            align: left or right, per column.
            gaps: 1 or 2 spaces, per pair of neighbouring columns.
            verdicts: column -> verdict per row, for the colour of its cells.
            shrink: column -> smallest width, of the columns that are made narrower, in this
                order, until the table fits: the first column is wrapped, others are cut.
            must_fit: add nothing when the table is wider than the page.
        """
        from tabulate import DataRow, TableFormat, tabulate

        cells = [[self._fit_charset(cell) for cell in row] for row in (header, *rows)]
        widths = [max(len(row[column]) for row in cells) for column in range(len(header))]
        for column, least in (shrink or {}).items():
            excess = max(sum(widths) + sum(gaps) - self.width, 0)
            widths[column] = max(widths[column] - excess, min(widths[column], least))
        if must_fit and sum(widths) + sum(gaps) > self.width:
            return False
        mark = "…" if self.unicode else "..."
        for row in cells:
            row[1:] = [
                cut(cell, width, mark) for cell, width in zip(row[1:], widths[1:], strict=True)
            ]
        for column, found in (verdicts or {}).items():
            for row, verdict in zip(cells[1:], found, strict=True):
                if verdict is not None:
                    row[column] = self._paint(row[column], verdict)
        cells = [line for row in cells for line in _wrap_first(row, widths[0])]
        # One space parts columns; an empty column between two of them makes it two spaces. The
        # header goes in as a row, because tabulate widens every column by two for a real header.
        spread = [_spread(row, gaps) for row in cells]
        layout = TableFormat(None, None, None, None, None, DataRow("", " ", ""), 0, None)
        text = tabulate(
            spread, tablefmt=layout, disable_numparse=True, colalign=_spread(align, gaps, "left")
        )
        first, *others = text.split("\n")
        line = self._fit_charset("─" * (sum(widths) + sum(gaps)))
        self.lines += [first.rstrip(), line, *(other.rstrip() for other in others)]
        return True

    def _fit_charset(self, text: str) -> str:
        return text if self.unicode else to_ascii(text)

    def _paint(self, text: str, verdict: Verdict) -> str:
        return f"\033[{_COLORS[verdict]}m{text}\033[0m" if self.color else text


def _wrap_first(row: Sequence[str], width: int) -> list[list[str]]:
    """A row as several when its first cell, often an id to be copied, is wider than `width`."""
    first, *others = textwrap.wrap(row[0], width) or [""]
    return [[first, *row[1:]], *([part] + [""] * (len(row) - 1) for part in others)]


def _spread(cells: Sequence[str], gaps: Sequence[int], filler: str = "") -> list[str]:
    """Cells with an empty one wherever the gap is two spaces wide."""
    spread = [cells[0]]
    for cell, gap in zip(cells[1:], gaps, strict=True):
        spread += [filler, cell] if gap == 2 else [cell]
    return spread
