"""What a job's page shows: verdicts, checks, and what got worse, as Markdown."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from icl_bench.records.record import RunRecord
from icl_bench.render.comparison import comparison_markdown
from icl_bench.render.markdown import show_checks
from icl_bench.render.tables import CHECK_HEADER, check_row
from icl_bench.render.writing.markup import escape, table
from icl_bench.render.writing.text import count_verdicts, overall

if TYPE_CHECKING:
    from icl_bench.comparing import Comparison


def job_summary(
    records: Sequence[RunRecord], comparison: Comparison | None = None, *, strict: bool = True
) -> str:
    """Return the summary of a run, what got worse first.

    Args:
        records: one per model.
        comparison: the run against its baseline; None where there is none.
        strict: whether what cannot be told counts as worse.
    """
    return "\n".join(_lines(records, comparison, strict)).strip() + "\n\n"


def _lines(
    records: Sequence[RunRecord], comparison: Comparison | None, strict: bool
) -> Iterator[str]:
    if comparison is not None:
        yield comparison_markdown(comparison, strict)
    for record in records:
        yield f"# icl_bench: {escape(record.model.label)}"
        yield ""
        yield f"**{overall(record.checks)}**: {count_verdicts(record.checks)}"
        if record.status != "complete":
            yield f"(the run is {record.status})"
        yield ""
        yield from show_checks(record)
        yield ""
        quiz = [check for check in record.checks if check.kind == "quiz"]
        if quiz:
            yield "## Quiz"
            yield ""
            yield from table(CHECK_HEADER, [check_row(check) for check in quiz], right=("Value",))
            yield ""
