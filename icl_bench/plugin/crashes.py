"""Workers of xdist that die: what each was doing, why, and what is not tried again.

A worker says on a channel of its own (execnet's, which keeps the order of what is sent) which
model it opens and what it measures. When it dies, the controller thus knows where; before another
worker gets the rest of the model's checks, it hears what has been measured, and what killed the
one before, which is then an error without being tried.
"""

from __future__ import annotations

import contextlib
import json
import signal
import subprocess
from collections.abc import Generator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest

from icl_bench.plugin.ids import PAYLOAD, REASON
from icl_bench.progress.run import OPENING
from icl_bench.records.parts import Measurement
from icl_bench.running.judging import failed
from icl_bench.running.results import INTERRUPTED

if TYPE_CHECKING:
    from icl_bench.plugin.session import IclSession

CHANNEL = "icl_bench_doings"
"""Name of a worker's channel in what xdist hands to it."""
ADVICE = (
    "usually it ran out of memory; try a smaller --icl-batch-size, or fewer workers (-n), and see "
    "the system's log"
)
_PATIENCE = 60.0
"""Seconds that a process whose pipe is closed has to end; after that its exit code is unknown."""


class Told(NamedTuple):
    """What the controller tells a worker of a model that another worker had."""

    measurements: dict[str, Measurement]
    """`SUITE/NAME` -> what was measured; as errors, those that the other worker died of."""
    checks: list[tuple[str, str]]
    """(suite, id) of those that are judged."""
    refused: str | None
    """Why the model is not opened again, if a worker died of that."""
    failures: int
    """How many items have failed; a new worker would count for --maxfail from 0."""


class Link:
    """A worker's side: says what it begins, hears what others measured.

    Args:
        channel: to the controller.
    """

    def __init__(self, channel: Any) -> None:
        self._channel = channel
        self._heard: dict[str, Any] = {}
        channel.setcallback(lambda text: self._heard.update(json.loads(text)))

    def say(self, slug: str, doing: str) -> None:
        """Tell what is done from now on.

        Args:
            slug: the model.
            doing: digest of what is measured, `OPENING`, or empty for nothing of these.
        """
        with contextlib.suppress(OSError):  # the controller is gone, which xdist sees to
            self._channel.send(json.dumps([slug, doing]))

    def say_last(self, why: str, payload: str | None) -> None:
        """Tell that this process ends now.

        Args:
            why: what ends it.
            payload: what the item that it is at came to, if that is a check.
        """
        with contextlib.suppress(OSError):
            self._channel.send(json.dumps({"why": why, "payload": payload}))

    def take(self, slug: str) -> Told | None:
        """Return, once, what the controller told of a model."""
        if (data := self._heard.pop(slug, None)) is None:
            return None
        taken = {key: Measurement.model_validate(one) for key, one in data["measurements"].items()}
        checks = [(suite, name) for suite, name in data["checks"]]
        return Told(taken, checks, data["refused"], data["failures"])


def link_of(config: pytest.Config) -> Link | None:
    """Return this worker's link to the controller; None in any other process."""
    channel = getattr(config, "workerinput", {}).get(CHANNEL)
    return None if channel is None else Link(channel)


