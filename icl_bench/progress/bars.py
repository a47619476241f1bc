"""Progress of the `icl-bench` command, drawn by rich: a bar for the model, one for the task."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from typing import IO, Any

from icl_bench.progress.log import Log
from icl_bench.progress.progress_state import ProgressState
from icl_bench.progress.run import Display, RunProgress
from icl_bench.render.writing.outlet import redraws, wants_color
from icl_bench.render.writing.text import cut, one_line

_WIDEST = 44
"""Columns of a bar's text."""


class Bars:
    """Two lines that are redrawn while something is measured, and erased after.

    Args:
        stream: a terminal.
        color: whether it takes colour.
    """

    wait = 0.1
    redraws = True

    def __init__(self, stream: IO[str], color: bool) -> None:
        self._stream, self._color = stream, color
        self._live: Any = None

    def show(self, state: ProgressState) -> None:
        """Draw what is going on."""
        begins = self._live is None
        if begins:
            self._make()
        model = state.place_in_run
        if state.measurement is not None:
            place = f"{state.number}/{state.measurements} {state.measurement}"
            model = f"{model}: {place}" if model else place
        self._live.update(
            self._model,
            description=cut(one_line(model or state.model), _WIDEST),
            completed=max(state.number - 1, 0),
            total=state.measurements or None,
            told=state.time_left,
        )
        self._live.update(
            self._task,
            description=cut(one_line(state.task or ""), _WIDEST),
            completed=state.done,
            total=state.total or None,
            told=state.share.strip(),
            visible=state.task is not None,
        )
        if begins:
            self._live.start()

    def clear(self) -> None:
        """Erase both lines."""
        if self._live is not None:
            self._live.stop()
            self._live = None

    def _make(self) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn

        console = Console(
            file=self._stream, force_terminal=True, no_color=not self._color, highlight=False
        )
        self._live = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=16),
            TextColumn("{task.fields[told]}", markup=False),
            console=console,
            transient=True,
            # What a model prints is not to land in another stream.
            redirect_stdout=sys.stdout.isatty(),
        )
        self._model = self._live.add_task("", total=None, told="")
        self._task = self._live.add_task("", total=None, told="", visible=False)


def command_progress(
    models: Sequence[str],
    color: str = "auto",
    earlier: Callable[[str], Mapping[str, float]] | None = None,
    stream: IO[str] | None = None,
) -> RunProgress:
    """Return the progress of a command, shown on standard error: bars, or lines in a log.

    Args:
        models: names of the models, in their order.
        color: auto, yes or no.
        earlier: as for `RunProgress`.
        stream: where it is shown; None for standard error.
    """
    stream = sys.stderr if stream is None else stream

    def write(line: str) -> None:
        print(line.strip(), file=stream, flush=True)

    log = not redraws(stream)
    display: Display = Log(write) if log else Bars(stream, wants_color(stream, color))
    return RunProgress(models, display, earlier, write if log else None)


def chosen_progress(
    wanted: bool | None,
    models: Sequence[str],
    earlier: Callable[[str], Mapping[str, float]] | None = None,
) -> RunProgress:
    """Return the progress of a function of Python, shown on standard error or nowhere.

    Args:
        wanted: whether it is shown; None for a terminal only.
        models: names of the models, in their order.
        earlier: as for `RunProgress`.
    """
    shown = redraws(sys.stderr) if wanted is None else wanted
    return command_progress(models, earlier=earlier) if shown else RunProgress()
