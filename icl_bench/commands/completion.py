"""`icl-bench completion`: what makes a shell complete commands, options, suites and models."""

from __future__ import annotations

import argparse
import sys
from typing import Any

from icl_bench.commands.parsing import OK, Parser, add_command, completed_by, names_of, one_of

SHELLS = ("bash", "zsh", "fish")

DESCRIPTION = """\
Print a shell script that completes icl-bench: commands, options, shipped suites, built-in models
and files.

  eval "$(icl-bench completion bash)"        # in ~/.bashrc
  eval "$(icl-bench completion zsh)"         # in ~/.zshrc, after compinit
  icl-bench completion fish > ~/.config/fish/completions/icl-bench.fish"""


def add_parser(commands: Any) -> None:
    """Add the command to the command line.

    Args:
        commands: what `add_subparsers` returned.
    """
    parser = add_command(
        commands, "completion", "print a shell script that completes icl-bench", DESCRIPTION
    )
    shell = parser.add_argument(
        "shell", metavar="bash|zsh|fish", type=one_of(*SHELLS), help="the shell"
    )
    completed_by(shell, names_of(*SHELLS))
    parser.set_defaults(command=run)


def run(given: argparse.Namespace) -> int:
    """Carry the command out; return its exit code.

    Args:
        given: the parsed command line.
    """
    from argcomplete.shell_integration import shellcode

    sys.stdout.write(shellcode(["icl-bench"], shell=given.shell) + "\n")
    return OK


def offer(parser: Parser) -> None:
    """Answer a shell that asks how the line goes on, and leave the process.

    Args:
        parser: of the whole command line.
    """
    import argcomplete

    argcomplete.autocomplete(parser, always_complete_options="long")
