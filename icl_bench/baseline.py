"""The baseline of a pytest run: what it is compared with, and where it is saved as one."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from icl_bench.arguments import check_report_dir
from icl_bench.comparing import Comparison, Limit, compare, parse_limit
from icl_bench.errors import IclError, SettingsError
from icl_bench.record import RunRecord, write_atomically
from icl_bench.render.outlet import Outlet
from icl_bench.render.text import printable

if TYPE_CHECKING:
    from icl_bench.suite import Suite

REPORT = "comparison.md"


class Baseline:
    """What `--icl-baseline`, `--icl-save-baseline` and `--icl-limit` ask for.

    Args:
        record: what the run is compared with; None for nothing.
        limits: how much worse metrics may get.
        target: where the run is saved as a baseline; None for nowhere.
        strict: whether what cannot be told counts as worse.
    """

    def __init__(
        self,
        record: RunRecord | None,
        limits: Sequence[Limit],
        target: Path | None,
        strict: bool,
    ) -> None:
        self._record, self._limits, self._target, self._strict = record, limits, target, strict
        self._comparison: Comparison | None = None
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
        try:
            if self._record is not None:
                self._compare(records[0], folder)
            if self._target is not None:
                self._save(records[0])
        except (IclError, OSError) as error:
            self._trouble = str(error)
        if self._trouble:
            return False
        return self._comparison is None or self._comparison.passes(self._strict)

    def _compare(self, record: RunRecord, folder: Path | None) -> None:
        from icl_bench.render.comparison import comparison_markdown

        assert self._record is not None
        self._comparison = compare(self._record, record, self._limits, deselected=True)
        if folder is not None:
            path = write_atomically(
                folder / REPORT, comparison_markdown(self._comparison, self._strict)
            )
            self._lines.append(f"comparison: {path}")

    def _save(self, record: RunRecord) -> None:
        assert self._target is not None
        if self._comparison is not None and not self._comparison.passes(self._strict):
            self._lines.append(f"not saved as a baseline, because it is worse: {self._target}")
            return
        if record.status != "complete":
            raise SettingsError(
                f"--icl-save-baseline: {self._target} was not written: the run is {record.status}, "
                "and checks that are missing from a baseline would never be missed"
            )
        record.write(self._target)
        self._lines.append(f"saved as a baseline: {self._target}")

    def print_section(self, terminalreporter: Any, outlet: Outlet) -> None:
        """Print what the comparison found, in a section of its own.

        Args:
            terminalreporter: pytest's.
            outlet: what text for the terminal has to keep to.
        """
        terminalreporter.section("icl_bench: baseline")
        if self._comparison is not None:
            from icl_bench.render.comparison import comparison_text

            text = comparison_text(
                self._comparison,
                **outlet.options(),
                inconclusive_fails=self._strict,
            )
            terminalreporter.write_line(text)
        for line in self._lines:
            terminalreporter.write_line(printable(line))
        if self._trouble:
            terminalreporter.write_line(printable(self._trouble), red=True)


def read_baseline(config: pytest.Config, suites: Sequence[Suite], models: int) -> Baseline | None:
    """Read what the command line says of a baseline, before anything is measured.

    Returns None where it says nothing.

    Args:
        config: pytest's.
        suites: the suites of the run.
        models: how many models it has.

    Raises:
        InputError: a file is not there, is no record, or cannot be written; an option is wrong.
    """
    source, target = config.getoption("icl_baseline"), config.getoption("icl_save_baseline")
    texts = config.getoption("icl_limit") or []
    folder = config.invocation_params.dir
    for option, value in (("--icl-baseline", source), ("--icl-save-baseline", target)):
        if value and models != 1:
            raise SettingsError(f"{option} is for exactly one --icl-model; this run has {models}")
    if texts and not source:
        raise SettingsError("--icl-limit needs --icl-baseline=FILE")
    if not source and not target:
        return None
    limits = [parse_limit(text) for text in texts]
    record = None
    if source:
        from icl_bench.compare_command import read_side

        record = read_side(folder / source)
        names = {suite.name for suite in record.suites}
        if not names & {suite.name for suite in suites}:
            raise SettingsError(
                f"--icl-baseline={source} holds suite {', '.join(sorted(names))}; this run has "
                f"{', '.join(suite.name for suite in suites) or 'none'}"
            )
    path = None
    if target:
        path = folder / target
        if path.is_dir():
            raise SettingsError(f"--icl-save-baseline={target}: a folder; a file's name is needed")
        check_report_dir(path.parent, "--icl-save-baseline")
    strict = config.getoption("icl_inconclusive") == "fail"
    return Baseline(record, limits, path, strict)
