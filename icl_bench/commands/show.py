"""`icl-bench show`: the text of a suite."""

from __future__ import annotations

import argparse
import unicodedata
from typing import Any

from icl_bench.commands.choices import complete_suites
from icl_bench.commands.parsing import OK, add_command, completed_by
from icl_bench.render.writing.logs import escape_ci_commands

DESCRIPTION = """\
Print a suite: a shipped one by its name, or a file. With --resolved, print the suite that is run:
one file with everything that it inherits from extended suites, without comments.

  icl-bench show core
  icl-bench show mine.yaml --resolved"""


def add_parser(commands: Any) -> None:
    """Add the command to the command line.

    Args:
        commands: what `add_subparsers` returned.
    """
    parser = add_command(
        commands, "show", "print a suite, optionally with the suites it extends", DESCRIPTION
    )
    suite = parser.add_argument("suite", metavar="NAME|PATH", help="a shipped suite, or a file")
    completed_by(suite, complete_suites)
    parser.add_argument(
        "--resolved", action="store_true", help="include everything inherited from extended suites"
    )
    parser.set_defaults(command=run)


def run(given: argparse.Namespace) -> int:
    """Carry the command out; return its exit code.

    Args:
        given: the parsed command line.

    Raises:
        SuiteError: there is no such suite, or with `--resolved` something in it is wrong.
    """
    from icl_bench.suite import find_suite
    from icl_bench.suite.loading import read_text
    from icl_bench.suite.printout import resolved_text

    if given.resolved:
        text = resolved_text(find_suite(given.suite))
    else:
        text = read_text(given.suite)
    # YAML allows no other control characters, and none may act on a terminal.
    kept = (sign for sign in text if sign in "\n\t" or unicodedata.category(sign) != "Cc")
    print(escape_ci_commands("".join(kept).removesuffix("\n")))
    return OK
