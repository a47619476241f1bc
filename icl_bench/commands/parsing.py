"""How the command line is read: every mistake is one message, with the nearest valid name."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

from icl_bench.commands.choices import complete_suites
from icl_bench.commands.helping import HelpFormatter
from icl_bench.errors import nearest
from icl_bench.options import OPTIONS, declare
from icl_bench.render.writing.logs import escape_ci_commands

OK, FAILED, INTERRUPTED, INTERNAL, USAGE = range(5)
"""Exit codes, the same for every command."""

EXIT_CODES = """\
exit codes:
  0  success
  1  a check failed, something got worse, one of several inputs was broken, or the result \
could not be written
  2  interrupted
  3  an internal error of icl-bench
  4  wrong usage: nothing was done"""

Completer = Callable[..., Sequence[str]]


class Parser(argparse.ArgumentParser):
    """Takes no abbreviations, no option twice, and ends in exit code 4 on a mistake."""

    def __init__(self, **rest: Any) -> None:
        rest.setdefault("allow_abbrev", False)
        rest.setdefault("formatter_class", HelpFormatter)
        super().__init__(**rest)
        self.register("action", None, _Once)
        self.register("action", "store", _Once)

    def error(self, message: str) -> NoReturn:
        """Print one message and leave with the exit code of wrong usage."""
        self.exit(
            USAGE, escape_ci_commands(f"icl-bench: {message} (see {self.prog} --help)") + "\n"
        )


class _Once(argparse.Action):
    """Stores a value, and refuses a second one: which of them was meant?"""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: Any,
        option_string: str | None = None,
    ) -> None:
        if option_string is not None:
            given = namespace.__dict__.setdefault("given_once", set())
            if self.dest in given:
                parser.error(f"{option_string} is given twice")
            given.add(self.dest)
        setattr(namespace, self.dest, values)


def add_command(commands: Any, name: str, help: str, description: str) -> Parser:
    """Add a command whose help ends in the exit codes, and return its parser.

    Args:
        commands: what `add_subparsers` returned.
        name: of the command.
        help: one line for the list of commands.
        description: what it is for, with two examples.
    """
    parser: Parser = commands.add_parser(
        name, help=help, description=description.rstrip(), epilog=EXIT_CODES
    )
    parser.set_defaults(parser=parser)
    return parser


def parse(parser: Parser, commands: Sequence[str], arguments: Sequence[str]) -> argparse.Namespace:
    """Read the command line.

    A mistake prints one message and leaves by SystemExit with code 4.

    Args:
        parser: of the whole program.
        commands: names of its commands.
        arguments: the words after the program's name.
    """
    first = next((word for word in arguments if not word.startswith("-")), None)
    if first is not None and first not in commands:
        parser.error(f"no command is called {first!r}; {nearest(first, commands)}")
    given, unknown = parser.parse_known_args(arguments)
    if unknown:
        own: argparse.ArgumentParser = getattr(given, "parser", parser)
        options = [word for word in unknown if word.startswith("-")]
        several = [a for a in own._actions if a.nargs in ("+", "*") and not a.option_strings]
        if options or not several:
            _refuse(own, (options or unknown)[0])
        # argparse takes such words in one stretch only, and leaves those after an option.
        taken = getattr(given, several[0].dest)
        before = [] if taken is several[0].default else taken
        setattr(given, several[0].dest, [*before, *unknown])
    return given


def _refuse(parser: argparse.ArgumentParser, word: str) -> NoReturn:
    """Refuse a word that no option or argument takes."""
    if not word.startswith("-"):
        parser.error(f"{word!r} is one argument too many")
    option = word.split("=")[0]
    known = [text for action in parser._actions for text in action.option_strings]
    parser.error(f"no option is called {option!r}; {nearest(option, known)}")


def one_of(*names: str) -> Callable[[str], str]:
    """Return a type for arguments that take one of these names.

    Args:
        names: the valid ones.
    """

    def read(text: str) -> str:
        if text not in names:
            raise argparse.ArgumentTypeError(f"{text!r}: {nearest(text, names)}")
        return text

    return read


def completed_by(action: argparse.Action, completer: Completer) -> None:
    """Say what a shell offers for an argument.

    Args:
        action: the argument.
        completer: called with keyword arguments `prefix`, `parsed_args` and others; returns words.
    """
    action.completer = completer  # type: ignore[attr-defined]


def names_of(*names: str) -> Completer:
    """Return a completer that offers fixed names.

    Args:
        names: the names.
    """
    return lambda **_: names


def add_options(parser: argparse.ArgumentParser, *names: str, suites: str = "core") -> None:
    """Add options of a run to a command.

    Args:
        parser: of the command.
        names: which, as the table of options calls them.
        suites: the command's default, for its help.
    """
    for name, action in declare(parser.add_argument, "--", names).items():
        if values := OPTIONS[name].choices:
            action.type = one_of(*values)
            completed_by(action, names_of(*values))
        if name == "suite":
            action.help = str(action.help).replace("default: core", f"default: {suites}")
            completed_by(action, complete_suites)


def add_color(parser: argparse.ArgumentParser) -> None:
    """Add `--color` to a command.

    Args:
        parser: of the command.
    """
    action = parser.add_argument(
        "--color",
        metavar="auto|yes|no",
        type=one_of("auto", "yes", "no"),
        default="auto",
        help="auto (default: on a terminal, unless NO_COLOR is set), yes or no",
    )
    completed_by(action, names_of("auto", "yes", "no"))
