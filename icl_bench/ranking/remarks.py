"""What a reader has to know of a row, and of a group, in sentences."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from icl_bench.ranking.circuit import LEAST, NO_CIRCUIT
from icl_bench.ranking.columns import Column
from icl_bench.records.display import describe_weights

if TYPE_CHECKING:
    from icl_bench.ranking.board import Group, Row


def describe_row(row: Row) -> Iterator[str]:
    """Return remarks on one record.

    Args:
        row: the record.
    """
    if row.entry.status != "complete":
        yield f"{row.entry.status} run: it takes part with what it has"
    yield from (f"{name}: {text}" for name, text in describe_weights(row.entry.model))
    if row.entry.doubt:
        yield row.entry.doubt
    if steps := row.entry.model.steps:
        yield f"a series: it takes part with its last step, {steps[-1]}"


def describe_group(group: Group, column: Column, score: int) -> Iterator[str]:
    """Return remarks on how the models of a group were compared, and in what they differ.

    Args:
        group: the group.
        column: the column that ranks.
        score: its index.
    """
    yield from _describe_pairs(group, column, score)
    without = [row.name for row in group.rows if row.cells[score].no_circuit]
    if without:
        who = "1 model shares" if len(without) == 1 else f"{len(without)} models share"
        yield (
            f'{who} the last rank, "{NO_CIRCUIT}": the chosen head is not shown to do better than '
            f"even attention, or than its positional control, by more than {LEAST}."
        )
    ranked = group.rows[: group.ranked]
    taken = [row.entry.taken[column.key] for row in ranked]
    if len({one.tokens for one in taken}) > 1 and "text_sha256" in taken[0].settings:
        yield (
            "The text is the same, cut into tokens by each model's own tokenizer: losses are per "
            "token."
        )
    entries = [row.entry for row in group.rows]
    facts: dict[str, set[Any]] = {
        "dtype": {entry.model.dtype for entry in entries},
        "quantization": {entry.model.quantization or "none" for entry in entries},
        "attention": {entry.model.attention for entry in entries},
        "device": {entry.environment.device for entry in entries},
        "icl_bench": {entry.version for entry in entries},
    }
    for name, values in facts.items():
        shown = sorted(str(value) for value in values if value is not None)
        if len(shown) > 1:
            yield f"Models differ in {name}: {', '.join(shown)}. They are in one group."


def _describe_pairs(group: Group, column: Column, score: int) -> Iterator[str]:
    pairs = group.ranked * (group.ranked - 1) // 2
    if pairs == 0:
        return
    cells = [row.cells[score] for row in group.rows[: group.ranked]]
    figures = [cell.figure for cell in cells if cell.figure is not None]
    if column.exact or all(figure.exact for figure in figures):
        yield f"{column.short} is exact: equal values share a rank, others do not."
        return
    paired = int(group.pairs.paired.sum()) // 2
    yield (
        f"{paired} of {pairs} pairs measured the same tokens and are compared sample by sample, "
        "the others by both standard errors; all intervals hold together at 95%."
    )
    unknown = np.isinf(group.pairs.half).sum(axis=1)
    unsure = int((unknown == group.ranked - 1).sum())
    if unsure == group.ranked:
        yield f"{column.short} has no standard error: no two models can be compared by it."
    elif unsure:
        have = "one model has" if unsure == 1 else f"{unsure} models have"
        yield f"{have} no standard error and cannot be compared by it."
