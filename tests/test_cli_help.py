"""Help texts at any width: nothing is lost, and examples can be copied into a shell."""

from __future__ import annotations

import re
import shlex

import pytest

from icl_bench import cli
from icl_bench.cli import make_parser
from icl_bench.commands.helping import fold_help

DESCRIPTIONS = {"": cli.DESCRIPTION} | {
    command.__name__: command.DESCRIPTION for command in cli.COMMANDS
}


@pytest.mark.parametrize("width", [60, 80, 100])
def test_help_fits_the_terminal(monkeypatch: pytest.MonkeyPatch, width: int) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    parser, names = make_parser()
    (commands,) = (action for action in parser._actions if action.choices)
    for name in names:
        text = commands.choices[name].format_help()  # type: ignore[index]
        assert max(map(len, text.splitlines())) <= width, name
    assert max(map(len, parser.format_help().splitlines())) <= width


@pytest.mark.parametrize("name", DESCRIPTIONS)
@pytest.mark.parametrize("width", [40, 58, 78])
def test_no_word_of_a_description_is_lost(name: str, width: int) -> None:
    text = DESCRIPTIONS[name]
    folded = "\n".join(fold_help(text, width))
    assert folded.replace("\\\n", " ").split() == text.split()


def read_commands(lines: list[str]) -> list[list[str]]:
    """Commands as a shell reads them; what is told of one after three blanks is left out."""
    text = re.sub(r" +\\\n +", " ", "\n".join(lines))
    shown = [line for line in text.splitlines() if line.startswith("  icl-bench")]
    return [shlex.split(re.sub(r"(?<=\S)   .*", "", line)) for line in shown]


@pytest.mark.parametrize("name", DESCRIPTIONS)
@pytest.mark.parametrize("width", [40, 58])
def test_an_example_over_several_lines_is_the_same_command(name: str, width: int) -> None:
    whole = read_commands(DESCRIPTIONS[name].splitlines())
    assert whole and read_commands(fold_help(DESCRIPTIONS[name], width)) == whole


def test_a_word_and_its_meaning_hang_together() -> None:
    assert fold_help("exit codes:\n  4  wrong usage: nothing was done", 20) == [
        "exit codes:",
        "  4  wrong usage:",
        "     nothing was",
        "     done",
    ]


def test_on_a_wide_terminal_examples_stay_as_they_were_written() -> None:
    for text in DESCRIPTIONS.values():
        examples = [line for line in text.splitlines() if line.startswith("  ")]
        assert [line for line in fold_help(text, 118) if line.startswith("  ")] == examples
