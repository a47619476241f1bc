"""`icl-bench compare`: a record against a baseline, no model needed."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from icl_bench.errors import SettingsError

if TYPE_CHECKING:
    from icl_bench.record import RunRecord

RECORD = "results.json"

DESCRIPTION = """\
Compare a run with a baseline, both records (results.json, or the folder that holds it).

A metric is worse when it changed for the worse by more than its limit allows and by more than
noise: on the same tokens sample by sample, else by both standard errors; the intervals of all
metrics hold together. Judged are the metrics that the baseline's checks read, and those that a
--limit names. A check that passed before and is gone or skipped now fails, and so does a head that
fell below the threshold.

  icl-bench compare baseline.json reports/mine
  icl-bench compare a.json b.json --limit induction_max=0.05 --limit 'repeated_loss=5%'

Exit codes: 0 nothing is worse, 1 something is, 4 a file or an option is wrong.
"""


def add_parser(commands: Any) -> None:
    """Add the command to the command line.

    Args:
        commands: what `add_subparsers` returned.
    """
    parser = commands.add_parser(
        "compare",
        help="compare a run with a baseline; exit 1 where something got worse",
        description=DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("baseline", metavar="BASELINE", help="record of before")
    parser.add_argument("record", metavar="RECORD", help="record of now")
    parser.add_argument(
        "--limit",
        action="append",
        default=[],
        metavar="METRIC=AMOUNT",
        help="allowed change for the worse: a number, N%%, or noise; - or + in front limits a fall "
        "or a rise; METRIC may be SUITE/MEASUREMENT.METRIC and hold *; repeatable",
    )
    parser.add_argument("--inconclusive", choices=("fail", "warn"), default="fail")
    parser.add_argument("--md", metavar="FILE", help="write the comparison there, as Markdown")
    parser.add_argument("--json", metavar="FILE", help="write the comparison there, as JSON")
    add_color(parser)
    parser.set_defaults(command=run)


def add_color(parser: argparse.ArgumentParser) -> None:
    """Add `--color` to a command.

    Args:
        parser: of the command.
    """
    text = "auto (default: on a terminal, unless NO_COLOR is set), yes or no"
    parser.add_argument("--color", choices=("auto", "yes", "no"), default="auto", help=text)


def read_side(path: str | Path) -> RunRecord:
    """Read a record from its file, or from the folder that holds its `results.json`.

    Args:
        path: file or folder.

    Raises:
        RecordError: it is not there, or is no record.
    """
    from icl_bench.record import read_record

    path = Path(path)
    return read_record(path / RECORD if path.is_dir() else path)


def run(given: argparse.Namespace) -> int:
    """Carry the command out; return its exit code.

    Args:
        given: the parsed command line.

    Raises:
        InputError: a record or a limit is wrong.
    """
    from icl_bench.comparing import compare, parse_limit
    from icl_bench.record import write_atomically
    from icl_bench.render.comparison import comparison_markdown, comparison_text
    from icl_bench.render.outlet import outlet_of

    limits = [parse_limit(text) for text in given.limit]
    found = compare(read_side(given.baseline), read_side(given.record), limits)
    strict = given.inconclusive == "fail"
    outlet = outlet_of(sys.stdout, given.color)
    print(comparison_text(found, **outlet.options(), inconclusive_fails=strict))
    try:
        if given.md:
            write_atomically(given.md, comparison_markdown(found, strict))
        if given.json:
            write_atomically(given.json, json.dumps(found.as_data(), indent=1) + "\n")
    except OSError as error:
        raise SettingsError(f"{error.filename}: cannot be written ({error.strerror})") from None
    return 0 if found.passes(strict) else 1
