"""Outcomes as blocks, and the blocks as text, Markdown and a page."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from icl_bench.errors import SettingsError
from icl_bench.mutating.outcome import Moved, Mutation, Outcome
from icl_bench.records.blocks import Block, Table, Text
from icl_bench.records.parts import Verdict
from icl_bench.records.writing import write_atomically
from icl_bench.render.blocks import blocks_markdown
from icl_bench.render.html.blocks import blocks_page
from icl_bench.render.writing import numbers
from icl_bench.render.writing.page import Page
from icl_bench.render.writing.text import one_line

NAME = "mutation"
"""The report's files are called so."""
_HEADER = ("Edit", "Place", "Change", "Gain (nats)", "Text (nats)", "Verdict", "Killed by")
MOST_NAMED = 3
"""Checks that killed an edit that the table names."""


def verdict_lines(mutation: Mutation) -> Iterator[str]:
    """Yield the figures of all edits, one sentence each.

    Args:
        mutation: the outcomes.
    """
    rate, changed = mutation.kill_rate, len(mutation.changed)
    if rate is None:
        yield "Kill rate: unknown, because no edit changed behaviour"
    else:
        killed = len(mutation.killed)
        yield f"Kill rate: {killed} of {changed} edits that changed behaviour ({rate:.0%})"
    alarms = mutation.of("false alarm")
    yield f"False alarms: {len(alarms)} of {len(mutation.harmless)} neutral edits" + (
        f" ({', '.join(one.name for one in alarms)})" if alarms else ""
    )
    unclear = [one for one in mutation.of("killed", "survived") if one.change == "unclear"]
    if unclear:
        yield f"Not counted, because it is not clear whether they changed behaviour: {len(unclear)}"
    if mutation.passing < mutation.checks:
        yield f"On the unedited model {mutation.passing} of {mutation.checks} checks pass"
    if mutation.no_text:
        yield f"Without a loss on text: {mutation.no_text}"
    if mutation.pace is not None:
        seconds = numbers.number(mutation.baseline_seconds)
        yield f"An edit took {mutation.pace:.2f} of the suite's run ({seconds} s), on average"
    if mutation.left:
        yield f"Interrupted: {len(mutation.left)} edits were not tried"


def blocks(mutation: Mutation) -> list[Block]:
    """Return the report's blocks.

    Args:
        mutation: the outcomes.
    """
    tried = [one for one in mutation.outcomes if one.change]
    made: list[Block] = [Text(title="Verdict", text=". ".join(verdict_lines(mutation)) + ".")]
    if mutation.survivors:
        made.append(
            Table(
                title="Survivors",
                columns=["Edit", "Place", "Gain (nats)", "Text (nats)", "Would have caught it"],
                rows=[
                    [one.edit, one.place, _show(one.gain), _show(one.text), one.reason or ""]
                    for one in mutation.survivors
                ],
                note="Edits that changed behaviour and that nothing in the suites noticed.",
            )
        )
    made.append(
        Table(
            title="Edits",
            columns=_HEADER,
            rows=[_row(one) for one in tried],
            note="Change of the gain on varied repeats and of the loss on text, paired, with 95% "
            "intervals. Text is left out where the gain decides; an edit's suites end at the first "
            "measurement in which something is worse.",
        )
    )
    kills = _count_killers(tried)
    if kills:
        made.append(
            Table(
                title="What noticed",
                columns=["Check, head or metric", "Edits"],
                rows=[[name, count] for name, count in kills],
            )
        )
    rest = mutation.of("absent", "not planted")
    if rest:
        made.append(
            Table(
                title="Not in this family",
                columns=["Edit", "Place", "Reason"],
                rows=[[one.edit, one.place, one.reason or ""] for one in rest],
            )
        )
    names = {one.edit: one.what for one in mutation.outcomes}
    made.append(
        Table(title="What the edits do", columns=["Edit", "Change"], rows=list(names.items()))
    )
    return made


def _count_killers(tried: Sequence[Outcome]) -> list[tuple[str, int]]:
    found: dict[str, int] = {}
    for one in tried:
        for name in {_short(name) for name in one.killed_by}:
            found[name] = found.get(name, 0) + 1
    return sorted(found.items(), key=lambda item: (-item[1], item[0]))