class Crashes:
    """Registered in the process that reports; without xdist most of its hooks never fire.

    Args:
        icl: what gathers the results.
    """

    def __init__(self, icl: IclSession) -> None:
        self._icl = icl
        self._session: pytest.Session | None = None
        self._channels: dict[str, Any] = {}
        self._doing: dict[str, tuple[str, str]] = {}
        self._ends: dict[str, str] = {}
        self._last_words: dict[str, dict[str, Any]] = {}
        self._causes: dict[str, str] = {}
        self._payloads: dict[str, str | None] = {}
        self._dead: dict[str, dict[str, str]] = {slug: {} for slug in icl.slugs}
        self._refused: dict[str, str] = {}
        self._last = ""
        self._failures = 0

    @pytest.hookimpl(optionalhook=True)
    def pytest_configure_node(self, node: Any) -> None:
        """Listen to a worker of xdist; fires before it starts."""
        name = str(node.gateway.id)
        channel = node.gateway.newchannel()
        node.workerinput[CHANNEL] = self._channels[name] = channel
        channel.setcallback(lambda text: self._hear(name, json.loads(text)))

    def _hear(self, name: str, said: Any) -> None:
        if isinstance(said, dict):
            self._last_words[name] = said
        else:
            self._doing[name] = tuple(said)

    @pytest.hookimpl(optionalhook=True)
    def pytest_xdist_node_collection_finished(self, ids: Sequence[str]) -> None:
        """Note what is left after deselection; fires for every worker."""
        self._icl.gathering.select(ids)

    @pytest.hookimpl(optionalhook=True)
    def pytest_testnodedown(self, node: Any) -> None:
        """Ask how a worker ended; fires for each, before the rest of a dead one goes to others."""
        if not hasattr(node, "workeroutput"):  # the last thing that a worker sends
            self._ends[str(node.gateway.id)] = _how_it_ended(node)

    def explain(self, node: Any, nodeid: str, slug: str | None) -> bool:
        """Find the cause of a worker's death, and say whether the run goes on.

        Args:
            node: xdist's side of the worker.
            nodeid: the item that it was at.
            slug: the model that the item needs; None for none.
        """
        name = str(node.gateway.id)
        if name not in self._ends:
            return False  # it was interrupted
        said = self._last_words.get(name)
        if slug is not None:
            at, doing = self._doing.get(name, ("", ""))
            doing = doing if at == slug else ""
            why = said["why"] if said else None
            self._last = self._blame(slug, nodeid, doing, self._ends[name], why)
            self._causes[nodeid] = self._last
        elif said:
            self._last = self._causes[nodeid] = said["why"]
        else:
            self._last = f"the process that ran {nodeid} died ({self._ends[name]})"
        if said:
            self._payloads[nodeid] = said["payload"]
        # xdist leaves dead workers out when it counts for -x and --maxfail.
        self._failures = self._session.testsfailed + 1 if self._session else 1
        limit = self._icl.config.getoption("maxfail")
        return not limit or self._failures < limit

    def _blame(self, slug: str, nodeid: str, doing: str, end: str, why: str | None) -> str:
        """The cause in words; what died is noted for the worker that gets the rest.

        Args:
            slug: the model.
            nodeid: the item that the worker was at.
            doing: what it was at, see `Link.say`.
            end: how its process ended.
            why: what ended it, where it said so itself.
        """
        plan, gathered = self._icl.job.plan.measurements, self._icl.gathering.results[slug]
        key = next((key for key, planned in plan.items() if planned.digest == doing), None)
        if doing == OPENING:
            did, dead = "opened it", set(plan)
        elif key is not None:
            did, dead = f"measured {key}", {key}
        elif (needed := self._unmeasured(slug, nodeid)) is not None:
            key, did, dead = needed, f"was to measure {needed}", {needed}
        else:
            did, dead = f"ran {nodeid}", set()
        public = self._icl.job.specs[slug].public
        cause = f"model {public!r}: the process that {did} died ({end}): {ADVICE}"
        if why is not None:
            opening = f"model {public!r}: opening it was broken off: "
            cause = f"{opening if doing == OPENING else ''}{why}"
        told = cause if why is not None else f"not run: {cause}"
        if doing == OPENING:
            self._refused[slug] = told
        if key is not None:
            gathered.measurements.setdefault(key, failed(plan[key], cause))
        # A measurement stands in the plan behind those that it is made from.
        digests = {plan[one].digest for one in dead}
        for one, planned in plan.items():
            if planned.digest in digests or dead & {planned.upstream, *planned.sources.values()}:
                dead.add(one)
                self._dead[slug].setdefault(one, told)
        return cause

    def _unmeasured(self, slug: str, nodeid: str) -> str | None:
        """The first measurement that an item needs and that is not there; None for none."""
        place, gathered = self._icl.gathering.place_of(nodeid), self._icl.gathering.results[slug]
        if place is None:
            return None
        needed: list[str] = []
        if place.check is not None and place.check not in gathered.checks:
            suite, spec = self._icl.job.plan.find(*place.check)
            needed = [suite.key(spec.on)]
        elif place.part is not None and self._icl.job.baseline is not None:
            needed = self._icl.job.baseline.keys_of(place.part, self._icl.job.plan)
        return next((key for key in needed if key not in gathered.measurements), None)

    def brief(self, node: Any, slug: str) -> None:
        """Tell a worker what came of a model so far, before it gets checks of it.

        Args:
            node: xdist's side of the worker.
            slug: the model.
        """
        if not self._ends:
            return  # nobody else had it
        plan, gathered = self._icl.job.plan.measurements, self._icl.gathering.results[slug]
        known = dict(gathered.measurements)
        for key, why in self._dead[slug].items():
            if key not in known or known[key].status == "error":
                known[key] = failed(plan[key], why)
        data = {
            "measurements": {
                key: taken.model_dump(mode="json", exclude_none=True)
                for key, taken in known.items()
            },
            "checks": list(gathered.checks),
            "refused": self._refused.get(slug),
            "failures": self._failures,
        }
        self._channels[str(node.gateway.id)].send(json.dumps({slug: data}))

    @pytest.hookimpl(optionalhook=True)
    def pytest_handlecrashitem(self, crashitem: str, report: pytest.TestReport) -> None:
        """Put the cause into the report of the item at which a worker ended."""
        cause = self._causes.pop(crashitem, None)
        if cause is not None:
            report.longrepr = cause
            setattr(report, PAYLOAD, self._payloads.pop(crashitem, None))
            if self._icl.gathering.place_of(crashitem):
                _complete(report, cause)
        elif self._icl.gathering.place_of(crashitem) and hasattr(report.node, "workeroutput"):
            report.outcome = "skipped"
            report.longrepr = (crashitem, None, INTERRUPTED)  # type: ignore[assignment]
            _complete(report, INTERRUPTED)

    @pytest.hookimpl(trylast=True)
    def pytest_runtest_logreport(self) -> None:
        """Let -x and --maxfail end the run at a dead worker too; fires after pytest counted."""
        dsession = self._icl.config.pluginmanager.get_plugin("dsession")
        if dsession is not None and self._session is not None and self._session.shouldfail:
            dsession.shouldstop = dsession.shouldstop or self._session.shouldfail

    @pytest.hookimpl(trylast=True)
    def pytest_sessionfinish(self) -> None:
        """Take in what workers sent before an interruption; fires when they are gone."""
        dsession = self._icl.config.pluginmanager.get_plugin("dsession")
        while dsession is not None and not dsession.queue.empty():
            event, given = dsession.queue.get()
            if event == "testreport":
                self._icl.gathering.take(given["rep"])

    @pytest.hookimpl(hookwrapper=True)
    def pytest_runtestloop(self, session: pytest.Session) -> Generator[None, Any, None]:
        """Report the items for which no worker was left; fires around the whole run."""
        self._session = session
        outcome = yield
        if outcome.excinfo is not None or not self._ends:
            return
        told = f"not run: no worker was left. {self._last}".strip()
        for nodeid in self._icl.unfinished():
            report = pytest.TestReport(
                nodeid, (nodeid, None, nodeid), {}, "failed", longrepr=told, when="setup"
            )
            _complete(report, told)
            self._icl.config.hook.pytest_runtest_logreport(report=report)


def _complete(report: pytest.TestReport, told: str) -> None:
    """Make the report of a check that gave no result what that of a broken model is: an error."""
    report.when = "setup"
    path, _, name = report.nodeid.rpartition("::")
    report.location = (path, None, name)
    setattr(report, REASON, told)


def _how_it_ended(node: Any) -> str:
    """A dead worker's signal or exit code in words, if it ran on this machine."""
    # execnet has no public name for it.
    process = getattr(getattr(node.gateway, "_io", None), "popen", None)
    if not isinstance(process, subprocess.Popen) or not node.gateway.spec.popen:
        return "it ran on another machine; exit code unknown"
    try:
        code = process.wait(_PATIENCE)
    except subprocess.TimeoutExpired:
        return "exit code unknown"
    if code >= 0:
        return f"exit code {code}"
    try:
        return f"killed by signal {-code}, {signal.Signals(-code).name}"
    except ValueError:
        return f"killed by signal {-code}"
