"""Probe `example`: one text step by step, and the effect of every combination of switches."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from pydantic import Field, field_validator

from icl_bench.probes.design.context import Context
from icl_bench.probes.design.head_selection import (
    choose_heads,
    describe_misfit,
    name_stream,
    tell_stream,
)
from icl_bench.probes.design.settings import HeadList, HeadSelection, TokenSettings, Writing
from icl_bench.probes.protocol import MetricInfo, Probe
from icl_bench.records.parts import Measurement

if TYPE_CHECKING:
    from icl_bench.measures.tokens import RepeatedTokens
    from icl_bench.models.model import Model
    from icl_bench.probes.example.switched import Settled
    from icl_bench.probes.example.text import Example
    from icl_bench.probes.example.toggles import Switch

Head = tuple[int, int]

TEXT = (
    "One day Harry Potter met Zarnip Stone in the garden. "
    "Then Harry Potter told a story to Zarnip Stone"
)
"""A name that models know by heart, and one that only the text can tell.

Neither opens the text: many tokenizers know a word by the space before it, so that a name at the
very beginning is not the same token as later."""


class Settings(TokenSettings):
    """What a suite may set for the `example` probe."""

    text: Annotated[str, Field(min_length=1)] = TEXT
    """The text: 64 tokens at most. Without a tokenizer, a random block of 10 tokens, twice."""
    heads: HeadSelection | HeadList
    """The induction heads."""
    switches: Annotated[int, Field(ge=0, le=6)] = 4
    """Switches that the heads are divided among; each of their 2^k settings is measured."""
    method: Writing = "mean"
    """What replaces the output of ablated heads."""
    sequences: Annotated[int, Field(ge=1)] = 4
    """Number of sequences of random tokens, repeated once."""
    period: Annotated[int, Field(ge=3)] = 25
    """Tokens in a block."""

    @field_validator("text")
    @classmethod
    def _not_blank(cls, text: str) -> str:
        if not text.strip():
            raise ValueError("a text of white space alone shows nothing")
        return text


METRICS: dict[str, MetricInfo] = {
    "example_probability": MetricInfo(
        "mean probability of the token that follows, at repeated tokens of the text",
        "up",
        "probability",
        True,
    ),
    "example_probability_off": MetricInfo(
        "the same with all induction heads off", "down", "probability", True
    ),
    "example_induction_max": MetricInfo(
        "highest mean attention of a head, at repeated tokens of the text, to what followed before",
        "up",
        "probability",
        True,
    ),
}
NO_REPEAT = "no token of the text comes twice"
NO_NEXT = "no token that comes again is followed by another"


def measure(model: Model, settings: Settings, context: Context) -> Measurement:
    """Read one text token by token and pattern by pattern, then try every setting of switches.

    Args:
        model: the model.
        settings: the text, the induction heads, how many switches.
        context: the measurement that heads are chosen from, and progress.

    Raises:
        NotMeasurable: the model has no attention heads, or its tokenizer does not know a word.
        MeasurementError: the text is too long or empty, a head does not exist, or the sequences
            do not fit the model.
    """
    import torch

    from icl_bench.measures import statistics as st
    from icl_bench.measures import tokens as tk
    from icl_bench.probes.example.patterns import (
        MOST_HEADS,
        keep_strongest,
        pattern_rows,
        read_patterns,
    )
    from icl_bench.probes.example.switched import try_switches
    from icl_bench.probes.example.text import encode_example, token_rows
    from icl_bench.probes.example.toggles import switch_rows

    model.require_heads()
    example = encode_example(model, settings.text, settings.bos, settings.seed)
    tokens = _draw(model, settings, context)
    switches = _make_switches(model, settings, context)
    ids = torch.tensor([example.ids])
    rows = pattern_rows(
        model.every_head, read_patterns(model, ids), example.sources, example.prefix
    )
    settled = try_switches(model, settings, context, example, tokens, switches)
    kept = keep_strongest(rows, MOST_HEADS)
    tables = {
        "example_tokens": token_rows(example, settled.losses),
        "example_patterns": kept,
        "switches": switch_rows(switches),
        "switched": settled.rows,
        "switched_random": settled.random_rows,
    }
    missing = _explain_missing(settings, switches)
    result = Measurement(
        probe="example",
        settings=settings.model_dump(by_alias=True, exclude_none=True)
        | tell_stream(context.upstream),
        tokens_sha256=tk.digest_tokens(ids, tokens.input_ids, *settled.batches),
        tables={name: table for name, table in tables.items() if table},
    )
    result.reason = _remark(missing, settled, len(kept), len(rows))
    if example.sources:
        best = max(row["induction"] for row in rows)
        result.metrics["example_induction_max"] = st.exact_metric(best, 1)
    else:
        result.unmeasured["example_induction_max"] = NO_REPEAT
    _report_answers(result, example, settled, switches, missing)
    return result


def _draw(model: Model, settings: Settings, context: Context) -> RepeatedTokens:
    from icl_bench.measures.tokens import draw_repeated

    tokens = draw_repeated(
        model.pool(settings.token_pool),
        sequences=settings.sequences,
        period=settings.period,
        seed=settings.seed,
        bos=model.choose_bos(settings.bos),
        stream=name_stream(context.upstream),
    )
    model.require_context(tokens.input_ids.shape[1])
    return tokens


def _remark(missing: str | None, settled: Settled, kept: int, heads: int) -> str | None:
    """Return what is to be said of the example; None if nothing is."""
    remarks = [missing] if missing else []
    if not missing and not settled.random_rows:
        remarks.append("the layers of the induction heads have no other heads to compare with")
    if kept < heads:
        remarks.append(f"patterns of the {kept} heads of {heads} with the highest scores")
    return "; ".join(remarks) or None


def _make_switches(model: Model, settings: Settings, context: Context) -> list[Switch]:
    """Order the induction heads by strength, find previous-token heads, divide them."""
    from icl_bench.probes.example.toggles import find_previous, lay_out_switches

    chosen = choose_heads(model, settings, context.upstream)
    induction, previous = _score(model, settings, context.upstream)
    strongest = sorted(chosen, key=lambda head: (-induction[head], head))
    return lay_out_switches(strongest, find_previous(previous, chosen), settings.switches)


def _score(
    model: Model, settings: Settings, upstream: Measurement | None
) -> tuple[dict[Head, float], dict[Head, float]]:
    """Induction and previous-token score of every head: the source's, or, without, new ones."""
    from icl_bench.measures import tokens as tk

    names = ("induction", "previous_token")
    if upstream is not None and upstream.heads and all(name in upstream.heads[0] for name in names):
        by_head = {(row["layer"], row["head"]): row for row in upstream.heads}
        first, second = ({head: row[name] for head, row in by_head.items()} for name in names)
        return first, second
    tokens: RepeatedTokens = tk.draw_repeated(
        model.pool(settings.token_pool),
        sequences=settings.sequences,
        period=settings.period,
        seed=settings.seed,
        bos=model.choose_bos(settings.bos),
    )
    pairs = {
        "induction": tk.induction_pairs(tokens),
        "previous_token": tk.previous_token_pairs(tokens),
    }
    scores = model.head_scores(tokens.input_ids, pairs)
    first, second = (
        {
            (layer, head): float(scores[name][layer][:, head].double().mean())
            for layer, head in model.every_head
        }
        for name in names
    )
    return first, second


