"""GitLab: findings as a Code Quality report, checked metrics as OpenMetrics text.

Formats: docs.gitlab.com, "Code Quality" (report format) and "Metrics reports"; OpenMetrics 1.0.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Sequence

from icl_bench.ci.findings import Finding
from icl_bench.records.record import RunRecord

_SEVERITY = {"error": "major", "warning": "minor"}


def code_quality(findings: Sequence[Finding]) -> str:
    """Return findings as a Code Quality report, `[]` where there are none.

    A finding keeps its fingerprint when lines move and numbers change, so that GitLab can tell new
    ones from old ones.

    Args:
        findings: of a run. One whose check lies in no file of the repository is put at line 1 of
            `suites/SUITE.yaml`, because the format asks for a path.
    """
    return json.dumps([_issue(finding) for finding in findings], indent=1) + "\n"


def _issue(finding: Finding) -> dict[str, object]:
    place = finding.place
    identity = "\0".join((finding.kind, finding.name, finding.model))
    return {
        "description": f"{finding.name} [{finding.model}] {finding.message}",
        "check_name": f"icl_bench/{finding.kind}/{finding.name}",
        "fingerprint": hashlib.sha256(identity.encode("utf-8", "surrogatepass")).hexdigest(),
        "severity": _SEVERITY[finding.level],
        "location": {
            "path": place.file if place else f"suites/{finding.suite}.yaml",
            "lines": {"begin": place.line if place else 1},
        },
    }


def openmetrics(records: Sequence[RunRecord]) -> str:
    """Return every metric that a check reads as OpenMetrics text, its interval beside it.

    What was not measured is absent.

    Args:
        records: one per model.
    """
    families: dict[str, tuple[str, dict[str, str]]] = {
        "icl_metric": ("What checks read, in the metric's own unit.", {}),
        "icl_metric_ci_low": ("Lower end of its 95% interval.", {}),
        "icl_metric_ci_high": ("Upper end of its 95% interval.", {}),
        "icl_checks": ("Number of checks by verdict.", {}),
    }
    for record in records:
        slug = record.model.slug
        for check in record.checks:
            labels = _labels(model=slug, measurement=check.measurement, metric=check.metric)
            ends = (check.value, check.ci_low, check.ci_high)
            for family, number in zip(families, ends):
                if number is not None:
                    families[family][1][labels] = repr(float(number))
        for verdict, count in Counter(check.verdict for check in record.checks).items():
            families["icl_checks"][1][_labels(model=slug, verdict=verdict)] = str(count)
    lines = []
    for name, (told, samples) in families.items():
        if samples:
            lines += [f"# TYPE {name} gauge", f"# HELP {name} {told}"]
            lines += [f"{name}{labels} {number}" for labels, number in samples.items()]
    return "\n".join([*lines, "# EOF"]) + "\n"


def _labels(**labels: str) -> str:
    inside = ",".join(f'{name}="{_escape(text)}"' for name, text in labels.items())
    return f"{{{inside}}}"


def _escape(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n").replace("\r", "")
