"""GitHub Actions: annotations as workflow commands, and the summary of a job.

Formats: docs.github.com, "Workflow commands for GitHub Actions"; escapes as in actions/toolkit.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from icl_bench.ci.findings import Finding

SHOWN = 10
"""Annotations of one level that GitHub shows of a step."""
SUMMARY_BYTES = 1024 * 1024
"""Largest summary that GitHub takes of a step."""


def is_here() -> bool:
    """Whether this process runs in a job of GitHub Actions."""
    return os.environ.get("GITHUB_ACTIONS") == "true"


def annotate(findings: Sequence[Finding]) -> list[str]:
    """Return workflow commands that show findings at their lines, at most ten of each level.

    Args:
        findings: in order of weight; what does not fit is counted by the last command.
    """
    lines = []
    for level in ("error", "warning"):
        own = [finding for finding in findings if finding.level == level]
        shown = own if len(own) <= SHOWN else own[: SHOWN - 1]
        lines += [_annotate_one(finding) for finding in shown]
        if left := len(own) - len(shown):
            lines.append(f"::{level} title=icl_bench::and {left} more: see the job's summary")
    return lines


def _annotate_one(finding: Finding) -> str:
    properties = []
    if finding.place is not None:
        properties.append(f"file={escape_property(finding.place.file)}")
        properties.append(f"line={finding.place.line}")
    properties.append(f"title={escape_property(f'{finding.name} [{finding.model}]')}")
    return f"::{finding.level} {','.join(properties)}::{escape_data(finding.message)}"


def escape_data(text: str) -> str:
    """Return text as the message of a workflow command.

    Args:
        text: any.
    """
    return text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def escape_property(text: str) -> str:
    """Return text as a property of a workflow command.

    Args:
        text: any.
    """
    return escape_data(text).replace(":", "%3A").replace(",", "%2C")


def append_summary(text: str) -> Path | None:
    """Append Markdown to the summary of this job's step, shortened where it would not fit.

    Args:
        text: Markdown; cut at the end of a line.

    Returns:
        the file, or None where the job has none.

    Raises:
        OSError: it cannot be written.
    """
    name = os.environ.get("GITHUB_STEP_SUMMARY")
    if not name:
        return None
    path = Path(name)
    there = path.stat().st_size if path.exists() else 0
    with path.open("a", encoding="utf-8", newline="\n") as stream:
        stream.write(shorten_summary(text, SUMMARY_BYTES - there))
    return path


def shorten_summary(text: str, room: int) -> str:
    """Return the lines of a text that fit, with a word about those that do not.

    Args:
        text: Markdown that ends in a newline.
        room: bytes.
    """
    if len(text.encode()) <= room:
        return text
    lines = text.splitlines(keepends=True)
    kept: list[str] = []
    used = 0
    for line in lines:
        word = f"\nShortened: {len(lines) - len(kept)} more lines are in the report.\n"
        if used + len(line.encode()) + len(word) > room:
            return "".join(kept) + word if used + len(word) <= room else ""
        kept.append(line)
        used += len(line.encode())
    return "".join(kept)
