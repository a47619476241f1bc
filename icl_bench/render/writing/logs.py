"""Text in the log of a CI job, where some lines are orders to the machine that reads it."""

from __future__ import annotations

import re

_ORDERS = re.compile(r"##(?=(?:vso|teamcity)?\[)")
_AT_START = re.compile(r"^(\s*):(?=:)", re.MULTILINE)


def escape_ci_commands(text: str) -> str:
    """Return text of which no line is a command to a CI runner.

    GitHub's runner obeys lines that begin with `::` and `##[` anywhere in one, Azure's `##vso[`,
    TeamCity's `##teamcity[`. A name that holds these, or that is wrapped just before them, must not
    give orders. A sign is replaced by one as wide.

    Args:
        text: one line or several, as it is about to be printed.
    """
    return _ORDERS.sub("#·", _AT_START.sub(r"\1·", text))
