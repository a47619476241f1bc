"""Lines of text within a width: paragraphs and tables, in colour or not, in Unicode or ASCII."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from icl_bench.records.parts import Verdict
from icl_bench.render.writing.logs import escape_ci_commands
from icl_bench.render.writing.text import columns, cut, fold, to_ascii

_COLORS: dict[Verdict, str] = {
    "pass": "32",
    "fail": "31",
    "inconclusive": "33",
    "skipped": "36",
    "error": "31;1",
}
READABLE = 110
"""Columns of a paragraph at most; tables may take more."""


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

    def text(self) -> str:
        """Return all lines, none of which a CI system takes for a command."""
        return "\n".join(map(escape_ci_commands, self.lines))

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
        lines = fold(text, min(self.width, READABLE), indent)
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
        cells = [[self._fit_charset(cell) for cell in row] for row in (header, *rows)]
        widths = [max(columns(row[place]) for row in cells) for place in range(len(header))]
        for place, least in (shrink or {}).items():
            excess = max(sum(widths) + sum(gaps) - self.width, 0)
            widths[place] = max(widths[place] - excess, min(widths[place], least))
        if must_fit and sum(widths) + sum(gaps) > self.width:
            return False
        # Wrapped at its hyphens, the first column may need less than it was given.
        folded = [line for row in cells for line in fold(row[0], widths[0], hyphens=True)]
        widths[0] = max(map(columns, folded), default=0)
        line = self._fit_charset("─" * (sum(widths) + sum(gaps)))
        for number, row in enumerate(cells):
            found = {
                place: states[number - 1] for place, states in (verdicts or {}).items() if number
            }
            self._add_row(row, widths, align, gaps, found)
            if not number:
                if self.color:
                    self.lines[-1] = f"\033[1m{self.lines[-1]}\033[0m"
                self.lines.append(line)
        return True

    def _add_row(
        self,
        row: Sequence[str],
        widths: Sequence[int],
        align: Sequence[str],
        gaps: Sequence[int],
        verdicts: Mapping[int, Verdict | None],
    ) -> None:
        """Add a row; its first cell, often an id to be copied, is wrapped, the others are cut."""
        mark = "…" if self.unicode else "..."
        first, *more = fold(row[0], widths[0], hyphens=True) or [""]
        line = ""
        for place, cell in enumerate([first, *row[1:]]):
            cell = cut(cell, widths[place], mark)
            space = " " * (widths[place] - columns(cell))
            if (verdict := verdicts.get(place)) is not None:
                cell = self._paint(cell, verdict)
            gap = " " * gaps[place - 1] if place else ""
            line += gap + (space + cell if align[place] == "right" else cell + space)
        self.lines += [line.rstrip(), *more]

    def _fit_charset(self, text: str) -> str:
        return text if self.unicode else to_ascii(text)

    def _paint(self, text: str, verdict: Verdict) -> str:
        return f"\033[{_COLORS[verdict]}m{text}\033[0m" if self.color else text
