"""Help texts within the width of the terminal; commands that they show can still be copied."""

from __future__ import annotations

import argparse
import re
import textwrap
from collections.abc import Iterator
from itertools import groupby

WIDEST = 100
"""Columns of a paragraph at most."""


class HelpFormatter(argparse.HelpFormatter):
    """Folds paragraphs, and leaves examples, whose lines are indented, lines of their own."""

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        return "\n".join(indent + line for line in fold_help(text, width - len(indent)))


def fold_help(text: str, width: int) -> list[str]:
    """Return the lines of a description within a width.

    Args:
        text: paragraphs, and indented lines: an example, an example and what it does after three
            spaces or more, or a word and what it means after two.
        width: columns.
    """
    lines: list[str] = []
    for indented, group in groupby(text.splitlines(), lambda line: line.startswith("  ")):
        if indented:
            for line in group:
                lines += [line] if len(line) <= width else _fold_example(line, width)
        else:
            lines += _fold_paragraphs(list(group), min(width, WIDEST))
    return lines


def _fold_paragraphs(lines: list[str], width: int) -> Iterator[str]:
    for empty, group in groupby(lines, lambda line: not line):
        if empty:
            yield from group
        else:
            # An option's name is not broken at its hyphens.
            yield from textwrap.wrap(
                " ".join(group), width, break_on_hyphens=False, break_long_words=False
            )


def _fold_example(line: str, width: int) -> list[str]:
    if found := re.fullmatch(r"(  \w+  )(\S.*)", line):
        word, meaning = found.groups()
        rest = " " * len(word)
        return textwrap.wrap(meaning, width, initial_indent=word, subsequent_indent=rest)
    command, _, meaning = line.strip().partition("   ")
    # What stands in quotes is never parted.
    words = re.findall(r"""(?:[^\s"']|"[^"]*"|'[^']*')+""", command)
    lines = ["  " + words[0]]
    for word in words[1:]:
        if len(lines[-1]) + len(word) + 3 <= width:  # with room for a backslash
            lines[-1] += " " + word
        else:
            lines[-1] += " \\"  # a shell reads on in the next line
            lines.append("      " + word)
    rest = " " * 8
    return lines + textwrap.wrap(
        meaning.strip(), width, initial_indent=rest, subsequent_indent=rest
    )
