"""The items of a suite: one per check and model, or per measurement where there are no checks."""

from __future__ import annotations

import os
import shlex
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from icl_bench.ci.junit import PREFIX, case_properties
from icl_bench.plugin.ids import PAYLOAD, SESSION
from icl_bench.render.writing.logs import escape_ci_commands
from icl_bench.render.writing.text import printable

if TYPE_CHECKING:
    from icl_bench.plugin.session import IclSession
    from icl_bench.records.parts import Check
    from icl_bench.suite import CheckSpec, QuizSpec, Suite


class InconclusiveWarning(UserWarning):
    """A check's interval straddles its threshold, and the run was told to let that pass."""


class CheckFailed(Exception):
    """A check did not hold; shown as its message, without a traceback."""


class CheckBroken(Exception):
    """A check could not be judged because model or measurement failed."""


class SuiteItem(pytest.Item):
    """An item of a suite, on one model: what it measures travels on its test report.

    Args:
        suite: the suite.
        slug: the model; None without one.
        line: of the suite's file that it stands at.
    """

    def __init__(self, *, suite: Suite, slug: str | None, line: int = 1, **rest: Any) -> None:
        super().__init__(**rest)
        self.suite, self.slug, self._line = suite, slug, line
        self._payload: str | None = None
        self.add_marker(pytest.mark.icl)

    @property
    def icl(self) -> IclSession:
        """The run's state."""
        return self.config.stash[SESSION]

    def complete_report(self, report: pytest.TestReport, call: pytest.CallInfo[None]) -> None:
        """Add what was measured to the item's next report, and leave our own code out of it."""
        if self._payload:
            setattr(report, PAYLOAD, self._payload)
            self._payload = None
        if call.excinfo and call.excinfo.errisinstance(CheckBroken):
            report.longrepr = printable(str(call.excinfo.value))
        elif isinstance(report.longrepr, tuple):
            report.longrepr = (str(self.path), None, report.longrepr[2])  # type: ignore[assignment]

    def state(self, properties: Sequence[tuple[str, str]]) -> None:
        """Let JUnit XML tell what is known of the item.

        Args:
            properties: name and value of each; they replace those of an earlier attempt, as
                another plugin may run the item again.
        """
        others = [one for one in self.user_properties if not one[0].startswith(PREFIX)]
        self.user_properties = [*others, *properties]

    def repr_failure(self, excinfo: pytest.ExceptionInfo[BaseException], style: Any = None) -> Any:
        """Show the message alone: where in our code it was raised tells the user nothing."""
        if isinstance(excinfo.value, (CheckFailed, InconclusiveWarning)):
            return str(excinfo.value)
        return super().repr_failure(excinfo, style)

    def reportinfo(self) -> tuple[Path, int, str]:
        """Where pytest says the item is: under its own id, also when it lies elsewhere."""
        return self.config.rootpath / self.nodeid.split("::")[0], self._line - 1, self.name


class MeasurementItem(SuiteItem):
    """One measurement of a suite without checks; it passes when it could be taken.

    Args:
        key: of the measurement in records.
    """

    def __init__(self, *, key: str, **rest: Any) -> None:
        super().__init__(**rest)
        self.key = key

    def setup(self) -> None:
        """Take the measurement."""
        if self.slug is None:
            pytest.skip("no model given: use --icl-model=SPEC")
        if self.config.getoption("setupplan", False):
            return
        taken = self.icl.run_of(self.slug).outcome_of(self.key)
        self._payload = self.icl.pack(self.slug)
        reason = taken.reason or "no reason was recorded"
        if taken.status == "skipped":
            pytest.skip(printable(reason))
        if taken.status == "error":
            raise CheckBroken(escape_ci_commands(reason))

    def runtest(self) -> None:
        """Pass: there is nothing to judge."""


