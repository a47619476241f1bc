"""What is known of one model while it is tested, and the record made of it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection
from dataclasses import asdict, dataclass, field
from datetime import datetime, timezone
from typing import Literal

from icl_bench.probes import get_probe
from icl_bench.records.parts import (
    DESELECTED,
    BaseRef,
    Check,
    Environment,
    Measurement,
    ModelInfo,
    SuiteRef,
)
from icl_bench.records.record import RunRecord
from icl_bench.running.checks import evaluate
from icl_bench.running.description import describe_environment
from icl_bench.suite.plan import Plan


@dataclass
class Results:
    """What is known of one model: sent between processes, and made into a record.

    Args:
        model: description of the model; spec and slug only, until it is opened or recalled.
        environment: where it ran; None until the model is opened or recalled.
        measurements: `SUITE/NAME` -> measurement.
        checks: (suite, id) -> check.
    """

    model: ModelInfo
    environment: Environment | None = None
    measurements: dict[str, Measurement] = field(default_factory=dict)
    checks: dict[tuple[str, str], Check] = field(default_factory=dict)


INTERRUPTED = "not run: interrupted"
"""Why a check was not judged that an interruption kept from it."""

Lost = dict[tuple[str, str], tuple[Literal["skipped", "error"], str]]
"""(suite, id) of a check that gave no verdict -> what became of it, and why."""


def assemble(
    results: Results,
    plan: Plan,
    *,
    interrupted: bool = False,
    missing: str = DESELECTED,
    lost: Lost | None = None,
) -> RunRecord:
    """Make a record of what is known; checks that were not judged are skipped with a reason.

    Args:
        results: of one model.
        plan: what was asked for.
        interrupted: whether the run was cut short.
        missing: reason for the checks that were not judged.
        lost: checks that were not judged for reasons of their own.
    """
    from icl_bench import __version__

    checks, complete = [], True
    for suite, spec in plan.assertions():
        check = results.checks.get((suite.name, spec.id))
        if check is None:
            complete = False
            key = suite.key(spec.on)
            state, why = (lost or {}).get((suite.name, spec.id), ("skipped", missing))
            nothing = Measurement(probe=suite.measure[spec.on].probe, status=state, reason=why)
            info = get_probe(nothing.probe).metrics[spec.metric]
            check = evaluate(spec, suite.name, key, nothing, info, *results.model.names)
        checks.append(check)
    status: Literal["complete", "partial", "interrupted"] = "complete" if complete else "partial"
    return RunRecord(
        icl_bench=__version__,
        created=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        status="interrupted" if interrupted else status,
        model=results.model,
        environment=results.environment or describe_environment(),
        suites=[
            SuiteRef(
                name=suite.name,
                sha256=suite.sha256,
                version=suite.version,
                shipped=suite.shipped,
                description=suite.description,
                extends=[BaseRef(**asdict(base)) for base in suite.extends],
                own=list(suite.own),
            )
            for suite in plan.suites
        ],
        measurements=dict(sorted(results.measurements.items())),
        checks=checks,
    )


def explain_undecided(outcomes: Collection[tuple[str, str | None]]) -> str | None:
    """Return why a run has decided none of the checks that it was asked for; None if it has.

    Of checks that are inconclusive or broken the run's end is decided elsewhere.

    Args:
        outcomes: verdict and reason of each check that was asked for, on each model.
    """
    if not outcomes or any(verdict != "skipped" for verdict, _ in outcomes):
        return None
    [(reason, _)] = Counter(why or "no reason was given" for _, why in outcomes).most_common(1)
    return f"no check was decided: {len(outcomes)} skipped ({reason})"


def explain_unmeasured(records: Collection[RunRecord], plan: Plan) -> str | None:
    """Return what of the suites without checks was not measured, and why; None if all was.

    Args:
        records: one per model.
        plan: what was asked for.
    """
    wanted = set(plan.only_measured())
    told = [
        f"{key} on {record.model.slug} ({taken.reason})"
        for record in records
        for key, taken in record.measurements.items()
        if key in wanted and taken.status != "measured"
    ]
    return f"not measured: {'; '.join(told)}" if told else None


def counts_as_failure(record: RunRecord, inconclusive_fails: bool = True) -> bool:
    """Whether a record holds a failed, broken or (by option) inconclusive check."""
    bad = {"fail", "error"} | ({"inconclusive"} if inconclusive_fails else set())
    return any(check.verdict in bad for check in record.checks)
