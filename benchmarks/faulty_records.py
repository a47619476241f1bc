"""Mutated records: refused with the field's place, or rendered in every format."""

from __future__ import annotations

import contextlib
import copy
import functools
import json
import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from mutations import LONG, ODD, Hang, Outcome, dump, explain_message, mutate, nest, patience

from icl_bench.ci.findings import of_comparison, of_records
from icl_bench.ci.github import annotate
from icl_bench.ci.gitlab import code_quality, openmetrics
from icl_bench.ci.junit import file_properties
from icl_bench.comparing import compare
from icl_bench.errors import InputError, RecordError
from icl_bench.ranking import rank, read_entries
from icl_bench.records.reading import read_record
from icl_bench.records.record import RunRecord
from icl_bench.render.comparison import comparison_markdown, comparison_text
from icl_bench.render.html.report import report_page
from icl_bench.render.leaderboard import leaderboard_text
from icl_bench.render.terminal import summary
from icl_bench.reports.files import REPORTS, SERIES_REPORTS
from icl_bench.reports.leaderboard import write_leaderboard

SAMPLES = Path(__file__).parents[1] / "reports" / "samples"
SAMPLE = SAMPLES / "builtin-induction-2l" / "results.json"
SERIES = SAMPLES / "builtin-induction-2l--" / "results.json"
CONTROL = SAMPLES / "builtin-control-1l" / "results.json"
VALUES = [*ODD, *LONG, 2**53, -3, 0.25, 17, "midpoint", ["a", "b"], [0.1, 0.2], {"value": 1}]
"""Values that a mutation puts somewhere."""
TOGETHER = {"comparison", "comparison, as a baseline", "leaderboard"}
"""Renderings of several records."""


def mutate_record(data: Any, draw: random.Random) -> Any:
    """Return a record's data with something changed, mostly where its types say least.

    Args:
        data: it stays as it is.
        draw: where, and into what.
    """
    if draw.random() < 0.25:
        return mutate(data, draw)
    data = copy.deepcopy(data)
    for _ in range(draw.choice([1, 1, 2])):
        change = draw.choice([_change_rows, _change_rows, _change_part, _move])
        # What a change looks for may have gone with the one before.
        with contextlib.suppress(LookupError, TypeError, ValueError, AttributeError, OverflowError):
            change(data, draw)
    return data


def _change_part(data: Any, draw: random.Random) -> None:
    """Change one value of a measurement, a metric, a check or the model."""
    taken = draw.choice(list(data["measurements"].values()))
    metric = draw.choice(list(taken["metrics"].values()) or [taken])
    check = draw.choice(data["checks"])
    part = draw.choice(
        [
            *(taken["settings"], taken["metrics"], taken["tables"], data["model"], metric, metric),
            *(check, check, data["suites"][0], data["environment"], taken, data),
        ]
    )
    if not part:
        return
    key = draw.choice(list(part))
    if draw.random() < 0.2:
        part[str(draw.choice(ODD))] = part.pop(key)
    elif draw.random() < 0.3:
        part[key] = nest(part[key], draw.choice([1, 3, 60, 120]), draw)
    else:
        part[key] = copy.deepcopy(draw.choice(VALUES))


def _move(data: Any, draw: random.Random) -> None:
    """Put a part of the record where another one belongs."""
    names = list(data["measurements"])
    one, other = (data["measurements"][draw.choice(names)] for _ in range(2))
    match draw.randrange(6):
        case 0:
            kind = draw.choice(["heads", "tables", "metrics", "settings", "probe", "status"])
            one[kind], other[kind] = other[kind], one[kind]
        case 1 if one["tables"] and other["tables"]:
            here, there = draw.choice(list(one["tables"])), draw.choice(list(other["tables"]))
            one["tables"][here] = copy.deepcopy(other["tables"][there])
        case 2:
            name = draw.choice(["", "x", "core/", "/", "a/b/c", "\x1b", "<b>/|", "x" * 5000])
            data["measurements"][name] = data["measurements"].pop(draw.choice(names))
        case 3:
            check = draw.choice(data["checks"])
            check.update(copy.deepcopy(draw.choice(data["checks"])))
            check["rule"] = draw.choice(["between", "equals", "supports", "above", "x"])
        case 4 if one["metrics"]:
            metric = one["metrics"][draw.choice(list(one["metrics"]))]
            metric.update(ci_low=metric["ci_high"], ci_high=metric["ci_low"])
        case _:
            data["model"]["steps"] = draw.choice([None, [], [0], [5, 5], [3, 1], [-1, 2], [10**18]])