def _explain_missing(settings: Settings, switches: list[Switch]) -> str | None:
    """Return why there is no switch with induction heads, or None where there is one."""
    if any(switch.role == "induction" for switch in switches):
        return None
    if settings.switches == 0:
        return "switches: 0 in the suite"
    return describe_misfit(settings.heads) or "no head is chosen"


def _report_answers(
    result: Measurement,
    example: Example,
    settled: Settled,
    switches: list[Switch],
    missing: str | None,
) -> None:
    """Fill in how likely the text's own tokens are with the induction heads on and off.

    Args:
        result: the measurement.
        example: the text.
        settled: what was measured.
        switches: the switches.
        missing: why no switch has induction heads, or None.
    """
    from icl_bench.measures.statistics import exact_metric
    from icl_bench.probes.example.toggles import every_setting

    names = ("example_probability", "example_probability_off")
    followed = [
        column
        for column, position in enumerate(example.asked)
        if position in example.sources and position + 1 < len(example.ids)
    ]
    if not followed:
        why = NO_NEXT if example.sources else NO_REPEAT
        result.unmeasured |= dict.fromkeys(names, why)
        return
    means = settled.answers[:, followed].mean(axis=1)
    result.metrics[names[0]] = exact_metric(means[0], 1)
    if missing:
        result.unmeasured[names[1]] = missing
    else:
        off = [number for number, one in enumerate(switches) if one.role == "induction"]
        place = every_setting(len(switches)).index(off)
        result.metrics[names[1]] = exact_metric(means[place], 1)


PROBE = Probe("example", Settings, METRICS, measure, gives=("example_tokens",))
