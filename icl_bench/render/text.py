"""Words and plain text: verdict words, control characters, shortening, the ASCII fallback.

Text from models and suites passes through `one_line` before it is shown anywhere: it must not be
able to move a terminal's cursor, reverse the reading direction or break a table row.
"""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Collection, Iterable

from icl_bench.record import Check, Measurement, Verdict

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
        **dict(zip("▁▂▃▄▅▆▇█", "_.:~=+*#")),
    }
)


def one_line(text: object) -> str:
    """Return text as one line without control and direction-changing characters."""
    spaced = " ".join(str(text).split())
    return "".join(sign for sign in spaced if unicodedata.category(sign) not in ("Cc", "Cf", "Cs"))


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
