"""Report formats that other packages add: loaded and checked before anything is measured."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

from icl_bench import extensions
from icl_bench.errors import SettingsError
from icl_bench.records.record import RunRecord

OWN = ("md", "html")
"""Suffixes of icl_bench's own reports."""


@dataclass(frozen=True)
class AddedReport:
    """A report format of another package.

    Args:
        file: name of the file that it writes.
        write: returns the file's text.
        told: what messages call it.
    """

    file: str
    write: Callable[[RunRecord], str]
    told: str

    def make(self, record: RunRecord, troubles: list[str]) -> str | None:
        """Return the report's text, or None and add to the troubles why there is none.

        Args:
            record: the run.
            troubles: what went wrong so far.
        """
        try:
            text = self.write(record)
            if not isinstance(text, str):
                raise TypeError(f"it returned {type(text).__name__}, not text")
        except Exception as error:
            why = " ".join(f"{type(error).__name__}: {error}".split())
            model = record.model.label
            troubles.append(f"{self.told}: {self.file} is not written for {model}: {why}")
            return None
        return text


def added_reports() -> list[AddedReport]:
    """Return the report formats of all installed packages, by name.

    Raises:
        SettingsError: one has the name or the suffix of another, cannot be loaded, or is none.
    """
    reports: dict[str, AddedReport] = {}
    for name in extensions.names(extensions.REPORTS):
        found = extensions.find(extensions.REPORTS, name, OWN, wanted=("suffix", "write"))
        assert found is not None
        told = f"report {name!r} of package {found.package} {found.version}"
        suffix = str(found.object.suffix).lstrip(".")
        if not re.fullmatch(r"\w[\w.-]*", suffix):
            raise SettingsError(f"{told}: {found.object.suffix!r} is no suffix of a file")
        if suffix in OWN or suffix in reports:
            other = reports[suffix].told if suffix in reports else "icl_bench"
            raise SettingsError(f"{told} writes report.{suffix}, and so does {other}")
        if not callable(found.object.write):
            raise SettingsError(f"{told}: its 'write' is no function of a record")
        reports[suffix] = AddedReport(f"report.{suffix}", found.object.write, told)
    return list(reports.values())
