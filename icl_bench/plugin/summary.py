"""What the plugin prints: lines in pytest's header, and its own sections at the end."""

from __future__ import annotations

import os
from collections.abc import Collection
from typing import TYPE_CHECKING, Any

from icl_bench.render.writing.logs import escape_ci_commands

if TYPE_CHECKING:
    from icl_bench.plugin.session import IclSession
    from icl_bench.running.job import Job
    from icl_bench.running.outcome import Outcome


def header(icl: IclSession) -> list[str]:
    """Return lines for pytest's header: models and suites of the run.

    Args:
        icl: the run.
    """
    names = ", ".join(suite.name for suite in icl.job.plan.suites) or "none"
    named = [f"{slug}{_count_checkpoints(icl.job, slug)}" for slug in icl.slugs]
    models = ", ".join(named) or "none given (--icl-model)"
    lines = [f"icl_bench: model {models}; suite {names}", *icl.job.tell_names()]
    if icl.only_suites:
        lines.append("icl_bench: only the suites are collected; name paths to add other tests")
    return lines


def _count_checkpoints(job: Job, slug: str) -> str:
    """How many checkpoints a series has, in brackets; nothing for a single model."""
    found = job.found.get(slug)
    if not isinstance(found, tuple):
        return ""
    return f" ({len(found)} checkpoints, steps {found[0].step} to {found[-1].step})"


def has_news(outcome: Outcome) -> bool:
    """Whether there is anything to print at the end.

    Args:
        outcome: of the run.
    """
    told = (outcome.troubles, outcome.undecided, outcome.removed, outcome.baseline)
    return bool(outcome.records) or any(told)


def print_summary(
    outcome: Outcome, terminalreporter: Any, told: Collection[tuple[str, tuple[str, str]]]
) -> None:
    """Print the tables and where the reports are.

    Args:
        outcome: of the run.
        terminalreporter: pytest's.
        told: models and checks whose reasons pytest has printed.
    """
    from icl_bench.render.terminal import summary
    from icl_bench.render.writing.outlet import outlet_of_pytest
    from icl_bench.render.writing.text import fold, printable

    outlet = outlet_of_pytest(terminalreporter._tw)
    if outcome.records:
        terminalreporter.section("icl_bench")
        paths = [os.path.relpath(path) for path in outcome.paths]
        text = summary(outcome.records, **outlet.options(), paths=paths, told=told)
        terminalreporter.write_line(escape_ci_commands(text))
        quiet = terminalreporter.config.get_verbosity() < 0
        hints = [] if quiet else outcome.hints("--icl-")
        for line in ["", *hints] if hints else []:
            for part in fold(escape_ci_commands(line), outlet.width) or [""]:
                terminalreporter.write_line(part)
    if outcome.removed:
        terminalreporter.write_line(escape_ci_commands(printable(outcome.removed)))
    for trouble in filter(None, (outcome.undecided, *outcome.troubles)):
        terminalreporter.write_line(printable(trouble), red=True)
    if outcome.baseline:
        terminalreporter.section("icl_bench: baseline")
        # What failed, its test has told of.
        brief = terminalreporter.verbosity <= 0
        for text in outcome.baseline.texts(outlet, brief=brief):
            terminalreporter.write_line(text)
        if outcome.baseline.trouble:
            terminalreporter.write_line(printable(outcome.baseline.trouble), red=True)
    for line in outcome.ci_lines:
        terminalreporter.write_line(line)
