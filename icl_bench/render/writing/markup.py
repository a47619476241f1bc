"""Text and numbers as Markdown that shows exactly them.

Text from models and suites is data: `escape` keeps it from becoming markup, in tables too.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Sequence
from typing import Any

from icl_bench.records.parts import Metric
from icl_bench.render.writing import numbers
from icl_bench.render.writing.text import one_line


def escape(text: object) -> str:
    """Return text as one line of Markdown that shows exactly that text, in a table cell too.

    The result must not stand at the start of a line: `- ` and `# ` are left as they are. So are
    `<` before and `>` after a space, which are no markup, so that rules stay legible in the source.
    """
    line = one_line(text).replace("&", "&amp;")
    line = re.sub(r"<(?=\S)", "&lt;", line)
    line = re.sub(r"(?<=\S)>", "&gt;", line)
    line = re.sub(r"([\\`*|~$]|\](?=[(\[:]))", r"\\\1", line)
    # An underscore inside of a word is no markup, and names are full of them.
    return re.sub(r"(?<![A-Za-z0-9])_|_(?![A-Za-z0-9])", r"\\_", line)


def table(
    header: Sequence[str], rows: Sequence[Sequence[Any]], right: Collection[str] = ()
) -> Iterator[str]:
    """Lines of a Markdown table of escaped cells; nothing without rows."""
    if not rows:
        return
    from tabulate import tabulate

    yield from tabulate(
        [[escape(cell) for cell in row] for row in rows],
        headers=[escape(title) for title in header],
        tablefmt="pipe",
        disable_numparse=True,
        colalign=["right" if title in right else "left" for title in header],
    ).split("\n")


def estimate(metric: Metric | None) -> str:
    """Return value ± standard error; nothing without a metric."""
    return "" if metric is None else numbers.estimate(metric.value, metric.stderr)


def bounds(low: float | None, high: float | None) -> str:
    """Return an interval as text; nothing where there is none."""
    return "" if low is None or high is None else numbers.interval(low, high)
