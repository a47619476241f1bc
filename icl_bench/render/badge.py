"""RunRecord -> badge.json, in the schema of shields.io's endpoint badge."""

from __future__ import annotations

import json

from icl_bench.records.record import RunRecord
from icl_bench.render.writing.text import WORDS, overall

LABEL = "in-context learning"

_COLORS = {
    WORDS["pass"]: "brightgreen",
    WORDS["inconclusive"]: "yellow",
    WORDS["fail"]: "red",
    WORDS["error"]: "red",
}


def badge(record: RunRecord) -> str:
    """Return the badge of one run as JSON: how many of the checks that were judged passed.

    Args:
        record: the run. Checks that were skipped are not counted.
    """
    verdict = overall(record.checks)
    judged = [check for check in record.checks if check.verdict != "skipped"]
    passed = sum(check.verdict == "pass" for check in judged)
    message = f"{passed} of {len(judged)} checks" if judged else "nothing checked"
    if record.status != "complete":
        message += f" ({record.status})"
    data = {
        "schemaVersion": 1,
        "label": LABEL,
        "message": message,
        "color": _COLORS.get(verdict, "lightgrey"),
    }
    return json.dumps(data, indent=1) + "\n"
