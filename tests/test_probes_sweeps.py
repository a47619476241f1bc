"""The probes `sweep` and `minimal_set`, and the new ways of `ablation`, where answers are known."""

from __future__ import annotations

import math

import pytest
from pydantic import ValidationError

import icl_bench
from icl_bench.errors import MeasurementError, NotMeasurable
from icl_bench.probes.ablations import ablation, minimal_set, sweep
from icl_bench.probes.design.context import Context
from icl_bench.reference.handwired import handwired

CIRCUIT = [{"layer": 0, "head": 0}, {"layer": 1, "head": 0}]


@pytest.fixture(scope="module")
def model():
    return icl_bench.load_model("builtin:handwired")


@pytest.fixture(scope="module")
def broken():
    """The twin without a previous-token head."""
    return icl_bench.wrap(handwired(previous_token=False))


def value(result, name):
    return result.metrics[name].value


def ablate(model, **settings):
    given = {"sequences": 4, "period": 20, "null_sets": 0, **settings}
    return ablation.measure(model, ablation.Settings(**given), Context())


@pytest.mark.parametrize("method", ["zero", "resample", "edge_knockout", "pattern_preserving"])
def test_without_the_induction_head_nothing_is_copied(model, method):
    result = ablate(model, heads=[[1, 0]], method=method)
    assert value(result, "repeated_loss_ablated") > 5.5
    assert value(result, "copying_lost") > 0.9


def test_the_pattern_preserving_ablation_cannot_see_a_previous_token_head(model):
    """Its work is in the pattern of the other head, which is kept."""
    kept = ablate(model, heads=[[0, 0]], method="pattern_preserving")
    assert value(kept, "copying_lost") == pytest.approx(0, abs=0.01)
    assert value(ablate(model, heads=[[0, 0]], method="zero"), "copying_lost") > 0.99


def test_removing_edges_of_a_head_that_does_not_use_them_changes_nothing(model):
    result = ablate(model, heads=[[1, 5]], method="edge_knockout")
    assert value(result, "delta_repeated") == pytest.approx(0, abs=1e-5)


def test_the_two_heads_alone_copy_as_well_as_all(model):
    both = ablate(model, heads=[[0, 0], [1, 0]], method="mean", keep_only=True)
    one = ablate(model, heads=[[1, 0]], method="mean", keep_only=True)
    assert value(both, "copying_lost") == pytest.approx(0, abs=0.01)
    assert value(one, "copying_lost") > 0.99
    assert both.tables["chosen_heads"] == CIRCUIT and len(both.tables["ablated_heads"]) == 46
    assert "switched off alone" in both.unmeasured["null_p_value"]


def test_keeping_every_head_switches_nothing_off(model):
    every = [list(head) for head in model.every_head]
    result = ablate(model, heads=every, keep_only=True)
    assert value(result, "heads") == 0 and value(result, "loss_ratio") == 1
    assert result.reason == "every head is kept: nothing was switched off"


def test_switching_every_head_off_is_a_result_without_a_null(model):
    every = [list(head) for head in model.every_head]
    result = ablate(model, heads=every, null_draws=9)
    assert value(result, "heads") == 48
    assert "too few other heads" in result.unmeasured["null_p_value"]


def test_frozen_patterns_and_edges_contradict_each_other():
    with pytest.raises(ValidationError, match="cannot have 'patterns: frozen'"):
        ablation.Settings(heads=[[0, 0]], method="edge_knockout", patterns="frozen")


def sweep_of(model, **settings):
    given = {"sequences": 4, "period": 20, **settings}
    return sweep.measure(model, sweep.Settings(**given), Context())


@pytest.mark.parametrize("exact", [True, False])
def test_a_sweep_finds_both_heads_of_the_circuit_and_no_other(model, exact):
    result = sweep_of(model, exact=exact, top=2)
    effects = {(row["layer"], row["head"]): row["delta"] for row in result.heads}
    found = sorted(effects, key=lambda head: -effects[head])[:2]
    assert set(found) == {(0, 0), (1, 0)}
    assert effects[0, 0] == pytest.approx(math.log(400), abs=0.01)
    assert max(effects[head] for head in set(effects) - set(found)) == pytest.approx(0, abs=1e-4)
    assert value(result, "delta_max") == pytest.approx(math.log(400), abs=0.01)


def test_an_exact_sweep_counts_the_heads_that_matter(model):
    assert value(sweep_of(model), "heads_above") == 2


def test_a_sweep_of_a_model_without_the_circuit_finds_nothing(broken):
    result = sweep_of(broken)
    assert value(result, "delta_max") < 0.01 and value(result, "heads_above") == 0


def test_heads_can_be_chosen_by_a_sweep(model):
    swept = sweep_of(model)
    settings = ablation.Settings.model_validate(
        {"heads": {"from": "s", "top": 2}, "sequences": 4, "period": 20, "null_sets": 0}
    )
    result = ablation.measure(model, settings, Context(swept))
    assert result.tables["ablated_heads"] == CIRCUIT
    by_score = ablation.Settings.model_validate(
        {"heads": {"from": "s", "where": {"induction": {"above": 0.4}}}, "sequences": 4}
    )
    with pytest.raises(MeasurementError, match="'s' has not measured 'induction'"):
        ablation.measure(model, by_score, Context(swept))


def test_the_minimal_set_is_the_circuit(model):
    settings = minimal_set.Settings(
        sequences=3, choose_sequences=2, period=16, random_orders=3, method="zero"
    )
    result = minimal_set.measure(model, settings, Context())
    kept = [(row["layer"], row["head"]) for row in result.tables["kept_heads"]]
    assert set(kept) == {(0, 0), (1, 0)}
    assert value(result, "heads") == 2 and value(result, "heads_share") == 2 / 48
    assert value(result, "copying_kept") == pytest.approx(1, abs=0.01)
    assert value(result, "gain_kept") == pytest.approx(1, abs=0.01)
    assert value(result, "copying_kept_by_effect") == pytest.approx(1, abs=0.01)
    # The score finds only one of the two.
    assert value(result, "copying_kept_by_induction") < 0.1
    assert value(result, "copying_kept_random_max") < 0.1
    curve = {
        row["heads"]: row["copying_kept"]
        for row in result.tables["curve"]
        if row["order"] == "elimination"
    }
    assert curve[48] == pytest.approx(1, abs=1e-4)
    assert curve[1] < 0.1 < 0.9 < curve[2]


def test_there_is_no_minimal_set_where_nothing_is_gained(broken):
    settings = minimal_set.Settings(sequences=3, choose_sequences=2, period=16)
    with pytest.raises(NotMeasurable, match="gains nothing from repetition"):
        minimal_set.measure(broken, settings, Context())


def test_the_python_functions_agree_with_the_probes(model):
    tokens = icl_bench.repeated_tokens(model, sequences=4, period=20)
    frame = icl_bench.ablation_sweep(model, tokens)
    rows = sweep_of(model).heads
    assert frame["delta"].tolist() == pytest.approx([row["delta"] for row in rows], abs=1e-6)
    assert (frame["delta_low"] == frame["delta_high"]).all()
    assert icl_bench.minimal_set(model, tokens, method="zero") in (
        [(0, 0), (1, 0)],
        [(1, 0), (0, 0)],
    )
