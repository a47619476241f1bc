"""Heads that a suite names, and sequences that they were not chosen on."""

from __future__ import annotations

import math
from collections.abc import Iterable
from fractions import Fraction
from typing import TYPE_CHECKING, Any, Literal, Protocol

from icl_bench.errors import MeasurementError, NotMeasurable
from icl_bench.probes.design.combined import choose_by_rules, parts_of
from icl_bench.probes.design.settings import HEAD_SOURCES, PATTERN, HeadSelection, TokenPool
from icl_bench.records.parts import Measurement

if TYPE_CHECKING:
    from icl_bench.measures.tokens import RepeatedTokens
    from icl_bench.models.model import Model
    from icl_bench.probes.design.settings import HeadList

Head = tuple[int, int]

EXCESS = "induction_excess"
"""What `or_top` orders by."""
RETESTED = ("logit_attribution", "copying")
"""Probes that score every head on the sequences that heads are tested on."""
AGAIN = "retest"
"""Stream of sequences for what chooses heads from one of these."""


class Choosing(Protocol):
    """Settings that name heads."""

    @property
    def heads(self) -> HeadSelection | HeadList | None:
        """Which heads."""

    @property
    def seed(self) -> int:
        """Seed of random choices."""


class Drawing(Protocol):
    """Settings that say how repeated sequences are drawn."""

    sequences: int
    period: int
    repeats: int
    seed: int
    bos: Literal["auto", "always", "never"]
    token_pool: TokenPool


def name_stream(upstream: Measurement | None) -> str:
    """Return the stream of sequences that heads were not chosen on.

    Args:
        upstream: the measurement that heads are chosen from, if any.

    Raises:
        MeasurementError: they are chosen on both streams.
    """
    tested = [part for part in parts_of(upstream) if part.probe in RETESTED]
    streams = {part.settings.get("stream", "test") for part in tested}
    if len(streams) > 1:
        raise MeasurementError(
            "heads are chosen on both streams of sequences, so none is left to test them on: "
            f"choose what the {' and '.join(RETESTED)} measurements are about from attention scores"
        )
    return AGAIN if streams == {"test"} else "test"


def tell_stream(upstream: Measurement | None) -> dict[str, str]:
    """Return what a record says of the stream among its settings: nothing where it is `test`.

    Args:
        upstream: the measurement that heads are chosen from, if any.
    """
    stream = name_stream(upstream)
    return {} if stream == "test" else {"stream": stream}


def draw_unseen(
    model: Model, settings: Drawing, upstream: Measurement | None = None
) -> RepeatedTokens:
    """Draw repeated sequences of the stream that heads are tested on, never chosen on.

    Args:
        model: the model.
        settings: how many, and of what shape.
        upstream: the measurement that heads are chosen from, if any.

    Raises:
        MeasurementError: the sequences do not fit the model or its vocabulary, or no head sees
            one period back.
    """
    from icl_bench.measures.tokens import draw_repeated

    tokens = draw_repeated(
        model.pool(settings.token_pool),
        sequences=settings.sequences,
        period=settings.period,
        repeats=settings.repeats,
        seed=settings.seed,
        bos=model.choose_bos(settings.bos),
        stream=name_stream(upstream),
    )
    model.require_context(tokens.input_ids.shape[1])
    model.require_reach(settings.period)
    return tokens


def choose_heads(model: Model, settings: Choosing, upstream: Measurement | None) -> list[Head]:
    """Return the heads that the settings name, sorted.

    Raises:
        MeasurementError: a listed head does not exist, or more random heads than there are.
        NotMeasurable: the model does not allow the score that heads are chosen by.
    """
    from icl_bench.measures.draws import Draws

    chosen = settings.heads
    if chosen is None:
        return []
    if isinstance(chosen, list):
        return check_numbers(model, chosen)
    if chosen.random is not None:
        pool = model.every_head
        if chosen.random > len(pool):
            raise MeasurementError(f"{chosen.random} random heads asked of {len(pool)}")
        return sorted(Draws(settings.seed, "heads").choose(pool, chosen.random))
    if upstream is None:
        raise MeasurementError(f"the measurement {chosen.from_!r} to choose heads from is missing")
    return choose_by_rules(chosen, upstream, qualify)


