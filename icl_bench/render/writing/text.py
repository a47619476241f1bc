"""Words and plain text: verdict words, control characters, shortening, the ASCII fallback.

Text from models and suites passes through `one_line` before it is shown anywhere: it must not be
able to move a terminal's cursor, reverse the reading direction or break a table row.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Collection, Iterable

from icl_bench.records.parts import Check, Measurement, Verdict
from icl_bench.render.writing.logs import escape_ci_commands

WORDS: dict[Verdict, str] = {
    "pass": "PASS",
    "fail": "FAIL",
    "inconclusive": "UNCLEAR",
    "skipped": "SKIP",
    "error": "ERROR",
}
"""Verdict -> the word in tables; the order is the order of reports."""

_COUNTED: dict[Verdict, str] = {
    "pass": "passed",
    "fail": "failed",
    "inconclusive": "unclear",
    "skipped": "skipped",
    "error": "error",
}

_ASCII = str.maketrans(
    {
        "↑": "^",
        "↓": "v",
        "±": "+-",
        "–": "-",
        "—": "-",
        "─": "-",
        "·": "|",
        "×": "x",
        "≥": ">=",
        "≤": "<=",
        "…": "...",
        "†": "*",
        **dict(zip("▁▂▃▄▅▆▇█", "_.:~=+*#")),
    }
)


def one_line(text: object) -> str:
    """Return text as one line without control and direction-changing characters."""
    return visible(" ".join(str(text).split()))


def legible(text: str) -> str:
    """Return text with spaces for whitespace, without control and direction-changing characters."""
    return text if text.isprintable() else visible(re.sub(r"\s", " ", text))


def printable(text: str) -> str:
    """Return text of several lines, none of which can act on a terminal or on a CI system."""
    return "\n".join(escape_ci_commands(visible(line)) for line in text.splitlines())


def visible(text: str) -> str:
    """Return text without control and direction-changing characters, line breaks among them."""
    return "".join(sign for sign in text if unicodedata.category(sign) not in ("Cc", "Cf", "Cs"))


def columns(text: str) -> int:
    """Return how many columns of a terminal `text` takes: East Asian signs take two each."""
    from rich.cells import cell_len

    return len(text) if text.isascii() else cell_len(text)


def cut(text: str, width: int, mark: str = "…") -> str:
    """Return `text` cut to `width` columns, the cut shown by `mark`."""
    if columns(text) <= width:
        return text
    from rich.cells import set_cell_size

    # A sign of two columns that is cut through leaves a space.
    return set_cell_size(text, max(width - len(mark), 0)).rstrip() + mark[: max(width, 0)]


def to_ascii(text: str) -> str:
    """Return `text` in ASCII: our own signs by their likeness, every other one as `?`."""
    return text.translate(_ASCII).encode("ascii", "replace").decode("ascii")


def count_verdicts(checks: Iterable[Check]) -> str:
    """Return how many checks got which verdict, as in `3 passed, 1 failed`."""
    counts = Counter(check.verdict for check in checks)
    parts = [f"{counts[verdict]} {_COUNTED[verdict]}" for verdict in WORDS if counts[verdict]]
    return ", ".join(parts) or "no checks"


def count_cached(measurements: Collection[Measurement]) -> str | None:
    """Return how many measurements an earlier run took, or None when there is none.

    Args:
        measurements: of one record.
    """
    count = sum(measurement.cached for measurement in measurements)
    return f"{count} of {len(measurements)} measurements from the cache" if count else None


def overall(checks: Iterable[Check]) -> str:
    """Return the word for a whole run: the worst verdict, skipped ones left aside."""
    verdicts = {check.verdict for check in checks}
    for verdict in ("error", "fail", "inconclusive", "pass", "skipped"):
        if verdict in verdicts:
            return WORDS[verdict]
    return "NO CHECKS"


def fold(text: str, width: int, hanging: int = 0, *, hyphens: bool = False) -> list[str]:
    """Return text in lines of at most `width` columns; a word that is longer is broken.

    Args:
        text: one line; spaces within it stay, but for those at a break.
        width: columns.
        hanging: columns that all lines but the first are indented by.
        hyphens: whether a line may also end after a hyphen within a word.
    """
    parts = re.findall(r"\s+|\S+", text)
    if hyphens:
        parts = [piece for part in parts for piece in re.split(r"(?<=\w-)(?=\w)", part)]
    lines, line, used = [""], "", 0
    room = width
    for part in parts:
        size = columns(part)
        if used + size > room and (part.isspace() or (used and size <= width - hanging)):
            lines[-1], line, used = line.rstrip(), "", 0
            lines.append("")
            room = width - hanging
        if part.isspace() and not used and len(lines) > 1:
            continue
        while used + size > room:
            head = _first_columns(part, room - used)
            lines[-1] = line + head
            lines.append("")
            part = part[len(head) :]
            line, used, size, room = "", 0, columns(part), width - hanging
        line, used = line + part, used + size
    lines[-1] = line.rstrip()
    while len(lines) > 1 and not lines[-1]:
        lines.pop()
    return [lines[0], *(" " * hanging + line for line in lines[1:])] if any(lines) else []


def _first_columns(text: str, width: int) -> str:
    """The start of a text that takes at most `width` columns."""
    used = 0
    for place, sign in enumerate(text):
        used += columns(sign)
        if used > width:
            return text[:place]
    return text
