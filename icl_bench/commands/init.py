"""`icl-bench init`: a first suite of one's own."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from icl_bench.commands.parsing import OK, add_command
from icl_bench.render.writing.logs import escape_ci_commands

DESCRIPTION = """\
Write a commented suite to start from, with every part of the format. It runs unchanged. An existing
file is not overwritten.

  icl-bench init
  icl-bench init suites/mine.yaml"""


def add_parser(commands: Any) -> None:
    """Add the command to the command line.

    Args:
        commands: what `add_subparsers` returned.
    """
    from icl_bench.suite.catalog import STARTER

    parser = add_command(commands, "init", "write a commented suite to start from", DESCRIPTION)
    parser.add_argument(
        "file", metavar="FILE", nargs="?", default=STARTER, help=f"default: {STARTER}"
    )
    parser.set_defaults(command=run)


def run(given: argparse.Namespace) -> int:
    """Carry the command out; return its exit code.

    Args:
        given: the parsed command line.

    Raises:
        SettingsError: the file is there already, or cannot be written.
    """
    from icl_bench.suite.starter import write_starter

    write_starter(Path(given.file))
    lines = [
        f"{given.file}: written. Next:",
        f"  icl-bench validate {given.file}",
        f"  icl-bench run builtin:induction-2l --suite={given.file}",
    ]
    print(escape_ci_commands("\n".join(lines)))
    return OK
