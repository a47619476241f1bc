"""Everything that was measured as tables, and where the numbers come from."""

from __future__ import annotations

import json
from typing import Any

from icl_bench.records.parts import Measurement
from icl_bench.records.record import RunRecord
from icl_bench.render.writing import numbers
from icl_bench.render.writing.markup import bounds, estimate
from icl_bench.render.writing.text import cut

_LONGEST_SETTING = 200


def measurements_section(record: RunRecord) -> dict[str, Any] | None:
    """Return every metric of every measurement, with its settings."""
    if not record.measurements:
        return None
    return {"measurements": [_measurement(key, one) for key, one in record.measurements.items()]}


def provenance_section(record: RunRecord) -> dict[str, Any]:
    """Return what could change a number: model, machine, versions, suites, token digests."""
    rows = [("icl_bench", record.icl_bench), ("created", record.created)]
    for name, value in record.model.model_dump(exclude_none=True).items():
        shown = numbers.count(value) if name == "parameters" else str(value)
        rows.append((f"model {name.replace('_', ' ')}", shown))
    rows += [(name, str(value)) for name, value in record.environment.model_dump().items() if value]
    if record.step is not None:
        rows.append(("step", str(record.step)))
    for suite in record.suites:
        rows.append((f"suite {suite.name} version", str(suite.version)))
        rows.append((f"suite {suite.name} SHA-256", suite.sha256))
    seeds: dict[str, list[str]] = {}
    for key, measurement in record.measurements.items():
        if "seed" in measurement.settings:
            seeds.setdefault(str(measurement.settings["seed"]), []).append(key)
    if len(seeds) == 1:
        rows.append(("seed", next(iter(seeds))))
    else:
        rows += [(f"seed of {', '.join(keys)}", seed) for seed, keys in seeds.items()]
    tokens: dict[str, list[str]] = {}
    for key, measurement in record.measurements.items():
        if measurement.tokens_sha256:
            tokens.setdefault(measurement.tokens_sha256, []).append(key)
    rows += [(f"tokens SHA-256 of {', '.join(keys)}", digest) for digest, keys in tokens.items()]
    return {"rows": rows}


def _measurement(key: str, one: Measurement) -> dict[str, Any]:
    rows = [
        (
            name,
            estimate(metric),
            bounds(metric.ci_low, metric.ci_high),
            "exact" if metric.exact else str(metric.n or ""),
        )
        for name, metric in one.metrics.items()
    ]
    rows += [(name, "not measured", why, "") for name, why in one.unmeasured.items()]
    settings = [
        (name, cut(json.dumps(value, ensure_ascii=False, default=str), _LONGEST_SETTING))
        for name, value in one.settings.items()
    ]
    if one.package:
        settings.append(("package", one.package))
    if one.seconds is not None:
        when = " (in the run that took it, from the cache)" if one.cached else ""
        settings.append(("seconds", numbers.number(one.seconds) + when))
    return {
        "key": key,
        "probe": one.probe,
        "status": one.status,
        "reason": one.reason or "",
        "rows": rows,
        "settings": settings,
    }
