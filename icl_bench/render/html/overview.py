"""The top of the page: the model, the verdict, what did not pass, the numbers that tell most."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any

from icl_bench.records.display import describe_weights
from icl_bench.records.parts import Check, Measurement, Verdict
from icl_bench.records.record import RunRecord
from icl_bench.records.rows import list_heads
from icl_bench.render.html.checks import anchor, verdict_cell
from icl_bench.render.steps import describe_steps
from icl_bench.render.writing import numbers
from icl_bench.render.writing.markup import bounds
from icl_bench.render.writing.text import WORDS, count_cached, one_line, overall

_MISSED: tuple[Verdict, ...] = ("error", "fail", "inconclusive")
_MOST_MISSED = 8
"""Named at the top of the page; the rest is counted."""
_STATUS = {
    "partial": "some of the suites' checks were not run",
    "interrupted": "the run did not end by itself; what it had measured is kept",
}
_SCORES = (
    ("induction_max", "strongest induction head"),
    ("previous_token_max", "strongest previous-token head"),
)
_MOST_HEADS = 4
"""Heads that a tile names; more are counted."""


def overview(record: RunRecord) -> dict[str, Any]:
    """Return the head of the page: model, verdict, counts, the numbers that tell most."""
    model = record.model
    word = overall(record.checks)
    counts = Counter(check.verdict for check in record.checks)
    facts = [model.architecture]
    if model.layers is not None:
        facts.append(f"{model.layers} layers × {_each(model.heads)} heads")
    if model.parameters is not None:
        facts.append(f"{numbers.count(model.parameters)} parameters")
    facts += [model.dtype, model.attention and f"{model.attention} attention"]
    missed = [check for verdict in _MISSED for check in record.checks if check.verdict == verdict]
    verdict: Verdict = next((v for v, text in WORDS.items() if text == word), "skipped")
    return {
        "spec": one_line(model.label) + (f"@{model.revision}" if _single(record) else ""),
        "verdict": {**verdict_cell(verdict), "word": word},
        "counts": [(verdict_cell(one), counts[one]) for one in WORDS if counts[one]],
        "missed": [_missed(record, check) for check in missed[:_MOST_MISSED]],
        "more": max(len(missed) - _MOST_MISSED, 0),
        "gates": [
            {"verdict": verdict_cell(gate.verdict), "name": gate.gate, "why": gate.reason}
            for gate in record.gates
        ],
        "facts": " · ".join(one_line(fact) for fact in facts if fact),
        "created": record.created.replace("T", " ").split(".")[0],
        "notes": list(_notes(record)),
        "suites": [(suite.name, suite.description or "") for suite in record.suites],
        "tiles": list(_tiles(record)),
    }


def _notes(record: RunRecord) -> Iterator[str]:
    if record.step is not None:
        yield f"Measured in training, after optimizer step {numbers.count(record.step)}."
    if told := describe_steps(record):
        yield (
            f"A series of {told}. Checks are on the last one, or on the whole series where they "
            "ask about it; architecture and heads are the last one's."
        )
    if record.status != "complete":
        yield f"This run is {record.status}: {_STATUS[record.status]}."
    if record.model.attention_note:
        yield f"Attention: {record.model.attention_note}"
    for name, text in describe_weights(record.model):
        yield f"{name.capitalize()}: {text}"
    if record.model.tokenizer_note:
        yield f"Tokenizer: {record.model.tokenizer_note}"
    if cached := count_cached(record.measurements.values()):
        yield f"{cached}: weights, settings and code are those of the run that took them."


def _missed(record: RunRecord, check: Check) -> dict[str, Any]:
    several = len({one.suite for one in record.checks}) > 1
    return {
        "verdict": verdict_cell(check.verdict),
        "anchor": anchor(record, check),
        "name": f"{check.suite}::{check.id}" if several else check.id,
        "why": one_line(check.reason or ""),
    }


def _tiles(record: RunRecord) -> Iterator[dict[str, str]]:
    """The numbers that stand large at the top; those about an ablation are all of one."""
    measured = list(record.measurements.values())
    for name, words in _SCORES:
        yield from _tile(_first(measured, name), name, words)
    main = _main_ablation(record)
    gained = (
        main or _first(measured, "gain_ablated", "gain") or _first(measured, "first_loss", "gain")
    )
    yield from _tile(gained, "gain", "nats gained by repetition")
    if main:
        yield from _tile(main, "copying_lost", f"of that lost without {_without(main)}")
        yield from _tile(main, "null_p_value", "p, against random heads")
    change = _first(measured, "midpoint_step")
    yield from _tile(change, "midpoint_step", "step at which half of induction is there")


def _tile(one: Measurement | None, name: str, words: str) -> Iterator[dict[str, str]]:
    metric = one.metrics.get(name) if one else None
    if metric:
        interval = bounds(metric.ci_low, metric.ci_high)
        yield {"value": numbers.number(metric.value), "interval": interval, "words": words}


def _first(measured: list[Measurement], *names: str) -> Measurement | None:
    return next((one for one in measured if one.metrics.keys() >= {*names}), None)


_NULLS = {"null_margin", "null_p_value"}


def _main_ablation(record: RunRecord) -> Measurement | None:
    """The ablation that a reader means: heads off, no part of an edge, no layer, with its null."""
    asked = {check.measurement for check in record.checks if check.metric == "copying_lost"}
    found = [
        (_by_induction(one), not _NULLS.isdisjoint(one.metrics), key in asked, one)
        for key, one in record.measurements.items()
        if "copying_lost" in one.metrics
        and one.tables.get("ablated_heads")
        and one.settings.get("method") != "edge_knockout"
        and not any(one.settings.get(name) for name in ("mlps", "layers", "keep_only"))
    ]
    return max(found, key=lambda each: each[:3])[3] if found else None


def _by_induction(one: Measurement) -> bool:
    """Whether heads were chosen by their induction scores, not listed or chosen otherwise."""
    chosen = one.settings.get("heads")
    where = chosen.get("where") if isinstance(chosen, dict) else None
    return (
        isinstance(where, dict)
        and "induction" in where
        and all(str(score).startswith("induction") for score in where)
    )


def _without(one: Measurement) -> str:
    if _by_induction(one):
        return "induction heads"
    heads = one.tables["ablated_heads"]
    more = len(heads) - _MOST_HEADS
    return list_heads(heads[:_MOST_HEADS]) + (f" and {more} more heads" if more > 0 else "")


def _single(record: RunRecord) -> bool:
    return bool(record.model.revision and not record.model.steps)


def _each(heads: int | list[int] | None) -> str:
    if isinstance(heads, list) and heads:
        return f"{min(heads)}–{max(heads)}"
    return str(heads) if heads else "?"
