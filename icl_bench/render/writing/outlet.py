"""Where text goes: how wide it is, whether it takes colour and more than ASCII."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from typing import IO, Any

COLOR = ("auto", "yes", "no")
"""What `--color` may be, as pytest's."""


@dataclass(frozen=True)
class Outlet:
    """What text for one place has to keep to; the arguments of `summary` and its like.

    Args:
        width: columns of a line.
        color: whether ANSI codes for colour are wanted.
        unicode: whether more than ASCII can be shown.
    """

    width: int = 80
    color: bool = False
    unicode: bool = True

    def options(self) -> dict[str, Any]:
        """Return the fields as keyword arguments."""
        return {"width": self.width, "color": self.color, "unicode": self.unicode}


def outlet_of(stream: IO[str], color: str = "auto") -> Outlet:
    """Return what text for a command's output has to keep to.

    Args:
        stream: standard output or error.
        color: `--color`: auto, yes or no.
    """
    return Outlet(
        width=shutil.get_terminal_size((80, 24)).columns,
        color=wants_color(stream, color),
        unicode="utf" in (getattr(stream, "encoding", None) or "").lower(),
    )


def outlet_of_pytest(writer: Any) -> Outlet:
    """Return what text for pytest's terminal has to keep to; pytest has decided about colour.

    Args:
        writer: the terminal writer of pytest's reporter.
    """
    encoding = getattr(writer._file, "encoding", None) or "ascii"
    return Outlet(writer.fullwidth, writer.hasmarkup, "utf" in encoding.lower())


def wants_color(
    stream: IO[str], option: str = "auto", environ: Mapping[str, str] | None = None
) -> bool:
    """Whether output is coloured, by pytest's rules.

    In this order: the option, `PY_COLORS` (1 or 0), `NO_COLOR` and `FORCE_COLOR` (any value but
    the empty one), whether the stream is a terminal and `TERM` is not `dumb`.

    Args:
        stream: where output goes.
        option: auto, yes or no.
        environ: environment variables; None for the process's own.
    """
    environ = os.environ if environ is None else environ
    if option != "auto":
        return option == "yes"
    if environ.get("PY_COLORS") in ("0", "1"):
        return environ["PY_COLORS"] == "1"
    if environ.get("NO_COLOR"):
        return False
    if environ.get("FORCE_COLOR"):
        return True
    return redraws(stream, environ)


def redraws(stream: IO[str], environ: Mapping[str, str] | None = None) -> bool:
    """Whether what is written can be erased: on a terminal that knows how to.

    Args:
        stream: where output goes.
        environ: environment variables; None for the process's own.
    """
    environ = os.environ if environ is None else environ
    return stream.isatty() and environ.get("TERM") != "dumb"
