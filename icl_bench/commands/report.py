"""`icl-bench report`: old records rendered by the present reports."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from icl_bench.commands.parsing import FAILED, OK, USAGE, add_command, add_options
from icl_bench.errors import IclError, RecordError
from icl_bench.render.writing.logs import escape_ci_commands

if TYPE_CHECKING:
    from icl_bench.records.record import RunRecord
    from icl_bench.render.html.page import Plotly

DESCRIPTION = """\
Write the reports of records again in the format of this version of icl-bench, without a model or a
measurement. Records (results.json) are never changed. A record that cannot be read or rendered is
named and keeps its reports; the others are rendered.

  icl-bench report reports/                  every record below, reports next to each
  icl-bench report old.json --output=here    into here/SLUG/
  icl-bench report OUTPUT_DIR/icl            of a training run: also training.html, with the gates
                                             and curves of all evaluations"""


def add_parser(commands: Any) -> None:
    """Add the command to the command line.

    Args:
        commands: what `add_subparsers` returned.
    """
    parser = add_command(commands, "report", "write the reports of old records again", DESCRIPTION)
    parser.add_argument(
        "records",
        metavar="RECORD|DIR",
        nargs="+",
        help="a record's file, its folder, or a folder of such folders",
    )
    parser.add_argument(
        "--output", metavar="DIR", help="write to DIR/SLUG/ (default: next to each record)"
    )
    add_options(parser, "plotly")
    parser.set_defaults(command=run)


def run(given: argparse.Namespace) -> int:
    """Carry the command out; return its exit code.

    Args:
        given: the parsed command line.

    Raises:
        InputError: a folder cannot be written.
    """
    from icl_bench.records.reading import read_record
    from icl_bench.render.writing.text import one_line
    from icl_bench.reports.added import added_reports
    from icl_bench.reports.files import folder_name, render_again
    from icl_bench.reports.places import check_report_dir

    if given.output:
        check_report_dir(given.output, "--output")
    added_reports()
    rendered = broken = 0
    taken: set[Path] = set()
    runs: dict[tuple[Path, Path], dict[Path, RunRecord]] = {}
    for path in dict.fromkeys(found for text in given.records for found in find_records(text)):
        try:
            record = read_record(path)
        except RecordError as error:
            print(escape_ci_commands(f"icl-bench: {error}"), file=sys.stderr)
            broken += 1
            continue
        if record.doubt:
            print(escape_ci_commands(one_line(f"{path}: {record.doubt}")), file=sys.stderr)
        folder = path.parent
        if given.output:
            folder = _free(Path(given.output) / folder_name(record.model.slug), path.name, taken)
        try:
            troubles: list[str] = []
            written = render_again(record, path, folder, given.plotly, troubles)
        except IclError:
            raise
        except Exception as error:  # A record of another hand may hold what no renderer expects.
            told = f"icl-bench: {path}: cannot be rendered ({type(error).__name__}: {error})"
            print(escape_ci_commands(one_line(told)), file=sys.stderr)
            broken += 1
            continue
        print(f"{one_line(path)}: {', '.join(one_line(file.name) for file in written)} in ", end="")
        print(one_line(folder) + os.sep)
        for trouble in troubles:
            print(escape_ci_commands(one_line(f"icl-bench: {trouble}")), file=sys.stderr)
        rendered += 1
        broken += bool(troubles)
        if record.step is not None:
            runs.setdefault((path.parent, folder), {})[path] = _without_rows(record)
    for (source, folder), evaluations in runs.items():
        why = _write_run(source, folder, evaluations, given.plotly)
        if why:
            print(escape_ci_commands(one_line(f"icl-bench: {source}: {why}")), file=sys.stderr)
            broken += 1
    if not rendered:
        return USAGE
    return FAILED if broken else OK


def find_records(text: str) -> list[Path]:
    """Return the files that a word of the command line names.

    Args:
        text: a file, or a folder that holds `results*.json` itself or in its folders. Where there
            is none, the folder's `results.json` is returned, and reading that says so.
    """
    path = Path(text)
    if not path.is_dir():
        return [path]
    found = sorted(path.glob("results*.json")) or sorted(path.glob("*/results*.json"))
    return found or [path / "results.json"]


def _write_run(
    source: Path, folder: Path, evaluations: dict[Path, RunRecord], plotly: Plotly
) -> str | None:
    """Write the page of a training run where there are several evaluations; else say why not."""
    from icl_bench.render.writing.text import one_line
    from icl_bench.reports.files import TRAINING, write_training_run

    if len(evaluations) < 2:
        return None
    if len({record.step for record in evaluations.values()}) < len(evaluations):
        return f"several records of one step, so no {TRAINING} is written"
    try:
        write_training_run(evaluations, folder, plotly)
    except IclError:
        raise
    except Exception as error:  # As above.
        return f"{TRAINING} cannot be rendered ({type(error).__name__}: {error})"
    print(f"{one_line(source)}: {TRAINING} in {one_line(folder)}{os.sep}")
    return None


def _without_rows(record: RunRecord) -> RunRecord:
    """The record without rows of heads and tables: of a long run they would fill the memory."""
    slim = {
        key: one.model_copy(update={"heads": [], "tables": {}})
        for key, one in record.measurements.items()
    }
    return record.model_copy(update={"measurements": slim})


def _free(folder: Path, name: str, taken: set[Path]) -> Path:
    """A folder in which no other record of this name was rendered."""
    number, free = 2, folder
    while free / name in taken:
        free = folder.with_name(f"{folder.name}-{number}")
        number += 1
    taken.add(free / name)
    return free
