"""JUnit XML: what a check measured, as properties of its test case and of the whole file."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING

from icl_bench.records.parts import Check
from icl_bench.records.record import RunRecord
from icl_bench.render.writing.text import one_line

if TYPE_CHECKING:
    from icl_bench.comparing import Comparison
    from icl_bench.render.parts import PartVerdict

PREFIX = "icl."
"""What the names of all properties begin with."""


def case_properties(check: Check, model: str) -> list[tuple[str, str]]:
    """Return name and value of what is known of one check; what is unknown is absent.

    Args:
        check: judged.
        model: the model's spec, as it is shown.
    """
    known = {
        "model": model,
        "suite": check.suite,
        "metric": check.metric,
        "value": check.value,
        "ci_low": check.ci_low,
        "ci_high": check.ci_high,
        "rule": check.rule,
        "threshold": check.threshold,
        "verdict": check.verdict,
        "reason": check.reason,
    }
    return [(f"{PREFIX}{name}", _text(value)) for name, value in known.items() if value is not None]


def comparison_properties(
    suite: str, found: Comparison, verdict: PartVerdict, model: str
) -> list[tuple[str, str]]:
    """Return name and value of what is known of one part of a comparison with a baseline.

    Args:
        suite: the suite.
        found: what was found of that part; of several metrics the worst one is told of.
        verdict: what becomes of its test.
        model: the model's spec, as it is shown.
    """
    known: dict[str, object] = {
        "model": model,
        "suite": suite,
        "verdict": verdict.state,
        "reason": verdict.line or None,
    }
    order = ("regressed", "vanished", "unpaired", "unclear", "improved", "same")
    metrics = [metric for metric in found.metrics if metric.state in order]
    for metric in sorted(metrics, key=lambda one: order.index(one.state))[:1]:
        known |= {
            "metric": metric.metric,
            "baseline": metric.baseline,
            "value": metric.value,
            "difference": metric.difference,
            "ci_low": metric.ci_low,
            "ci_high": metric.ci_high,
            "allowed": metric.allowed,
            "unpaired": metric.unpaired,
        }
    return [(f"{PREFIX}{name}", _text(value)) for name, value in known.items() if value is not None]


def file_properties(records: Sequence[RunRecord]) -> list[tuple[str, str]]:
    """Return name and value of what all cases have in common: weights, versions, suites.

    Args:
        records: one per model.
    """
    found: dict[str, str] = {}
    for record in records:
        found["icl.icl_bench"] = record.icl_bench
        environment = record.environment.model_dump(
            include={"python", "torch", "transformers", "platform"}
        )
        found |= {f"icl.{name}": one_line(value) for name, value in environment.items() if value}
        for suite in record.suites:
            found[f"icl.suite.{one_line(suite.name)}.version"] = str(suite.version)
            found[f"icl.suite.{one_line(suite.name)}.sha256"] = suite.sha256
        if record.model.fingerprint:
            found[f"icl.model.{record.model.slug}.fingerprint"] = record.model.fingerprint
    return list(found.items())


def _text(value: object) -> str:
    return one_line(value) if isinstance(value, str) else json.dumps(value)
