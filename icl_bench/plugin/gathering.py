"""What checks measured, in this process or another, and the records made of it."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict
from typing import Any, Literal, NamedTuple

import pytest

from icl_bench.comparing import Part
from icl_bench.plugin.ids import PAYLOAD, REASON, item_name, node_id
from icl_bench.records.parts import Check, Environment, Measurement, ModelInfo
from icl_bench.records.record import RunRecord
from icl_bench.running.job import Job
from icl_bench.running.results import INTERRUPTED, Lost, Results, assemble


class Place(NamedTuple):
    """What an item is about.

    Args:
        slug: the model.
        check: suite and id of the check that it judges; None where it judges none.
        part: the part of the comparison with a baseline that it judges; None where it judges none.
    """

    slug: str
    check: tuple[str, str] | None = None
    part: Part | None = None


def pack(slug: str, results: Results, sent: set[str], place: Place) -> str:
    """Return what an item judged, and what was measured since the last call, as text to send.

    Args:
        slug: the model.
        results: what this process knows of it.
        sent: keys of the measurements that were sent before; what is packed is added.
        place: what the item is about.
    """
    new = {
        key: measurement.model_dump(mode="json", exclude_none=True)
        for key, measurement in results.measurements.items()
        if key not in sent
    }
    sent.update(new)
    check = place.check and results.checks[place.check]
    return json.dumps(
        {
            "slug": slug,
            "model": results.model.model_dump(mode="json"),
            "environment": results.environment and results.environment.model_dump(mode="json"),
            "measurements": new,
            "check": check and check.model_dump(mode="json"),
            "part": place.part and asdict(place.part),
        }
    )


def refer(place: Place) -> str:
    """Return, as text to send within a process, what an item judged.

    What was measured is not copied: the one who gathers finds it where it is.

    Args:
        place: what the item is about.
    """
    part = place.part and asdict(place.part)
    return json.dumps({"slug": place.slug, "own": True, "check": place.check, "part": part})


class Gathering:
    """What is known of every model by the reports of its items.

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
        self._compared: set[Part] = set()
        self._lost_parts: set[Part] = set()
        self._places: dict[str, Place] = {}
        files = {suite.name: node_id(suite.path, config.rootpath) for suite in job.plan.suites}
        for slug in job.specs:
            for suite, spec in job.plan.assertions():
                name = item_name(spec.id, slug)
                self._places[f"{files[suite.name]}::{name}"] = Place(slug, (suite.name, spec.id))
            for part in job.parts:
                name = item_name(part.label, slug)
                self._places[f"{files[part.suite]}::{name}"] = Place(slug, part=part)
        self._selected: Collection[str] = set(self._places)
        self._measured = {
            f"{files[suite.name]}::{item_name(name, slug)}": slug
            for suite in job.plan.suites
            if not suite.assertions
            for name in suite.measure
            for slug in job.specs
        }

    def select(self, ids: Sequence[str]) -> None:
        """Note which items are left after deselection; no other check may be called deselected.

        Args:
            ids: theirs.
        """
        self._selected = set(ids)

    def slug_of(self, nodeid: str) -> str | None:
        """Return the model of an item; None if the item is another test."""
        place = self._places.get(nodeid)
        return self._measured.get(nodeid) if place is None else place.slug

    def place_of(self, nodeid: str) -> Place | None:
        """Return what an item is about; None if it is another test."""
        return self._places.get(nodeid)

    @property
    def compared(self) -> set[Part]:
        """The parts of the comparison with a baseline that items have judged."""
        return self._compared

    def unfinished(self) -> list[str]:
        """Return ids of the items that were to be judged and came to nothing so far."""
        return [
            nodeid
            for nodeid, (slug, check, part) in self._places.items()
            if nodeid in self._selected
            and (check is None or check not in {**self.results[slug].checks, **self._lost[slug]})
            and (part is None or part not in self._compared | self._lost_parts)
        ]

    def take(self, report: pytest.TestReport) -> None:
        """Take in what an item measured, in this process or another.

        A report without a payload tells why there is none: another plugin skipped or failed the
        item, or the worker that ran it died.
        """
        payload = getattr(report, PAYLOAD, None)
        place = self._places.get(report.nodeid)
        if payload:
            self._absorb(payload)
            setattr(report, PAYLOAD, None)  # pytest keeps every report until the end
        elif place is not None and not report.passed:
            crash = getattr(report.longrepr, "reprcrash", None)  # the last line is where it was
            told = crash.message.partition("\n")[0] if crash else report.longreprtext
            text = report.longrepr[2] if isinstance(report.longrepr, tuple) else told
            last = text.strip().splitlines()[-1] if text.strip() else "no reason was given"
            why = getattr(report, REASON, f"not run: {last}")
            self._lose(place, ("skipped" if report.skipped else "error", why))

    def _lose(self, place: Place, why: tuple[Literal["skipped", "error"], str]) -> None:
        if place.check is not None:
            self._lost[place.slug][place.check] = why
        if place.part is not None and place.part not in self._compared:
            self._lost_parts.add(place.part)

    def _absorb(self, payload: str) -> None:
        data = json.loads(payload)
        results = self.results[data["slug"]]
        if "own" in data:
            mine = self._runs[data["slug"]].results
            if mine.environment:
                results.environment, results.model = mine.environment, mine.model
            results.measurements.update(mine.measurements)
            if data["check"]:
                name = (data["check"][0], data["check"][1])
                results.checks[name] = mine.checks[name]
        else:
            self._absorb_sent(data, results)
        if data["part"]:
            self._compared.add(Part(**data["part"]))

    def _absorb_sent(self, data: dict[str, Any], results: Results) -> None:
        if data["environment"]:
            results.environment = Environment.model_validate(data["environment"])
            results.model = ModelInfo.model_validate(data["model"])
        for key, measurement in data["measurements"].items():
            # What killed a worker is known already, better than others are told of it.
            results.measurements.setdefault(key, Measurement.model_validate(measurement))
        if data["check"]:
            check = Check.model_validate(data["check"])
            results.checks[check.suite, check.id] = check

    def give_up(self, why: str) -> None:
        """Note why no verdict will come of the checks that have none by now.

        Args:
            why: the reason, for their place in the record.
        """
        for nodeid in self.unfinished():
            self._lose(self._places[nodeid], ("skipped", why))

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