def _short(name: str) -> str:
    """A refusal on opening without its reason."""
    return name.partition(": ")[0]


def _row(one: Outcome) -> list[str]:
    change = f"{one.change} (must change nothing)" if one.neutral else one.change or ""
    moved = [_show(one.gain), _show(one.text)]
    return [one.edit, one.place, change, *moved, one.verdict, _killers(one)]


def _killers(one: Outcome) -> str:
    names = [_short(name) for name in one.killed_by]
    more = f" and {len(names) - MOST_NAMED} more" if len(names) > MOST_NAMED else ""
    return ", ".join(names[:MOST_NAMED]) + more


def _show(moved: Moved | None) -> str:
    if moved is None:
        return ""
    if moved.value is None or moved.low is None or moved.high is None:
        return "not finite"
    return f"{moved.value:+.3f} [{moved.low:+.3f}, {moved.high:+.3f}]"


def mutation_text(
    mutation: Mutation, *, width: int = 80, color: bool = False, unicode: bool = True
) -> str:
    """Return outcomes as text for a terminal.

    Args:
        mutation: the outcomes.
        width: characters per line.
        color: whether verdicts are coloured with ANSI codes.
        unicode: whether more than ASCII can be shown.
    """
    page = Page(width, color, unicode)
    suites = ", ".join(mutation.suites)
    page.wrap("", one_line(f"Planted edits of {mutation.model}, suites {suites}"), 0)
    page.add()
    _add_table(page, [one for one in mutation.outcomes if one.verdict != "absent"])
    if any(one.neutral for one in mutation.outcomes):
        page.wrap("", "* must change nothing; gain and text in nats, after minus before", 0)
    page.add()
    absent = dict.fromkeys(one.edit for one in mutation.of("absent"))
    if absent:
        page.wrap("", f"Not in this family: {', '.join(absent)}", 0)
    for one in mutation.survivors:
        page.wrap("", one_line(f"survived: {one.name}; would have caught it: {one.reason}"), 2)
    for one in mutation.of("false alarm"):
        page.wrap("", one_line(f"false alarm: {one.name}: {', '.join(one.killed_by)}"), 2)
    for line in verdict_lines(mutation):
        page.wrap("", one_line(line), 0)
    return page.text()


def _add_table(page: Page, outcomes: Sequence[Outcome]) -> None:
    header = ["Edit", "Place", "Change", "Gain", "Text", "Verdict", "Killed by"]
    rows = []
    for one in outcomes:
        change = (one.change or "") + ("*" if one.neutral else "")
        moved = [_brief(one.gain), _brief(one.text)]
        rows.append([one.edit, one.place, change, *moved, one.verdict, _killers(one)])
    align = ["left", "left", "left", "right", "right", "left", "left"]
    if not any(row[4] for row in rows):
        for cells in (header, align, *rows):
            del cells[4]
    bad = {"survived", "false alarm", "not planted"}
    painted: list[Verdict | None] = ["fail" if one.verdict in bad else None for one in outcomes]
    last = len(header) - 1
    page.table(header, rows, align, (2,) * last, {last - 1: painted}, shrink={last: 12})


def _brief(moved: Moved | None) -> str:
    if moved is None:
        return ""
    return "not finite" if moved.value is None else f"{moved.value:+.3f}"


def write_mutation(mutation: Mutation, folder: Path) -> list[Path]:
    """Write the report as HTML, Markdown and JSON, and return the paths.

    Args:
        mutation: the outcomes.
        folder: where; made if it is not there.

    Raises:
        SettingsError: it cannot be written.
    """
    title = f"Planted edits of {mutation.model}: {', '.join(mutation.suites)}"
    files: dict[str, Callable[[], str]] = {
        f"{NAME}.html": lambda: blocks_page(title, blocks(mutation), f"{NAME}.json"),
        f"{NAME}.md": lambda: blocks_markdown(title, blocks(mutation)),
        f"{NAME}.json": lambda: json.dumps(mutation.as_data(), indent=1, allow_nan=False) + "\n",
    }
    try:
        return [write_atomically(folder / name, make()) for name, make in files.items()]
    except OSError as error:
        raise SettingsError(f"{folder}: cannot be written ({error.strerror or error})") from None
