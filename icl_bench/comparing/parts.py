"""The parts of a comparison that can be asked for one by one: under pytest each is an item."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from icl_bench.records.keys import Key
from icl_bench.records.record import RunRecord

MARK = "@baseline"
"""What ends the name of a part, in ids of tests."""

Asked = Mapping[tuple[str, str], tuple[str, str]]
"""(suite, id) of a check -> measurement and metric that it reads."""


@dataclass(frozen=True)
class Part:
    """One part of a comparison.

    Args:
        suite: the suite that it belongs to.
        kind: `check`: a check's verdict and the metrics that it reads; `heads`: the heads of a
            measurement; `complete`: what is gone from the suite, and the metrics of the baseline
            that no check reads any more, or that only a limit names.
        name: id of the check, name of the measurement, or the suite's.
    """

    suite: str
    kind: Literal["check", "heads", "complete"]
    name: str

    @property
    def label(self) -> str:
        """Its name in ids of tests."""
        return (self.name if self.kind == "check" else f"{self.name}.{self.kind}") + MARK


class Owners:
    """Which part each difference between a baseline and a run belongs to.

    Args:
        baseline: what was before.
        asked: the checks of the run.
        suites: names of the run's suites.
    """

    def __init__(self, baseline: RunRecord, asked: Asked, suites: Sequence[str]) -> None:
        self._asked, self._suites = asked, suites
        self._readers: dict[tuple[str, str], set[tuple[str, str]]] = {}
        for check, read in asked.items():
            self._readers.setdefault(read, set()).add(check)
        for old in baseline.checks:
            if (old.suite, old.id) in asked:
                self._readers.setdefault((old.measurement, old.metric), set()).add(
                    (old.suite, old.id)
                )

    @classmethod
    def of_records(cls, baseline: RunRecord, record: RunRecord) -> Owners:
        """Return the owners for a record, which holds every check of its suites.

        Args:
            baseline: what was before.
            record: what is now.
        """
        asked = {(one.suite, one.id): (one.measurement, one.metric) for one in record.checks}
        return cls(baseline, asked, [suite.name for suite in record.suites])

    def of_check(self, suite: str, identity: str) -> set[Part]:
        """Return the part that a check of the baseline belongs to.

        Args:
            suite: its suite.
            identity: its id.
        """
        if (suite, identity) in self._asked:
            return {Part(suite, "check", identity)}
        return {self._complete(suite)}

    def of_metric(self, key: str, name: str) -> set[Part]:
        """Return the parts that a metric belongs to: those of all checks that read it.

        Args:
            key: `SUITE/MEASUREMENT`.
            name: the metric's name.
        """
        readers = self._readers.get((key, name), ())
        if not readers:
            return {self._complete(Key(key).suite)}
        return {Part(suite, "check", identity) for suite, identity in readers}

    def of_heads(self, key: str) -> set[Part]:
        """Return the part that the heads of a measurement belong to.

        Args:
            key: `SUITE/MEASUREMENT`.
        """
        return {Part(Key(key).suite, "heads", Key(key).name)}

    def _complete(self, suite: str) -> Part:
        """A suite that the run does not have at all is missed by the first one."""
        name = suite if suite in self._suites or not self._suites else self._suites[0]
        return Part(name, "complete", name)


def is_asked(parts: Collection[Part] | None, owners: set[Part]) -> bool:
    """Return whether a difference is to be looked at.

    Args:
        parts: what is asked for; None for everything.
        owners: the parts that it belongs to.
    """
    return parts is None or not owners.isdisjoint(parts)
