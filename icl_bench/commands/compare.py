"""`icl-bench compare`: a record against a baseline, no model needed."""

from __future__ import annotations

import argparse
import json
import sys
from typing import Any

from icl_bench.commands.parsing import (
    FAILED,
    OK,
    add_color,
    add_command,
    add_options,
)
from icl_bench.render.writing.logs import escape_ci_commands

DESCRIPTION = """\
Compare a run with a baseline, both given as records (results.json, or its folder). No model is
required.

A metric is worse if the whole interval of its change lies beyond its limit. Changes are measured
sample by sample on the same tokens, else by both standard errors; the intervals of all metrics hold
together. Default limits are 2% of the gain from repetition (for losses on repeats), 0.02 nats (for
losses on text) and 0.02 of a score or share; --limit '*=noise' allows only rounding. The judged
metrics are those that the baseline's checks read, and those that a --limit names without '*'. A
check that was judged before and is missing or skipped now fails, and so does a head that fell below
the threshold.

  icl-bench compare baseline.json reports/mine
  icl-bench compare a.json b.json --limit induction_max=0.05 --limit 'repeated_loss=5%'

On GitHub (GITHUB_ACTIONS=true) regressions are annotated and listed in the job's summary."""


def add_parser(commands: Any) -> None:
    """Add the command to the command line.

    Args:
        commands: what `add_subparsers` returned.
    """
    parser = add_command(
        commands,
        "compare",
        "compare a run with a baseline; exit 1 if something got worse",
        DESCRIPTION,
    )
    parser.add_argument("baseline", metavar="BASELINE", help="record of the earlier run")
    parser.add_argument("record", metavar="RECORD", help="record of the new run")
    add_options(parser, "limit", "inconclusive", "require-paired")
    parser.add_argument("--md", metavar="FILE", help="write the comparison to FILE, as Markdown")
    parser.add_argument("--json", metavar="FILE", help="write the comparison to FILE, as JSON")
    add_color(parser)
    parser.set_defaults(command=run)


def run(given: argparse.Namespace) -> int:
    """Carry the command out; return its exit code.

    Args:
        given: the parsed command line.

    Raises:
        InputError: a record or a limit is wrong, or a file cannot be written.
    """
    from icl_bench.ci.publishing import publish
    from icl_bench.comparing import compare, parse_limit
    from icl_bench.records.reading import read_record
    from icl_bench.records.writing import write_atomically
    from icl_bench.render.comparison import comparison_markdown, comparison_text
    from icl_bench.render.writing.outlet import outlet_of
    from icl_bench.reports.places import check_file

    for option, file in (("--md", given.md), ("--json", given.json)):
        if file:
            check_file(file, option)
    limits = [parse_limit(text) for text in given.limit or ()]
    records = read_record(given.baseline), read_record(given.record)
    found = compare(*records, limits, require_paired=given.require_paired)
    strict = given.inconclusive == "fail"
    outlet = outlet_of(sys.stdout, given.color)
    print(escape_ci_commands(comparison_text(found, **outlet.options(), inconclusive_fails=strict)))
    troubles = []
    for file, text in (
        (given.md, comparison_markdown(found, strict)),
        (given.json, json.dumps(found.as_data(strict), indent=1) + "\n"),
    ):
        try:
            if file:
                write_atomically(file, text)
        except OSError as error:
            troubles.append(f"{file}: cannot be written ({error.strerror or error})")
    published = publish([], found, strict=strict)
    for line in published.commands:
        print(line)
    troubles += published.troubles
    for trouble in troubles:
        print(escape_ci_commands(f"icl-bench: {trouble}"), file=sys.stderr)
    return OK if found.passes(strict) and not troubles else FAILED