def qualify(rule: HeadSelection, upstream: Measurement) -> list[dict[str, Any]]:
    """Return the rows of heads that a rule chooses by scores, whatever rules are within it.

    Args:
        rule: the rule.
        upstream: the measurement that it names.

    Raises:
        MeasurementError: no head has a score.
        NotMeasurable: the model does not allow it.
    """
    by = rule.by or HEAD_SOURCES[upstream.probe][0]
    names = [*(rule.where or {}), *([by] if rule.top else [])]
    rows = _scored(rule, upstream, names)
    found = [
        row
        for row in rows
        if all(
            (bound.above is None or row[name] > bound.above)
            and (bound.below is None or row[name] < bound.below)
            for name, bound in (rule.where or {}).items()
        )
    ]
    if rule.top is not None:
        found = sorted(found, key=lambda row: -row[by])[: count_top(rule.top, len(rows))]
    if found or rule.or_top is None:
        return found
    showing = [row for row in _scored(rule, upstream, [EXCESS]) if row[EXCESS] >= PATTERN]
    return sorted(showing, key=lambda row: -row[EXCESS])[: rule.or_top]


def count_top(top: int | str, scored: int) -> int:
    """Return how many heads `top` chooses.

    Args:
        top: a number, or a share as `2%`.
        scored: number of heads that have the score.
    """
    if isinstance(top, int):
        return top
    # As a fraction of whole numbers: 1.1% of 1,000 is 11, not 12 by rounding.
    return math.ceil(Fraction(top[:-1]) * scored / 100)


def _scored(
    rule: HeadSelection, upstream: Measurement, names: Iterable[str]
) -> list[dict[str, Any]]:
    """Return the rows of heads that have all of some scores; those without do not qualify.

    Raises:
        MeasurementError: no head has a score.
        NotMeasurable: the model does not allow it.
    """
    rows = upstream.heads
    for name in names:
        if rows and all(name not in row for row in rows):
            message = f"{rule.from_!r} has not measured {name!r}"
            # One of two scores that a family may not allow: no mistake of the suite.
            why = upstream.unmeasured.get(f"{name}_others")
            raise NotMeasurable(f"{message}: {why}") if why else MeasurementError(message)
        # A head without the score (it writes nothing, say) does not qualify.
        rows = [row for row in rows if name in row]
    return rows


def rows_above(rows: Iterable[dict[str, Any]], bounds: dict[str, float]) -> list[Head]:
    """Return the heads whose scores are above all bounds, sorted.

    Args:
        rows: of heads, as a measurement has them.
        bounds: score -> bound.
    """
    return sorted(
        (row["layer"], row["head"])
        for row in rows
        if all(row.get(name, float("-inf")) > bound for name, bound in bounds.items())
    )


def check_numbers(model: Model, listed: HeadList) -> list[Head]:
    """Return heads that were listed by number, sorted.

    Raises:
        MeasurementError: one of them does not exist.
    """
    heads = sorted({(layer, head) for layer, head in listed})
    for layer, head in heads:
        if head >= model.heads.get(layer, 0):
            raise MeasurementError(
                f"the model has no head {layer}.{head}: layer {layer} has "
                f"{model.heads.get(layer, 0)} heads"
            )
    return heads


def describe_misfit(chosen: HeadSelection | HeadList | None) -> str | None:
    """Return why no head was chosen, in words, or None where the rule has no bounds.

    Args:
        chosen: the rule that no head fits.
    """
    if not isinstance(chosen, HeadSelection):
        return None
    words = " and ".join(
        f"{name} {side} {limit:g}"
        for name, bound in (chosen.where or {}).items()
        for side, limit in (("above", bound.above), ("below", bound.below))
        if limit is not None
    )
    if words and chosen.or_top:
        words += f", nor {EXCESS} of {PATTERN:g}"
    told = f"no head has {words}" if words else None
    if len(chosen.rules()) == 1:
        return told
    return f"{told or 'no head is chosen'}, and fits the other rules ('and', 'without')"


def explain_empty(rule: HeadSelection | HeadList | None) -> str:
    """Say why no head is switched off.

    Args:
        rule: how heads were to be chosen.
    """
    return f"{describe_misfit(rule) or 'every head is kept'}: nothing was switched off"