class CheckItem(SuiteItem):
    """One check on one model.

    Measuring happens in the set-up phase, so that a model or a measurement that fails is an
    error, and only a check that does not hold is a failure.
    """

    def __init__(self, *, suite: Suite, spec: CheckSpec | QuizSpec, **rest: Any) -> None:
        super().__init__(suite=suite, line=suite.lines.get(spec.id, 1), **rest)
        self.spec = spec
        self.check: Check | None = None

    def setup(self) -> None:
        """Measure what the check needs."""
        if self.slug is None:
            pytest.skip("no model given: use --icl-model=SPEC")
        if self.config.getoption("setupplan", False):
            return
        check = self.icl.run_of(self.slug).check(self.suite.name, self.spec.id)
        self._payload = self.conclude(check)
        if check.verdict == "skipped":
            pytest.skip(printable(check.reason or "skipped"))
        if check.verdict == "error":
            raise CheckBroken(escape_ci_commands(check.reason or "no reason was recorded"))

    def conclude(self, check: Check) -> str:
        """Take in the verdict, and return it with what was measured as text to send.

        Args:
            check: judged.
        """
        assert self.slug is not None
        self.check = check
        public = self.icl.job.specs[self.slug].public
        self.state(case_properties(check, public))
        return self.icl.pack(self.slug, (self.suite.name, self.spec.id))

    def runtest(self) -> None:
        """Pass or fail by the verdict."""
        assert self.check is not None
        if self.check.verdict == "inconclusive" and not self.icl.job.request.strict:
            warning = InconclusiveWarning(printable(f"{self.name}: {self.check.reason}"))
            warnings.warn_explicit(warning, None, str(self.path), 1)
        elif self.check.verdict in ("fail", "inconclusive"):
            raise CheckFailed(self.explain())

    def explain(self) -> str:
        """What came out, what was asked and measured, and how to run this check alone."""
        check = self.check
        assert check is not None
        # pytest's summary shows the first line.
        lines = [f"{check.verdict}: {check.reason}"]
        if check.description:
            lines.append(f"  asks:      {check.description}")
        if check.question:
            lines.append(f"  question:  {check.question}")
            lines += [
                f"  {'expected' if key == check.expected else 'option  '}   ({key}) {text}"
                for key, text in (check.options or {}).items()
            ]
        lines.append(f"  measured:  {check.metric} of {check.measurement}")
        lines.append(f"  run alone: {self.command()}")
        return printable("\n".join(lines))

    def command(self) -> str:
        """The command that runs this check alone, under the options that can change a number."""
        assert self.slug is not None
        words = ["pytest", f"--icl-model={self.icl.job.specs[self.slug].given}"]
        for option in ("device", "dtype", "seed"):
            value = self.config.getoption(f"icl_{option}")
            if value not in (None, "auto"):
                words.append(f"--icl-{option}={value}")
        if self.suite.shipped:
            words += [f"--icl-suite={self.suite.name}", "-k", self.spec.id]
        else:
            file = os.path.relpath(self.path, self.config.invocation_params.dir)
            words.append(f"{file}::{self.spec.id}")
        return shlex.join(words)


def group_by_model(items: list[pytest.Item], slugs: Sequence[str]) -> None:
    """Order what needs a model by model; other tests keep their places.

    Args:
        items: all collected items, changed in place.
        slugs: the models in the order given.
    """
    places = [i for i, item in enumerate(items) if _slug_of(item) in slugs]
    # Tests come before checks: their fixture then lets go of the model before in time.
    chosen = sorted(
        (items[i] for i in places),
        key=lambda item: (slugs.index(_slug_of(item) or ""), isinstance(item, SuiteItem)),
    )
    for place, item in zip(places, chosen):
        items[place] = item


def _slug_of(item: pytest.Item) -> str | None:
    """The model that an item needs: a check's, or that of the `icl_model` fixture."""
    if isinstance(item, SuiteItem):
        return item.slug
    params = getattr(getattr(item, "callspec", None), "params", {})
    return params.get("icl_model")
