"""Probe `weight_composition`: whether chosen heads' weights read what earlier heads' write."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field

from icl_bench.errors import NotMeasurable
from icl_bench.probes.design.context import Context
from icl_bench.probes.design.settings import HeadList, HeadSelection, StrictSettings
from icl_bench.probes.protocol import MetricInfo, Probe
from icl_bench.records.parts import Measurement

if TYPE_CHECKING:
    from icl_bench.models.circuits.composition import Composition
    from icl_bench.models.model import Model
    from icl_bench.models.residual.reading import Side

SIDES: tuple[Side, ...] = ("key", "query", "value")


class Settings(StrictSettings):
    """What a suite may set for the `weight_composition` probe."""

    heads: HeadSelection | HeadList
    """The later heads, whose queries, keys and values are measured."""
    seed: Annotated[int, Field(ge=0)] = 0
    """Seed of the random matrices, and of heads chosen at random."""


METRICS: dict[str, MetricInfo] = {
    "heads": MetricInfo("number of heads chosen that have heads below them", None, "heads", True),
    "key_excess_max": MetricInfo(
        "highest K-composition of an earlier head with a chosen one, above random", "up", "", True
    ),
    "query_excess_max": MetricInfo(
        "highest Q-composition of an earlier head with a chosen one, above random", None, "", True
    ),
    "value_excess_max": MetricInfo(
        "highest V-composition of an earlier head with a chosen one, above random", None, "", True
    ),
    "key_excess_mean": MetricInfo(
        "mean K-composition of earlier heads with the chosen ones, above random", None, "", True
    ),
    "random_composition": MetricInfo(
        "mean composition of random matrices of the same shapes", None, "", True
    ),
}


def measure(model: Model, settings: Settings, context: Context) -> Measurement:
    """Compare the chosen heads' weights with those of every head below them.

    Args:
        model: the model.
        settings: which heads.
        context: the measurement that heads are chosen from, and progress.

    Raises:
        NotMeasurable: the model has no heads, or nothing of what they read and write is a linear
            map; where that holds of one side alone, its metrics are left out with the reason.
        MeasurementError: a head does not exist.
    """
    from icl_bench.measures.statistics import exact_metric
    from icl_bench.models.circuits.composition import every_sender
    from icl_bench.probes.design.head_selection import choose_heads

    model.require_heads()
    chosen = choose_heads(model, settings, context.upstream)
    first = min(model.heads)
    receivers = [head for head in chosen if head[0] > first]
    result = Measurement(
        probe="weight_composition",
        settings=settings.model_dump(by_alias=True, exclude_none=True),
        metrics={"heads": exact_metric(len(receivers))},
        tables={"chosen_heads": [{"layer": layer, "head": head} for layer, head in chosen]},
    )
    if not receivers:
        why = "no chosen head has a head below it" if chosen else "no head was chosen"
        result.reason = why
        result.unmeasured = dict.fromkeys(METRICS.keys() - result.metrics.keys(), why)
        return result
    senders = every_sender(model, receivers)
    found, failed = _compose(model, receivers, senders, settings.seed, context)
    if not found:
        raise NotMeasurable(next(iter(failed.values())))
    known = [one for one in found if one.known]
    for side in SIDES:
        excess = [one.excess for one in known if one.side == side]
        names = [name for name in METRICS if name.startswith(f"{side}_excess")]
        if not excess:
            why = failed.get(side, "the weights of these heads, or of all below them, are 0")
            result.unmeasured |= dict.fromkeys(names, why)
            continue
        result.metrics[f"{side}_excess_max"] = exact_metric(max(excess), len(excess))
        if f"{side}_excess_mean" in names:
            mean = sum(excess) / len(excess)
            result.metrics[f"{side}_excess_mean"] = exact_metric(mean, len(excess))
    level = sum(one.random for one in found) / len(found)
    result.metrics["random_composition"] = exact_metric(level)
    result.tables["composition"] = _list_pairs(found)
    result.tables["highest"] = _list_highest(known, receivers)
    return result


def _compose(
    model: Model,
    receivers: list[tuple[int, int]],
    senders: list[tuple[int, int]],
    seed: int,
    context: Context,
) -> tuple[list[Composition], dict[Side, str]]:
    """Return what could be compared, and side -> why it could not."""
    from icl_bench.models.circuits.composition import compose_heads

    try:
        with context.task("composition of weights", len({s[0] for s in senders})) as advance:
            return compose_heads(model, receivers, senders, SIDES, seed=seed, advance=advance), {}
    except NotMeasurable:
        pass
    found: list[Composition] = []
    failed: dict[Side, str] = {}
    for side in SIDES:
        try:
            found += compose_heads(model, receivers, senders, [side], seed=seed)
        except NotMeasurable as error:
            failed[side] = str(error)
    return found, failed


def _list_pairs(found: list[Composition]) -> list[dict[str, Any]]:
    """Return one row per sender and receiver with the excess of each side that is known."""
    rows: dict[Any, dict[str, Any]] = {}
    for one in found:
        place = {"sender_layer": one.sender[0], "sender_head": one.sender[1]}
        place |= {"layer": one.receiver[0], "head": one.receiver[1]}
        row = rows.setdefault((one.sender, one.receiver), place)
        if one.known:
            row[f"{one.side}_excess"] = one.excess
    return list(rows.values())


def _list_highest(
    known: list[Composition], receivers: list[tuple[int, int]]
) -> list[dict[str, Any]]:
    """Return one row per receiver and side: the sender whose composition is highest."""
    rows = []
    for receiver in receivers:
        for side in SIDES:
            own = [one for one in known if (one.receiver, one.side) == (receiver, side)]
            if own:
                best = max(own, key=lambda one: one.excess)
                row = {"layer": receiver[0], "head": receiver[1], "side": side}
                row |= {"sender_layer": best.sender[0], "sender_head": best.sender[1]}
                rows.append({**row, "excess": best.excess})
    return rows


PROBE = Probe("weight_composition", Settings, METRICS, measure)
