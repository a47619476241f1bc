"""The metrics that gates name, in a plan and in the records of evaluations."""

from __future__ import annotations

from icl_bench.errors import SettingsError, nearest
from icl_bench.probes import MetricInfo, get_probe
from icl_bench.records.parts import Metric, Verdict
from icl_bench.records.record import RunRecord
from icl_bench.suite.plan import Plan


def find_metric(name: str, plan: Plan) -> tuple[str, MetricInfo]:
    """Return which metric of which measurement a gate means, as `SUITE/NAME/METRIC`.

    Args:
        name: that, or an end of it: `NAME/METRIC`, `METRIC`.
        plan: what an evaluation measures.

    Raises:
        SettingsError: no measurement or more than one has such a metric.
    """
    metrics = {
        f"{key}/{metric}": info
        for key, planned in plan.measurements.items()
        if not planned.series  # one evaluation is no series of checkpoints
        for metric, info in get_probe(planned.probe).metrics.items()
    }
    named = [full for full in metrics if f"/{full}".endswith(f"/{name}")]
    if len(named) == 1:
        return named[0], metrics[named[0]]
    if named:
        raise SettingsError(f"gate on {name!r}: say which one: {', '.join(sorted(named))}")
    short = {full.rsplit("/", 1)[1] for full in metrics}
    raise SettingsError(
        f"gate on {name!r}: the suites measure no such metric; {nearest(name, short)}"
    )


def look_up(
    name: str, record: RunRecord, plan: Plan
) -> tuple[Metric | None, MetricInfo, tuple[Verdict, str]]:
    """Return a metric of one evaluation, what it means, and why it is missing when it is.

    Args:
        name: the metric as a gate names it.
        record: the evaluation.
        plan: what an evaluation measures.
    """
    full, info = find_metric(name, plan)
    key, metric = full.rsplit("/", 1)
    measurement = record.measurements.get(key)
    if measurement is None:
        return None, info, ("skipped", f"{key} was not measured")
    if measurement.status != "measured":
        return None, info, (measurement.status, measurement.reason or "not measured")
    if metric not in measurement.metrics:
        return None, info, ("skipped", measurement.unmeasured.get(metric, "not measured"))
    return measurement.metrics[metric], info, ("pass", "")


def same_tokens(before: RunRecord, now: RunRecord, full: str) -> bool:
    """Whether two evaluations measured a metric, `SUITE/NAME/METRIC`, on the same tokens."""
    key = full.rsplit("/", 1)[0]
    digests = {record.measurements[key].tokens_sha256 for record in (before, now)}
    return len(digests) == 1 and None not in digests
