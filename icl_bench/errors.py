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
from collections.abc import Iterable


class IclError(Exception):
    """Base of all errors raised on purpose; `str(error)` is the whole message for the user."""


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
