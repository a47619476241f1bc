"""`icl-bench schema`: the JSON Schema of suite files, for editors."""

from __future__ import annotations

import argparse
import json
from typing import Any

from icl_bench.commands.parsing import OK, add_command

DESCRIPTION = """\
Print the JSON Schema of suite files. With it, editors complete keys, probes and metrics, and mark
mistakes while you type.

  icl-bench schema > icl_suite.schema.json
  icl-bench schema | python -m json.tool | less"""


def add_parser(commands: Any) -> None:
    """Add the command to the command line.

    Args:
        commands: what `add_subparsers` returned.
    """
    parser = add_command(commands, "schema", "print the JSON Schema of suite files", DESCRIPTION)
    parser.set_defaults(command=run)


def run(given: argparse.Namespace) -> int:
    """Carry the command out; return its exit code.

    Args:
        given: the parsed command line.
    """
    from icl_bench.suite import json_schema

    print(json.dumps(json_schema(), indent=2))
    return OK
