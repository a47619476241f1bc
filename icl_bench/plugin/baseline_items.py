"""Items of the comparison with a baseline: of each check, of scored heads, of each suite."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from icl_bench.ci.junit import comparison_properties
from icl_bench.plugin.items import CheckFailed, SuiteItem
from icl_bench.render.parts import PartVerdict
from icl_bench.render.writing.text import printable

if TYPE_CHECKING:
    from icl_bench.comparing import Part
    from icl_bench.suite import Suite


class BaselineItem(SuiteItem):
    """One part of the comparison with a baseline.

    What it needs is measured in the set-up phase, where no earlier item has done it.

    Args:
        part: which part.
    """

    def __init__(self, *, suite: Suite, part: Part, **rest: Any) -> None:
        super().__init__(suite=suite, line=suite.lines.get(part.name, 1), **rest)
        self.part = part
        self._verdict = PartVerdict("pass")

    def setup(self) -> None:
        """Measure what is compared, and compare."""
        if self.config.getoption("setupplan", False):
            return
        assert self.slug is not None
        self._verdict, found = self.icl.judge_part(self.slug, self.part)
        self._payload = self.icl.pack(self.slug, part=self.part)
        public = self.icl.job.specs[self.slug].public
        self.state(comparison_properties(self.part.suite, found, self._verdict, public))
        if self._verdict.state == "skipped":
            pytest.skip(printable(self._verdict.line))

    def reportinfo(self) -> tuple[Path, int, str]:
        """Where pytest says the item is; the space keeps it from showing `.` as `::`."""
        path, line, name = super().reportinfo()
        return path, line, f"{name} "

    def runtest(self) -> None:
        """Fail where something is worse than the baseline, or gone."""
        if self._verdict.state == "fail":
            raise CheckFailed(printable(self._verdict.line))
