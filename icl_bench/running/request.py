"""What is asked of one run, by pytest's options, a command's or arguments of Python."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from icl_bench.errors import SettingsError
from icl_bench.options import OPTIONS, RunOptions, check_choice, read_int

if TYPE_CHECKING:
    from icl_bench.models.model import Model
    from icl_bench.render.html.page import Plotly
    from icl_bench.suite import Suite


@dataclass(frozen=True)
class Request:
    """What is asked of one run.

    Args:
        models: specs as given, or one open model.
        suites: the suites, read.
        options: how models are opened and run.
        jobs: processes that measure, where there are several models or checkpoints.
        report_dir: folder of the reports; None to write none.
        plotly: whether each HTML page carries the charting script, or the report folder does once.
        baseline: record to compare with; None for nothing.
        save_baseline: file that the run is saved to as a baseline; None for none.
        limit: METRIC=AMOUNT, as given.
        require_paired: whether a metric fails that could be paired with the baseline and is not.
        code_quality: file for GitLab's Code Quality report; None for none.
        openmetrics: file for checked metrics as OpenMetrics text; None for none.
        inconclusive: `fail` or `warn`.
        folder: what relative paths are relative to.
        prefix: what stands before the options' names in messages; empty for arguments of Python.
        tells_ci: whether a CI that the run finds itself in is told.
    """

    models: Sequence[str | Model]
    suites: Sequence[Suite]
    options: RunOptions = field(default_factory=RunOptions)
    jobs: int = 1
    report_dir: str | None = None
    plotly: Plotly = "inline"
    baseline: str | None = None
    save_baseline: str | None = None
    limit: Sequence[str] = ()
    require_paired: bool = False
    code_quality: str | None = None
    openmetrics: str | None = None
    inconclusive: str = "fail"
    folder: Path = Path()
    prefix: str = "--"
    tells_ci: bool = True

    @classmethod
    def read(
        cls, get: Callable[[str], Any], suites: Sequence[Suite], *, prefix: str, **more: Any
    ) -> Request:
        """Make a request of what was given on a command line.

        Args:
            get: returns what was given for the `dest` of an option.
            suites: the suites, read.
            prefix: what stands before the options' names.
            more: the rest of the fields.

        Raises:
            SettingsError: an option has a value that cannot be used.
        """
        for name, option in OPTIONS.items():
            if option.choices:
                check_choice(name, get(option.dest), prefix)
        return cls(
            models=list(dict.fromkeys(get("model") or [])),
            suites=suites,
            options=RunOptions.read(get, prefix),
            jobs=read_jobs(get("jobs"), f"{prefix}jobs"),
            report_dir=get("report_dir"),
            plotly=get("plotly"),
            baseline=get("baseline"),
            save_baseline=get("save_baseline"),
            limit=get("limit") or [],
            require_paired=bool(get("require_paired")),
            code_quality=get("code_quality"),
            openmetrics=get("openmetrics"),
            inconclusive=get("inconclusive"),
            prefix=prefix,
            **more,
        )

    @property
    def strict(self) -> bool:
        """Whether what is inconclusive fails the run."""
        return self.inconclusive == "fail"

    @property
    def reports(self) -> Path | None:
        """The report folder, where there is one."""
        # A test may change the working directory before the reports are written.
        return None if self.report_dir is None else self.folder / self.report_dir

    def name_of(self, option: str) -> str:
        """Return what an option is called where the request was made.

        Args:
            option: its name in the table of options.
        """
        return f"{self.prefix}{option}" if self.prefix else OPTIONS[option].dest

    def file(self, option: str) -> Path | None:
        """Return the file that an option names, if it does.

        Args:
            option: its name in the table of options.
        """
        given = getattr(self, OPTIONS[option].dest)
        return self.folder / given if given else None


def read_jobs(given: str | int, option: str) -> int:
    """Return how many processes are to measure.

    Args:
        given: what was given.
        option: what it was given for, as the message names it.

    Raises:
        SettingsError: it is no number of processes.
    """
    jobs = read_int(str(given), option)
    if jobs < 1:
        raise SettingsError(f"{option}={jobs}: must be at least 1")
    return jobs
