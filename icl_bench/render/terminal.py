"""RunRecords -> text for pytest's terminal summary."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path

from icl_bench.records.display import describe_weights
from icl_bench.records.parts import Check, Verdict
from icl_bench.records.record import RunRecord
from icl_bench.render import phases, steps, tables
from icl_bench.render.writing.page import Page
from icl_bench.render.writing.text import WORDS, count_cached, count_verdicts, one_line

WIDE = 120
"""Columns from which checks get more of them, and models stand side by side in several blocks."""

_RIGHT = ("Value", "n", "Seconds")
_TIGHT = ("", "Value", "Stderr")
"""Titles of columns with one space before them."""
_SHRINK = {"Asks": 24, "Check": 18, "Rule": 14}
"""Column -> its smallest width, in the order in which columns are made narrower. A metric's name is
never cut: it is what a suite, a limit or a ranking names."""
_SHRINK_MORE = {"Check": 12}
"""The same, where that is not enough."""
_SHORT = {"Induction": "Ind.", "Previous": "Prev.", "Duplicate": "Dup."}
"""Titles over columns of heads where the whole ones do not fit."""


def summary(
    records: Sequence[RunRecord],
    *,
    width: int = 80,
    color: bool = False,
    unicode: bool = True,
    paths: Iterable[str | os.PathLike[str]] = (),
    told: Collection[tuple[str, tuple[str, str]]] = (),
) -> str:
    """Return the summary of a run as text: checks, top heads, reasons, report files.

    Args:
        records: one record per model.
        width: characters per line; only folders of `paths` may be longer.
        color: whether verdicts are coloured with ANSI codes.
        unicode: whether the terminal can show more than ASCII.
        paths: the report files that were written.
        told: checks whose reasons the user has read already: slug, suite and id.
    """
    page = Page(width, color, unicode)
    matrix = Page(width, color, unicode)
    side_by_side = _add_matrices(matrix, records)
    if side_by_side:
        for index, record in enumerate(records, start=1):
            _add_header(page, record, f"[{index}] ")
        page.lines += ["", *matrix.lines]
    for index, record in enumerate(records, start=1):
        if side_by_side:
            page.wrap(f"[{index}] ", one_line(record.model.slug), 4)
        else:
            _add_header(page, record)
            page.add()
            if not _never_opened(record):
                _add_checks(page, record)
        _add_steps(page, record)
        _add_heads(page, record, *((8, 3) if len(records) == 1 else (3, 1)))
        for key, measurement in phases.phase_changes(record):
            page.wrap("", f"Phase change ({one_line(key)}): {phases.summarize(measurement)}", 2)
            page.add()
        _add_counts(page, record, told)
        page.add()
    _add_paths(page, paths)
    while page.lines and not page.lines[-1]:
        page.lines.pop()
    return page.text()


def _add_header(page: Page, record: RunRecord, prefix: str = "") -> None:
    model = record.model
    facts = [model.architecture]
    if model.layers is not None:
        facts.append(f"{model.layers} layers × {_heads(model.heads)} heads")
    if model.attention == "none":
        facts.append("no attention heads")
    elif model.attention:
        facts.append(f"{model.attention} attention")
    facts += [model.dtype, f"{record.status} run" if record.status != "complete" else None]
    if told := steps.describe_steps(record):
        facts.append(told)
    single = model.revision and not model.steps
    name = model.label + (f"@{model.revision}" if single else "")
    body = " — ".join(filter(None, [name, ", ".join(filter(None, facts))]))
    page.wrap(prefix, one_line(body), len(prefix))
    if model.attention_note:
        page.wrap("", f"attention: {one_line(model.attention_note)}", 2)
    for name, text in describe_weights(model):
        page.wrap("", f"{name}: {one_line(text)}", 2)
    if model.tokenizer_note:
        page.wrap("", f"tokenizer: {one_line(model.tokenizer_note)}", 2)


def _heads(heads: int | list[int] | None) -> str:
    if isinstance(heads, list):
        least, most = min(heads, default=0), max(heads, default=0)
        return str(most) if least == most else f"{least}–{most}"
    return "?" if heads is None else str(heads)


def _add_checks(page: Page, record: RunRecord) -> None:
    suites = list(dict.fromkeys(check.suite for check in record.checks))
    for suite in suites:
        checks = [check for check in record.checks if check.suite == suite]
        if len(suites) > 1:
            page.wrap("", f"suite {one_line(suite)}", 2)
        if page.width >= WIDE:
            rows = [tables.wide_check_row(check, record) for check in checks]
            header, verdicts = tables.WIDE_CHECK_HEADER, [check.verdict for check in checks]
            # What a check asks comes last, and is left out where little of it could be read.
            done = _add_check_table(page, header, rows, verdicts, must_fit=True)
            if not done:
                shorter = [row[:-1] for row in rows]
                done = _add_check_table(page, header[:-1], shorter, verdicts, must_fit=True)
        else:
            done = False
        if not done:
            _add_narrow_checks(page, checks)
        page.add()


def _add_narrow_checks(page: Page, checks: Sequence[Check]) -> None:
    """Add the table of checks; words give way to the numbers, which are never cut."""
    header, verdicts = [*tables.CHECK_HEADER], [check.verdict for check in checks]
    rows = [tables.check_row(check) for check in checks]
    # The last resort is a table without the metrics' names.
    for named in (True, False):
        place = header.index("Metric")
        for row in () if named else (header, *rows):
            del row[place]
        for shrink in (_SHRINK, _SHRINK | _SHRINK_MORE):
            last = not named and shrink is not _SHRINK
            if _add_check_table(page, header, rows, verdicts, must_fit=not last, shrink=shrink):
                return


def _add_check_table(
    page: Page,
    header: Sequence[str],
    rows: Sequence[Sequence[str]],
    verdicts: Sequence[Verdict | None],
    must_fit: bool = False,
    shrink: Mapping[str, int] = _SHRINK,
) -> bool:
    return page.table(
        header,
        rows,
        ["right" if title in _RIGHT else "left" for title in header],
        [1 if title in _TIGHT else 2 for title in header[1:]],
        {header.index("Verdict"): verdicts},
        shrink={header.index(title): least for title, least in shrink.items() if title in header},
        must_fit=must_fit,
    )


def _add_matrices(page: Page, records: Sequence[RunRecord]) -> bool:
    """Add checks against models, as many side by side as fit; False when that is not wanted.

    On a wide page the rest follows in further blocks; on another, more models than fit are
    better off with a table each.
    """
    count = len(records)
    if count < 2 or not any(record.checks for record in records):
        return False
    least = 2 if page.width >= WIDE else count
    for each in range(count, least - 1, -1):
        parts = [range(start, min(start + each, count)) for start in range(0, count, each)]
        blocks = [Page(page.width, page.color, page.unicode) for _ in parts]
        if all(_add_matrix(block, records, part) for block, part in zip(blocks, parts)):
            for block in blocks:
                page.lines += [*block.lines, ""]
            return True
    return False


def _add_matrix(page: Page, records: Sequence[RunRecord], part: range) -> bool:
    """Add checks against some of the models; False when they do not fit the width."""
    matched = tables.match_checks(records)
    several = len({check.suite for check, _ in matched}) > 1
    header = ["Check", "Rule"]
    verdicts: dict[int, list[Verdict | None]] = {}
    for column, index in enumerate(part):
        header += [f"[{index + 1}]", ""]
        verdicts[3 + 2 * column] = [
            None if (check := checks[index]) is None else check.verdict for _, checks in matched
        ]
    rows = []
    for first, checks in matched:
        name = f"{first.suite}::{first.id}" if several else first.id
        row = [one_line(name), tables.rule_cell(first)]
        for check in (checks[index] for index in part):
            cells = tables.check_row(check) if check is not None else []
            row += [cells[3], cells[-1]] if cells else ["", "–"]
        rows.append(row)
    align = ("left", "left") + ("right", "left") * len(part)
    gaps = (2,) + (2, 1) * len(part)
    return page.table(header, rows, align, gaps, verdicts, shrink={0: 18}, must_fit=True)


def _add_steps(page: Page, record: RunRecord) -> None:
    """Add how metrics went over a series, a bar to a checkpoint, and which ones were broken."""
    rows = steps.curve_rows(record)
    if rows:
        page.wrap("", f"Over {steps.describe_steps(record)}", 0)
        align = ["right" if title in steps.CURVE_RIGHT else "left" for title in steps.CURVE_HEADER]
        gaps = len(align) - 1
        if not page.table(
            steps.CURVE_HEADER, rows, align, [2] * gaps, shrink={0: 14, 1: 16}, must_fit=True
        ):
            page.table(steps.CURVE_HEADER, rows, align, [1] * gaps, shrink={0: 8, 1: 10})
        page.add()
    broken = dict(steps.broken_steps(record))
    for told in broken:
        page.wrap("Not measured: ", told, 14)
    if broken:
        page.add()


def _add_heads(page: Page, record: RunRecord, top: int, top_previous: int) -> None:
    measured = tables.head_measurements(record)
    if not measured:
        return
    keys, measurement = measured[0]
    others = f" ({len(measured) - 1} more in heads.csv)" if len(measured) > 1 else ""
    page.wrap("", f"Top heads of {one_line(', '.join(keys))}{others}", 0)
    header, rows = tables.head_table(measurement.heads, top, top_previous)
    gaps = [1 if title in ("", "Stderr") else 2 for title in header[1:]]
    align = ["left" if title in tables.HEAD_LEFT else "right" for title in header]
    if not page.table(header, rows, align, gaps, must_fit=True):
        short = [_SHORT.get(title, title) for title in header]
        page.table(short, rows, align, [1] * len(gaps))
    page.add()


def _never_opened(record: RunRecord) -> bool:
    """Whether all checks failed of one thing and nothing was measured, so that a table is empty."""
    if any(one.status != "error" for one in record.measurements.values()):
        return False
    return len({(check.verdict, check.reason) for check in record.checks}) == 1


def _add_counts(
    page: Page, record: RunRecord, told: Collection[tuple[str, tuple[str, str]]]
) -> None:
    counted = [count_verdicts(record.checks), steps.count_cached_steps(record)]
    if counted[1] is None:
        counted[1] = count_cached(record.measurements.values())
    page.wrap("", "; ".join(filter(None, counted)), 0)
    grouped: dict[tuple[Verdict, str], list[str]] = {}
    for check in record.checks:
        if (record.model.slug, (check.suite, check.id)) in told:
            continue
        if check.verdict != "pass" or check.reason:
            reason = one_line(check.reason or "no reason was recorded")
            grouped.setdefault((check.verdict, reason), []).append(one_line(check.id))
    order = list(WORDS)
    for (verdict, reason), ids in sorted(grouped.items(), key=lambda item: order.index(item[0][0])):
        page.wrap(WORDS[verdict], f"{', '.join(ids)}: {reason}", 9, verdict)


def _add_paths(page: Page, paths: Iterable[str | os.PathLike[str]]) -> None:
    folders: dict[Path, list[str]] = {}
    for path in map(Path, paths):
        folders.setdefault(path.parent, []).append(path.name)
    for folder, names in folders.items():
        page.add(f"Reports in {one_line(folder)}{os.sep}")
        page.wrap("  ", ", ".join(map(one_line, names)), 2)
