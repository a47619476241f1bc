"""What checks measured, in this process or another, and the records made of it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

import pytest

from icl_bench.plugin.ids import PAYLOAD, REASON, item_name, node_id
from icl_bench.records.parts import Check, Environment, Measurement, ModelInfo
from icl_bench.records.record import RunRecord
from icl_bench.running.job import Job
from icl_bench.running.results import INTERRUPTED, Lost, Results, assemble


def pack(slug: str, results: Results, check: Check, sent: set[str]) -> str:
    """Return a check, and what was measured since the last call, as text to send.

    Args:
        slug: the model.
        results: what this process knows of it.
        check: the check.
        sent: keys of the measurements that were sent before; what is packed is added.
    """
    new = {
        key: measurement.model_dump(mode="json", exclude_none=True)
        for key, measurement in results.measurements.items()
        if key not in sent
    }
    sent.update(new)
    return json.dumps(
        {
            "slug": slug,
            "model": results.model.model_dump(mode="json"),
            "environment": results.environment and results.environment.model_dump(mode="json"),
            "measurements": new,
            "check": check.model_dump(mode="json"),
        }
    )


def refer(slug: str, check: Check) -> str:
    """Return, as text to send within a process, which check was judged.

    What was measured is not copied: the one who gathers finds it where it is.

    Args:
        slug: the model.
        check: the check.
    """
    return json.dumps({"slug": slug, "own": [check.suite, check.id]})


class Gathering:
    """What is known of every model by the reports of its checks.

    Args:
        config: pytest's.
        job: the run.
    """

    def __init__(self, config: pytest.Config, job: Job) -> None:
        self.results = {
            slug: Results(ModelInfo(**spec.describe(slug))) for slug, spec in job.specs.items()
        }
        self._plan, self._runs = job.plan, job.runs
        self._lost: dict[str, Lost] = {slug: {} for slug in job.specs}
        self._ids = {
            f"{node_id(suite.path, config.rootpath)}::{item_name(spec.id, slug)}": (
                slug,
                (suite.name, spec.id),
            )
            for suite, spec in job.plan.assertions()
            for slug in job.specs
        }
        self._selected = set(self._ids)

    def select(self, ids: Sequence[str]) -> None:
        """Note which items are left after deselection; no other check may be called deselected.

        Args:
            ids: theirs.
        """
        self._selected = set(ids)

    def slug_of(self, nodeid: str) -> str | None:
        """Return the model of an item's check; None if the item is another test."""
        return self._ids[nodeid][0] if nodeid in self._ids else None

    def check_of(self, nodeid: str) -> tuple[str, str] | None:
        """Return suite and id of an item's check; None if the item is another test."""
        return self._ids[nodeid][1] if nodeid in self._ids else None

    def unfinished(self) -> list[str]:
        """Return ids of the checks that were to be judged and came to nothing so far."""
        return [
            nodeid
            for nodeid, (slug, check) in self._ids.items()
            if nodeid in self._selected
            and check not in self.results[slug].checks
            and check not in self._lost[slug]
        ]

    def take(self, report: pytest.TestReport) -> None:
        """Take in what a check measured, in this process or another.

        A report without a payload tells why there is none: another plugin skipped or failed the
        item, or the worker that ran it died.
        """
        payload = getattr(report, PAYLOAD, None)
        if payload:
            self._absorb(payload)
            setattr(report, PAYLOAD, None)  # pytest keeps every report until the end
        elif report.nodeid in self._ids and not report.passed:
            slug, check = self._ids[report.nodeid]
            crash = getattr(report.longrepr, "reprcrash", None)  # the last line is where it was
            told = crash.message.partition("\n")[0] if crash else report.longreprtext
            text = report.longrepr[2] if isinstance(report.longrepr, tuple) else told
            last = text.strip().splitlines()[-1] if text.strip() else "no reason was given"
            why = getattr(report, REASON, f"not run: {last}")
            self._lost[slug][check] = ("skipped" if report.skipped else "error", why)

    def _absorb(self, payload: str) -> None:
        data = json.loads(payload)
        results = self.results[data["slug"]]
        if "own" in data:
            name, mine = tuple(data["own"]), self._runs[data["slug"]].results
            if mine.environment:
                results.environment, results.model = mine.environment, mine.model
            results.measurements.update(mine.measurements)
            results.checks[name] = mine.checks[name]
            return
        if data["environment"]:
            results.environment = Environment.model_validate(data["environment"])
            results.model = ModelInfo.model_validate(data["model"])
        for key, measurement in data["measurements"].items():
            # What killed a worker is known already, better than others are told of it.
            results.measurements.setdefault(key, Measurement.model_validate(measurement))
        check = Check.model_validate(data["check"])
        results.checks[check.suite, check.id] = check

    def give_up(self, why: str) -> None:
        """Note why no verdict will come of the checks that have none by now.

        Args:
            why: the reason, for their place in the record.
        """
        for nodeid in self.unfinished():
            slug, check = self._ids[nodeid]
            self._lost[slug][check] = ("skipped", why)

    def records(self, own: Mapping[str, Results], *, interrupted: bool) -> list[RunRecord]:
        """Return the records of every model that something is known of, finished or not.

        Args:
            own: name of a model -> what this process measured.
            interrupted: whether the run was cut short.
        """
        records = []
        for slug, results in self.results.items():
            # What an interrupted item had measured by then was never sent.
            for key, measurement in own[slug].measurements.items():
                results.measurements.setdefault(key, measurement)
            if own[slug].environment and not results.environment:
                results.model, results.environment = own[slug].model, own[slug].environment
            lost = self._lost[slug]
            broken = any(state == "error" for state, _ in lost.values())
            if results.checks or results.measurements or broken:
                records.append(assemble(results, self._plan, interrupted=interrupted, lost=lost))
        return records

    def judged(self) -> list[RunRecord]:
        """Return the records, as of now, of every model with a check that was judged."""
        return [assemble(one, self._plan) for one in self.results.values() if one.checks]

    def outcomes(self) -> list[tuple[str, str | None]]:
        """Verdict and reason of every check that was asked for, on every model."""
        checks = [one for results in self.results.values() for one in results.checks.values()]
        lost = [one for lost in self._lost.values() for one in lost.values()]
        return [*((check.verdict, check.reason) for check in checks), *lost]


def why_unfinished(*, interrupted: bool, stopped: bool, why: str | None = None) -> str:
    """Return why checks that were to be judged were not.

    Args:
        interrupted: whether the run was cut short.
        stopped: whether it ended itself early, as by `-x`.
        why: what ended it, where that is known.
    """
    if why is not None:
        return f"not run: {why}"
    if interrupted:
        return INTERRUPTED
    return f"not run: {'the run stopped early' if stopped else 'the run ended before it'}"
