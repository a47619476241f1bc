"""What was measured at every checkpoint of one training run."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from icl_bench.records.parts import Measurement

_SHOWN = 3
"""Broken steps, and reasons, that a sentence lists."""


@dataclass(frozen=True)
class Series:
    """A training run as a series probe sees it: no model, only what was measured.

    A series probe has `measure_series(series, settings, context)` instead of `measure`, and its
    settings a property `sources`: the names of the measurements of the same suite that it reads.

    Args:
        steps: optimizer steps that were measured, ascending, each at least 0.
        measurements: name of a measurement in the suite -> what it gave, one for each of `steps`;
            with status `skipped` at every step where the model cannot give it at all.
        training_loss: step -> recorded loss in nats, of any steps; empty when none was recorded.
        broken: step -> why this checkpoint could not be measured; not among `steps`.
    """

    steps: tuple[int, ...]
    measurements: Mapping[str, tuple[Measurement, ...]]
    training_loss: Mapping[int, float] = field(default_factory=dict)
    broken: Mapping[int, str] = field(default_factory=dict)


def summarize(taken: Mapping[int, Measurement], needed: int = 2) -> Measurement:
    """Return one measurement for a whole series: the last good step's, with a table of all steps.

    The table `steps` has a row for every step that was measured: `step`, and of every metric
    `METRIC`, `METRIC_stderr`, `METRIC_ci_low` and `METRIC_ci_high` where it has them; the table
    `broken_steps` a row `step`, `reason` for every other.

    Args:
        taken: step -> what was measured there, or why it was not.
        needed: how many steps have to be measured; with fewer the whole was not.
    """
    good, broken = _part(taken)
    last = taken[max(taken)]
    if len(good) < needed:
        return _not_enough(last, taken, broken)
    values = good[max(good)]
    tables = {**values.tables, "steps": [_row(step, one) for step, one in sorted(good.items())]}
    return values.model_copy(
        update={
            "reason": _join(values.reason, explain_broken(broken, len(taken), max(good))),
            "tables": tables | _broken_table(broken),
            "seconds": _total(good.values()),
            "cached_steps": sorted(step for step, one in good.items() if one.cached),
            "cached": all(one.cached for one in good.values()),
        }
    )


def align(
    taken: Mapping[str, Mapping[int, Measurement]], training_loss: Mapping[int, float]
) -> Series:
    """Return what a series probe is given: the steps at which all its sources were measured.

    A source that was measured at no step at all takes none away: it is passed on as it is, with
    the reason in it.

    Args:
        taken: name of a source -> step -> what was measured there, or why it was not.
        training_loss: step -> recorded loss in nats.
    """
    steps = set.intersection(*(set(by_step) for by_step in taken.values()))
    broken: dict[int, str] = {}
    for name, by_step in taken.items():
        good, bad = _part(by_step)
        for step, reason in bad.items() if good else ():
            broken.setdefault(step, f"{name}: {reason}")
    ordered = tuple(sorted(steps - set(broken)))
    return Series(
        steps=ordered,
        measurements={
            name: tuple(by_step[step] for step in ordered) for name, by_step in taken.items()
        },
        training_loss=dict(training_loss),
        broken=dict(sorted(broken.items())),
    )


def explain_broken(broken: Mapping[int, str], total: int, used: int) -> str | None:
    """Return in words which steps were not measured and why; None when all were.

    Args:
        broken: step -> why.
        total: how many steps the series has.
        used: the last step that was measured.
    """
    if not broken:
        return None
    late = max(broken) > used
    told = f", the last one among them, so the values are those of step {used}" if late else ""
    return f"{len(broken)} of {total} checkpoints could not be measured{told}: {_list(broken)}"


def explain_too_few(broken: Mapping[int, str], total: int) -> str:
    """Return in words that fewer than two steps were measured, and why.

    Args:
        broken: step -> why.
        total: how many steps the series has.
    """
    return f"fewer than two of {total} checkpoints could be measured: {_list(broken)}"


def _part(
    taken: Mapping[int, Measurement],
) -> tuple[dict[int, Measurement], dict[int, str]]:
    good = {step: one for step, one in taken.items() if one.status == "measured"}
    broken = {step: one.reason or one.status for step, one in taken.items() if step not in good}
    return good, broken


def _not_enough(
    last: Measurement, taken: Mapping[int, Measurement], broken: Mapping[int, str]
) -> Measurement:
    failed = any(one.status == "error" for one in taken.values())
    if not failed and len(broken) == len(taken) and len(set(broken.values())) == 1:
        reason = broken[max(broken)]
    else:
        reason = explain_too_few(broken, len(taken))
    return Measurement(
        probe=last.probe,
        package=last.package,
        status="error" if failed else "skipped",
        reason=reason,
        settings=last.settings,
        tables=_broken_table(broken),
    )


def _row(step: int, taken: Measurement) -> dict[str, Any]:
    row: dict[str, Any] = {"step": step}
    for name, metric in taken.metrics.items():
        row[name] = metric.value
        for end in ("stderr", "ci_low", "ci_high"):
            value = getattr(metric, end)
            if value is not None:
                row[f"{name}_{end}"] = value
    return row


def _broken_table(broken: Mapping[int, str]) -> dict[str, list[dict[str, Any]]]:
    rows = [{"step": step, "reason": reason} for step, reason in sorted(broken.items())]
    return {"broken_steps": rows} if rows else {}


def _list(broken: Mapping[int, str]) -> str:
    """The first few steps with their reasons, steps of one reason together."""
    grouped: dict[str, list[int]] = {}
    for step, reason in sorted(broken.items()):
        grouped.setdefault(reason, []).append(step)
    told = []
    for reason, steps in list(grouped.items())[:_SHOWN]:
        named = ", ".join(map(str, steps[:_SHOWN])) + (" ..." if len(steps) > _SHOWN else "")
        told.append(f"step {named}: {reason}")
    return "; ".join(told) + ("; ..." if len(grouped) > _SHOWN else "")


def _join(*parts: str | None) -> str | None:
    return "; ".join(filter(None, parts)) or None


def _total(taken: Iterable[Measurement]) -> float | None:
    times = [one.seconds for one in taken if one.seconds is not None]
    return round(sum(times), 3) if times else None
