"""Report format `lines`: one line of JSON for every metric, for tools that read logs."""

from __future__ import annotations

import json

from icl_bench.records.record import RunRecord

suffix = "jsonl"


def write(record: RunRecord) -> str:
    """Return the text of `report.jsonl`."""
    return "".join(
        json.dumps({"model": record.model.label, "measurement": key, name: metric.value}) + "\n"
        for key, measurement in record.measurements.items()
        for name, metric in measurement.metrics.items()
    )
