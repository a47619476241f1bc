"""The `icl-bench` command: the table of its commands, and what becomes of errors.

Exit codes: 0 ok, 1 a check failed, 2 interrupted, 3 a fault of this program, 4 wrong usage.
"""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from icl_bench import __version__
from icl_bench.commands import (
    cache,
    compare,
    completion,
    diff,
    init,
    leaderboard,
    listing,
    report,
    run,
    schema,
    show,
    sweep,
    train_reference,
    validate,
)
from icl_bench.commands.parsing import (
    EXIT_CODES,
    FAILED,
    INTERNAL,
    INTERRUPTED,
    USAGE,
    Parser,
    parse,
)
from icl_bench.commands.streams import lasting_streams
from icl_bench.errors import IclError, InputError
from icl_bench.render.writing.logs import escape_ci_commands

if TYPE_CHECKING:
    import argparse

DESCRIPTION = """\
Test whether a language model has the circuits of in-context learning.

A first run, offline and within a minute:

  icl-bench run builtin:induction-2l         measure, judge, write reports/
  icl-bench list suites                      the other suites
  icl-bench run ./my-model --suite=gate      your own model (folder, hub id, FILE.gguf)
  icl-bench run ./my-model --suite=gate --save-baseline=good.json
  icl-bench run ./changed --suite=gate --baseline=good.json
                                             did this change break a circuit?

The same suites run as tests under pytest: pytest --icl-model=SPEC

`icl-bench COMMAND --help` has examples of each command."""

COMMANDS = (
    run,
    report,
    compare,
    diff,
    leaderboard,
    listing,
    init,
    show,
    validate,
    schema,
    sweep,
    cache,
    train_reference,
    completion,
)
"""The commands, in the order of the help."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code.

    Args:
        arguments: the command line without the program's name; None for the process's own.
    """
    with lasting_streams() as (output, _):
        code = _carry_out(sys.argv[1:] if arguments is None else arguments)
        output.flush()
        if output.trouble:
            _complain(f"standard output cannot be written ({output.trouble})")
            return code or FAILED
        return code


def _carry_out(arguments: Sequence[str]) -> int:
    """Run one command and return its exit code; every error is told."""
    parser, names = make_parser()
    if "_ARGCOMPLETE" in os.environ:
        completion.offer(parser)  # a shell is asking; leaves the process
    given = parse(parser, names, arguments)
    command: Callable[[argparse.Namespace], int] | None = getattr(given, "command", None)
    if command is None:
        parser.print_help()
        return USAGE
    try:
        return command(given)
    except InputError as error:
        _complain(str(error))
        return USAGE
    except IclError as error:
        _complain(str(error))
        return FAILED
    except KeyboardInterrupt:
        _complain("interrupted")
        return INTERRUPTED
    except Exception:
        traceback.print_exc()
        _complain("this is a fault of icl_bench, please report it")
        return INTERNAL


def _complain(message: str) -> None:
    print(escape_ci_commands(f"icl-bench: {message}"), file=sys.stderr)


def make_parser() -> tuple[Parser, list[str]]:
    """Return the parser of the whole command line and the names of its commands."""
    parser = Parser(prog="icl-bench", description=DESCRIPTION, epilog=EXIT_CODES)
    parser.add_argument("--version", action="version", version=f"icl-bench {__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND")
    for command in COMMANDS:
        command.add_parser(commands)
    return parser, list(commands.choices)


if __name__ == "__main__":
    sys.exit(main())
