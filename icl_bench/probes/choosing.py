"""Which heads a suite's rule means on one model."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from icl_bench.errors import MeasurementError
from icl_bench.probes.settings import HeadList, HeadSelection
from icl_bench.record import Measurement

if TYPE_CHECKING:
    from icl_bench.models.model import Model

Head = tuple[int, int]


class ChoosesHeads(Protocol):
    """Settings that say which heads are switched off."""

    @property
    def heads(self) -> HeadSelection | HeadList | None:
        """The rule, the heads themselves, or None for none."""

    @property
    def seed(self) -> int:
        """Seed of heads chosen at random."""


def choose_heads(model: Model, settings: ChoosesHeads, upstream: Measurement | None) -> list[Head]:
    """Return the heads that the settings name, sorted.

    Args:
        model: the model.
        settings: which heads.
        upstream: the measurement that they are chosen from, where the settings name one.

    Raises:
        MeasurementError: a listed head does not exist, or more random heads than there are.
    """
    from icl_bench.measures.draws import Draws

    chosen = settings.heads
    if chosen is None:
        return []
    if isinstance(chosen, list):
        heads = sorted({(layer, head) for layer, head in chosen})
        for layer, head in heads:
            if head >= model.heads.get(layer, 0):
                raise MeasurementError(
                    f"the model has no head {layer}.{head}: layer {layer} has "
                    f"{model.heads.get(layer, 0)} heads"
                )
        return heads
    if chosen.random is not None:
        pool = model.every_head
        if chosen.random > len(pool):
            raise MeasurementError(f"{chosen.random} random heads asked of {len(pool)}")
        return sorted(Draws(settings.seed, "heads").choose(pool, chosen.random))
    if upstream is None:
        raise MeasurementError(f"the measurement {chosen.from_!r} to choose heads from is missing")
    rows = upstream.heads
    by = chosen.by or ("delta" if upstream.probe == "sweep" else "induction")
    for name in (*(chosen.where or {}), *([by] if chosen.top else [])):
        if rows and name not in rows[0]:
            raise MeasurementError(f"{chosen.from_!r} has not measured {name!r}")
    if chosen.top is not None:
        rows = sorted(rows, key=lambda row: -row[by])[: chosen.top]
    for name, bound in (chosen.where or {}).items():
        rows = [
            row
            for row in rows
            if (bound.above is None or row[name] > bound.above)
            and (bound.below is None or row[name] < bound.below)
        ]
    return sorted((row["layer"], row["head"]) for row in rows)


def explain_empty(rule: HeadSelection | HeadList | None) -> str:
    """Say why no head is switched off.

    Args:
        rule: how heads were to be chosen.
    """
    bounds = rule.where if isinstance(rule, HeadSelection) else None
    words = " and ".join(
        f"{name} {side} {limit:g}"
        for name, bound in (bounds or {}).items()
        for side, limit in (("above", bound.above), ("below", bound.below))
        if limit is not None
    )
    why = f"no head has {words}" if words else "every head is kept"
    return f"{why}: nothing was switched off"
