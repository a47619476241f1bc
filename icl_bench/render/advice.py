"""What to try after a run, in a line."""

from __future__ import annotations

from collections.abc import Sequence

from icl_bench.records.record import RunRecord

DEMO = "builtin:induction-2l"
CONTROL = "builtin:control-1l"
"""A model of one layer, which cannot form the circuit."""
CIRCUIT = frozenset({"core", "gate"})
"""Suites that ask whether the circuit is there."""
PARTS = frozenset({"circuit"})
"""Suites that take it apart, which add nothing to what the passes of the others mean."""


def advise(records: Sequence[RunRecord], prefix: str, *, compared: bool) -> list[str]:
    """Return lines about what to try next; none where nothing comes to mind.

    Args:
        records: of the run.
        prefix: of the run's options: `--icl-` for pytest, `--` for `icl-bench run`.
        compared: whether the run was compared with a baseline, or saved as one.
    """
    if len(records) != 1 or not records[0].checks or records[0].status != "complete":
        return []
    [record] = records
    verdicts = {check.verdict for check in record.checks}
    if verdicts - {"pass", "skipped"} or "pass" not in verdicts:
        return []
    names = [suite.name for suite in record.suites]
    asked = [name for name in names if name in CIRCUIT]
    if record.model.spec == DEMO and asked and (CIRCUIT | PARTS).issuperset(names):
        command = "pytest --icl-model=" if prefix == "--icl-" else "icl-bench run "
        return [
            "What these passes mean: a head attends to the token after an earlier occurrence, "
            "wherever that is; an earlier head attends to the previous token; with such heads "
            "ablated the model no longer copies, with other heads ablated it still does. A model "
            "of one layer fails:",
            f"  {command}{CONTROL} {' '.join(f'{prefix}suite={name}' for name in asked)}",
        ]
    if compared:
        return []
    return [
        f"Next: {prefix}save-baseline=good.json keeps this run; a later run with "
        f"{prefix}baseline=good.json fails if something got worse"
    ]