def _change_rows(data: Any, draw: random.Random) -> None:
    """Change rows of heads, of a table, or of the checks: one value, or a whole column."""
    taken = draw.choice(list(data["measurements"].values()))
    rows = draw.choice([taken["heads"], *taken["tables"].values(), data["checks"]])
    if not rows:
        return
    some = rows if draw.random() < 0.5 else [draw.choice(rows)]
    name, value = draw.choice(list(draw.choice(rows)) or ["x"]), draw.choice(VALUES)
    match draw.randrange(7):
        case 0:
            for row in some:
                row.pop(name, None)
        case 1:
            del rows[draw.randrange(2) :]
        case 2:
            rows[:] = draw.choice([rows * 2, rows[::-1], [{} for _ in rows]])
        case 3 | 4 if type(some[0].get(name)) in (int, float):
            factor = draw.choice([-1, 1e300, 0, 1e-300, 0.5, 3, 1e90])
            for row in some:
                if type(row.get(name)) in (int, float):
                    row[name] = factor * row[name]
        case _:
            for row in some:
                row[name] = copy.deepcopy(value)


def mutate_records(
    count: int,
    folder: Path,
    seed: int = 0,
    longest: int = 0,
    samples: Sequence[Path] = (SAMPLE, SERIES, CONTROL),
) -> Outcome:
    """Mutate records, and render in every format each that is accepted.

    Args:
        count: how many.
        folder: an empty one.
        seed: of the mutations.
        longest: seconds that one may take; 0 for no limit.
        samples: sound records.
    """
    draw, outcome = random.Random(seed), Outcome()
    sound = {path: json.loads(path.read_bytes()) for path in samples}
    records = {path: read_record(path) for path in samples}
    for name, path in zip("abc", samples):
        (folder / name).mkdir()
        (folder / name / "results.json").write_bytes(path.read_bytes())
    odd = folder / "odd" / "results.json"
    odd.parent.mkdir()
    for number in range(count):
        path = draw.choice(samples)
        data = mutate_record(sound[path], draw)
        data.pop("digest", None)
        odd.write_bytes(dump(data))
        outcome.tried += 1
        try:
            with patience(longest):
                record = read_record(odd)
        except RecordError as error:
            outcome.refused(number, error)
            if str(odd) not in str(error):
                outcome.fault(number, "message", f"names no file: {error}")
            continue
        except (Exception, Hang) as error:
            outcome.fault(number, "reading", error)
            continue
        outcome.accepted += 1
        for name, render in _renderings(record, records[path], folder).items():
            try:
                with patience(longest):
                    render()
            except InputError as error:
                # Two records may have nothing in common; one alone can always be shown.
                why = explain_message(str(error))
                if why or name not in TOGETHER:
                    outcome.fault(number, name, why or error)
            except (Exception, Hang) as error:
                outcome.fault(number, name, error)
    return outcome


def _renderings(
    record: RunRecord, other: RunRecord, folder: Path
) -> dict[str, Callable[[], object]]:
    """Every form that a record is shown in, by name."""

    def compared(before: RunRecord, now: RunRecord) -> None:
        found = compare(before, now)
        comparison_text(found)
        comparison_markdown(found)
        json.dumps(found.as_data(), allow_nan=False)
        annotate(of_comparison(found, {}))

    def ranked() -> None:
        board = rank(read_entries([folder]).read)
        leaderboard_text(board)
        write_leaderboard(board, folder / "board")

    def told() -> None:
        code_quality(of_records([record], {}))
        openmetrics([record])
        file_properties([record])

    made: dict[str, Callable[[], object]] = {
        name: functools.partial(make, record) for name, make in (REPORTS | SERIES_REPORTS).items()
    }
    made["report.html"] = lambda: report_page(record, "plotly.js")
    made["terminal"] = lambda: summary([record, other])
    made["comparison"] = lambda: compared(other, record)
    made["comparison, as a baseline"] = lambda: compared(record, other)
    made["leaderboard"] = ranked
    made["CI"] = told
    return made
