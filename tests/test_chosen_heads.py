"""Heads chosen where none is strong, what other thresholds choose, and which few carry copying."""

from __future__ import annotations

import pytest
from handset import add_induction, textbook
from pydantic import ValidationError
from verdict_lookalikes import backup_head
from verdict_models import shared_induction

import icl_bench
from icl_bench.measures.tokens import draw_repeated
from icl_bench.probes.ablations import ablation
from icl_bench.probes.ablations.thresholds import FEW, KEPT, LEVELS, heads_by_level
from icl_bench.probes.design.context import Context
from icl_bench.probes.design.head_selection import choose_heads, describe_misfit
from icl_bench.probes.design.settings import PATTERN, HeadSelection
from icl_bench.probes.heads import induction
from icl_bench.records.parts import Measurement

SMALL = {"sequences": 5, "period": 12}
RULE = {
    "from": "repeats",
    "where": {"induction": {"above": 0.4}, "induction_excess": {"above": 0.2}},
}


def scored(scores):
    """Return a measurement of heads with these (induction, excess)."""
    rows = [
        {"layer": 0, "head": head, "induction": score, "induction_excess": excess}
        for head, (score, excess) in enumerate(scores)
    ]
    return Measurement(probe="induction", settings={}, heads=rows)


def choose(scores, **rule):
    settings = ablation.Settings(heads=HeadSelection(**RULE, **rule))
    return choose_heads(None, settings, scored(scores))


def test_where_heads_hold_all_bounds_the_others_are_left_out():
    scores = [(0.5, 0.3), (0.3, 0.29), (0.9, 0.1), (0.41, 0.21)]
    assert choose(scores, or_top=1) == choose(scores) == [(0, 0), (0, 3)]


def test_where_none_does_the_highest_excess_of_those_with_the_pattern_is_chosen():
    scores = [(0.35, 0.12), (0.2, 0.19), (0.38, 0.3), (0.9, PATTERN - 0.001)]
    assert choose(scores) == []
    assert choose(scores, or_top=2) == [(0, 1), (0, 2)]
    assert choose(scores, or_top=8) == [(0, 0), (0, 1), (0, 2)]
    assert choose([(0.3, PATTERN), (0.3, 0.05)], or_top=8) == [(0, 0)]


def test_without_the_pattern_none_is_chosen_and_both_reasons_are_said():
    assert choose([(0.9, 0.01), (0.3, 0.02)], or_top=8) == []
    told = describe_misfit(HeadSelection(**RULE, or_top=8))
    assert told is not None and "induction above 0.4" in told
    assert f"nor induction_excess of {PATTERN:g}" in told


@pytest.mark.parametrize("rule", [{"top": 3}, {"random": 3}, {}])
def test_or_top_without_bounds_is_refused(rule):
    with pytest.raises(ValidationError, match="or_top"):
        HeadSelection(**{"from": "repeats", "or_top": 8, **rule})


# What other thresholds choose, and a smallest set.


def measure(built, **settings):
    model = icl_bench.wrap(built)
    upstream = induction.measure(model, induction.Settings(**SMALL), Context())
    given = {"method": "zero", "null_sets": 1, "heads": HeadSelection(**RULE, or_top=8)}
    found = ablation.Settings(**{**SMALL, **given, **settings})
    return model, upstream, ablation.measure(model, found, Context(upstream=upstream))


def test_thresholds_are_those_of_one_ablation_after_the_other():
    built = shared_induction(2, 0.45)
    add_induction(built, index=2, attention=0.25, write=1)
    model, upstream, found = measure(built)
    tokens = draw_repeated(model.vocabulary, bos=model.bos, stream="test", **SMALL)
    ids = tokens.input_ids[:FEW]
    later, first = tokens.prefix + SMALL["period"], slice(tokens.prefix, tokens.prefix + 11)

    def losses(heads):
        return icl_bench.token_losses(model, ids, ablate=heads).double().numpy()

    gain = losses([])[:, first].mean() - losses([])[:, later:].mean()
    expected = []
    for level in LEVELS:
        heads = [
            (row["layer"], row["head"])
            for row in upstream.heads
            if row["induction"] > level and row["induction_excess"] > min(level, 0.2)
        ]
        lost = (losses(heads)[:, later:].mean() - losses([])[:, later:].mean()) / gain
        expected.append((level, len(heads), pytest.approx(lost, abs=1e-4)))
    rows = [tuple(row.values()) for row in found.tables["thresholds"]]
    assert rows == expected
    assert [count for _, count, _ in rows] == [3, 2, 2, 0, 0]


def test_the_first_score_must_exceed_the_threshold_and_others_their_own_bound_if_lower():
    scores = [(0.35, 0.25), (0.55, 0.21), (0.55, 0.19), (0.9, 0.9), (0.25, 0.1)]
    settings = ablation.Settings(heads=HeadSelection(**RULE))
    levels = heads_by_level(settings, scored(scores))
    heads = {level: [head for _, head in some] for level, some in levels.items()}
    assert heads == {0.2: [0, 1, 3], 0.3: [0, 1, 3], 0.4: [1, 3], 0.5: [1, 3], 0.6: [3]}


def test_there_are_no_thresholds_where_heads_are_not_chosen_by_attention():
    for heads in ([[1, 0]], HeadSelection(**{"from": "repeats", "top": 1})):
        _, _, found = measure(textbook(), heads=heads)
        assert "thresholds" not in found.tables
    _, _, without = measure(textbook(), null_sets=0)
    assert "thresholds" not in without.tables


def test_what_a_backup_head_repairs_is_named_with_a_smallest_set():
    model, _, found = measure(backup_head())
    assert found.metrics["copying_lost"].value < 0.25
    kept = [(row["layer"], row["head"]) for row in found.tables["minimal_set"]]
    assert (0, 0) in kept and {(1, 0), (2, 0)} & set(kept)
    named = ", ".join(f"{layer}.{head}" for layer, head in kept)
    assert f"heads {named} alone keep {KEPT:.0%}" in found.remarks["copying_lost"]
    tokens = draw_repeated(model.vocabulary, bos=model.bos, stream="test", **SMALL)
    clean, alone = (
        icl_bench.token_losses(model, tokens.input_ids, **more).double()[:, tokens.prefix + 12 :]
        for more in ({}, {"keep": kept})
    )
    assert float(alone.mean() - clean.mean()) < (1 - KEPT) * found.metrics["gain"].value * 1.1


def test_where_the_heads_carry_copying_no_smallest_set_is_looked_for():
    _, _, found = measure(textbook())
    assert found.metrics["copying_lost"].value > 0.25
    assert "minimal_set" not in found.tables and "copying_lost" not in found.remarks
