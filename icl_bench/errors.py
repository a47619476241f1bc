"""Every exception that icl_bench raises on purpose.

IclError                    one message, fit to be shown as it is
 +-- InputError             the user's input is wrong: nothing is run, exit 4
 |    +-- SuiteError        a suite file; the message starts with file:line:column
 |    +-- SpecError         a model spec, or what it names
 |    +-- SettingsError     an option's value, or an argument of the Python API
 |    '-- RecordError       a results file that cannot be read
 +-- ModelError             the model failed: its items are errors, the rest goes on
 |    '-- UnsupportedModel  no attention path gives right numbers on this model
 +-- MeasurementError       a measurement failed on a model that works: its items are errors
 +-- NotMeasurable          this model has nothing to measure here: its items are skipped
 '-- TrainingGateError      a gate of a training run does not hold
"""

from __future__ import annotations

import difflib
import unicodedata
from collections.abc import Iterable

LONGEST = 2000
"""Characters of a line of a message; of a longer one the start and the end are shown."""


class IclError(Exception):
    """Base of all errors raised on purpose; `str(error)` is the whole message for the user."""

    def __init__(self, message: str = "") -> None:
        super().__init__("\n".join(map(defuse, str(message).split("\n"))))


class InputError(IclError):
    """The user's input is wrong; found before anything is measured."""


class SuiteError(InputError):
    """A suite file is wrong; the message names file, line and column."""


class SpecError(InputError):
    """A model spec is malformed, or what it names does not exist or is not a model."""


class SettingsError(InputError):
    """An option or an argument has a value that cannot be used."""


class RecordError(InputError):
    """A results file is missing, broken, or of a schema this version cannot read."""


class ModelError(IclError):
    """A model could not be loaded or run."""


class UnsupportedModel(ModelError):
    """No attention path gives the right numbers on this model; the message says what was tried."""


class MeasurementError(IclError):
    """A measurement failed for a reason that lies in the combination of suite and model."""


class NotMeasurable(IclError):
    """The quantity does not exist on this model; carries the reason for the skip."""


class TrainingGateError(IclError):
    """A gate of a training run does not hold; the message says which, when and by what numbers."""


def defuse(text: str) -> str:
    """Return text as one line of bearable length that cannot act on a terminal.

    Names in a message may come from a suite, a model's files or a record. Control and
    direction-changing characters are written as in Python's own strings.

    Args:
        text: a message, or a part of one.
    """
    if not text.isprintable():
        text = "".join(
            sign
            if sign.isprintable() or unicodedata.category(sign) == "Zs"
            else sign.encode("unicode_escape").decode("ascii")
            for sign in text
        )
    if len(text) > LONGEST:
        # Short enough to stay as it is when it is defused again, in another process.
        left_out = len(text) - LONGEST + 50
        text = f"{text[: LONGEST - 250]} ... ({left_out:,} characters) ... {text[-200:]}"
    return text


def nearest(name: str, valid: Iterable[str]) -> str:
    """Return a hint that names the valid name closest to `name`, or lists all of them.

    Args:
        name: what the user wrote.
        valid: the names that would be accepted.
    """
    names = sorted(valid)
    close = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    if close:
        return f"did you mean {close[0]!r}?"
    return "valid names: " + ", ".join(names) if names else "no name is valid here"
