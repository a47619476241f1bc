"""The baseline of a run: what it is compared with, and where it is saved as one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from icl_bench.comparing import Comparison, Limit, check_limits, compare, parse_limit
from icl_bench.errors import IclError, SettingsError
from icl_bench.options import refuse_url
from icl_bench.records.reading import read_record
from icl_bench.records.record import RunRecord
from icl_bench.records.writing import write_atomically
from icl_bench.render.writing.logs import escape_ci_commands
from icl_bench.render.writing.outlet import Outlet
from icl_bench.render.writing.text import printable
from icl_bench.reports.places import check_file

if TYPE_CHECKING:
    from icl_bench.suite import Suite

REPORT = "comparison.md"


class Baseline:
    """What the options about a baseline ask for, under pytest and of `icl-bench run`.

    Args:
        record: what the run is compared with; None for nothing.
        limits: how much worse metrics may get.
        target: where the run is saved as a baseline; None for nowhere.
        strict: whether what cannot be told counts as worse.
        deselected: whether checks may be left out of the run on purpose, by a choice of tests.
        prefix: what the options' names begin with, for messages.
    """

    def __init__(
        self,
        record: RunRecord | None,
        limits: Sequence[Limit],
        target: Path | None,
        strict: bool,
        *,
        deselected: bool = True,
        prefix: str = "--icl-",
    ) -> None:
        self._record, self._limits, self._target, self._strict = record, limits, target, strict
        self._deselected, self._prefix = deselected, prefix
        self.comparison: Comparison | None = None
        self._lines: list[str] = []
        self._trouble: str | None = None

    def judge(self, records: Sequence[RunRecord], folder: Path | None) -> bool:
        """Compare the run's record and save it; return whether nothing got worse or went wrong.

        Args:
            records: of the run; one, or none where nothing was measured.
            folder: the model's report folder, for the comparison; None to write none.
        """
        if not records or records[0].status == "interrupted":
            why = "nothing was measured" if not records else "the run was interrupted"
            self._trouble = f"not compared and not saved: {why}"
            return False
        troubles = []
        if self._record is not None:
            troubles.append(_trouble_of(lambda: self._compare(records[0], folder)))
        if self._target is not None and (self._record is None or self.comparison is not None):
            troubles.append(_trouble_of(lambda: self._save(records[0])))
        self._trouble = "; ".join(filter(None, troubles)) or None
        if self._trouble:
            return False
        return self.comparison is None or self.comparison.passes(self._strict)

    def _compare(self, record: RunRecord, folder: Path | None) -> None:
        from icl_bench.render.comparison import comparison_markdown

        assert self._record is not None
        self.comparison = compare(self._record, record, self._limits, deselected=self._deselected)
        if folder is not None:
            path = write_atomically(
                folder / REPORT, comparison_markdown(self.comparison, self._strict)
            )
            self._lines.append(f"comparison: {path}")

    def _save(self, record: RunRecord) -> None:
        assert self._target is not None
        if self.comparison is not None and not self.comparison.passes(self._strict):
            self._lines.append(f"not saved as a baseline, because it is worse: {self._target}")
            return
        if record.status != "complete":
            raise SettingsError(
                f"{self._prefix}save-baseline: {self._target} was not written: the run is "
                f"{record.status}, and checks that are missing from a baseline would never be "
                "missed"
            )
        record.write(self._target)
        self._lines.append(f"saved as a baseline: {self._target}")

    def texts(self, outlet: Outlet) -> list[str]:
        """Return what the comparison found and where things were written, for a terminal.

        Args:
            outlet: what text for the terminal has to keep to.
        """
        texts = []
        if self.comparison is not None:
            from icl_bench.render.comparison import comparison_text

            texts.append(
                comparison_text(
                    self.comparison, **outlet.options(), inconclusive_fails=self._strict
                )
            )
        return [*map(escape_ci_commands, texts), *map(printable, self._lines)]

    @property
    def trouble(self) -> str | None:
        """Why nothing was compared or saved, where that went wrong."""
        return self._trouble


def _trouble_of(work: Callable[[], None]) -> str | None:
    """Do something; return in words what went wrong."""
    try:
        work()
    except IclError as error:
        return str(error)
    except OSError as error:
        return f"{error.filename}: cannot be written ({error.strerror or error})"
    return None


def read_baseline(
    source: str | None,
    target: str | None,
    limits: Sequence[str],
    *,
    suites: Sequence[Suite],
    models: int,
    strict: bool,
    folder: Path,
    prefix: str = "--icl-",
    deselected: bool = True,
) -> Baseline | None:
    """Read what the command line says of a baseline, before anything is measured.

    Returns None where it says nothing.

    Args:
        source: the record to compare with; None for none.
        target: where the run is saved; None for nowhere.
        limits: METRIC=AMOUNT, as given.
        suites: the suites of the run.
        models: how many models it has.
        strict: whether what cannot be told counts as worse.
        folder: the working directory.
        prefix: what the options' names begin with, for messages.
        deselected: whether checks may be left out of the run on purpose.

    Raises:
        InputError: a file is not there, is no record, or cannot be written; an option is wrong.
    """
    subject = "--icl-model" if prefix == "--icl-" else "model"
    for option, value in (("baseline", source), ("save-baseline", target)):
        if value and models != 1:
            raise SettingsError(
                f"{prefix}{option} is for exactly one {subject}; this run has {models}"
            )
    if limits and not source:
        raise SettingsError(f"{prefix}limit needs {prefix}baseline=FILE")
    if not source and not target:
        return None
    parsed = [parse_limit(text) for text in limits]
    record = None
    if source:
        refuse_url(source, f"{prefix}baseline")
        record = read_record(folder / source)
        check_limits(parsed, record)
        names = {suite.name for suite in record.suites}
        if not names & {suite.name for suite in suites}:
            raise SettingsError(
                f"{prefix}baseline={source} holds suite {', '.join(sorted(names))}; this run has "
                f"{', '.join(suite.name for suite in suites) or 'none'}"
            )
    path = check_file(target, f"{prefix}save-baseline", folder) if target else None
    return Baseline(record, parsed, path, strict, deselected=deselected, prefix=prefix)
