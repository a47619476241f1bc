"""Probes `copying` and `weight_composition`: known answers, and models in which each must fall."""

from __future__ import annotations

import circuit_families as families
import numpy as np
import pytest
import torch
from slow_intervals import ends

import icl_bench
from icl_bench.errors import MeasurementError, NotMeasurable
from icl_bench.measures.tokens import draw_repeated
from icl_bench.models.circuits.ovcircuit import ov_behaviour
from icl_bench.probes.design.context import Context
from icl_bench.probes.design.settings import HeadSelection, Threshold
from icl_bench.probes.heads import copying, induction, weight_composition
from icl_bench.reference.handwired import handwired
from icl_bench.reference.tokenizer import build_tokenizer

CHOSEN = HeadSelection(
    **{"from": "repeats"},  # type: ignore[arg-type]
    where={"induction": Threshold(above=0.4)},
)
SMALL = {"sequences": 32, "period": 20}


def wired(**options):
    module = handwired(**options)
    return icl_bench.wrap(module, build_tokenizer(module.config.max_position_embeddings))


def copy_scores(model, heads=CHOSEN, **more):
    repeats = induction.measure(model, induction.Settings(control=False, **SMALL), Context())
    settings = copying.Settings(heads=heads, **SMALL, **more)
    return copying.measure(model, settings, Context(upstream=repeats))


def compose(model, heads):
    return weight_composition.measure(
        model, weight_composition.Settings(heads=heads), Context(upstream=None)
    )


def value(measurement, metric):
    return measurement.metrics[metric].value


@pytest.fixture(scope="module")
def trained():
    return icl_bench.load_model("builtin:induction-2l")


def test_trained_induction_heads_copy_by_both_scores(trained):
    found = copy_scores(trained)
    assert found.tables["chosen_heads"] == [{"layer": 1, "head": 0}, {"layer": 1, "head": 4}]
    rows = {(row["layer"], row["head"]): row for row in found.heads}
    assert len(rows) == 24
    own = [rows[1, 0], rows[1, 4]]
    rest = [row for place, row in rows.items() if place not in ((1, 0), (1, 4))]
    for score in ("ov_eigenvalue", "ov_behaviour"):
        mean, others = (np.mean([row[score] for row in group]) for group in (own, rest))
        assert value(found, f"{score}_mean") == pytest.approx(mean)
        assert value(found, f"{score}_others") == pytest.approx(others)
    assert value(found, "ov_eigenvalue_max") == max(row["ov_eigenvalue"] for row in own)
    assert value(found, "ov_eigenvalue_mean") > 0.99 and found.metrics["ov_eigenvalue_mean"].exact
    assert value(found, "ov_behaviour_chance") == 2 / 20 - 1
    assert found.metrics["ov_behaviour_mean"].ci_low > value(found, "ov_behaviour_chance") + 0.3
    assert found.metrics["ov_behaviour_others"].ci_high < found.metrics["ov_behaviour_mean"].ci_low
    assert set(found.metrics) == set(copying.METRICS) and not found.unmeasured


def test_behaviour_has_an_interval_over_sequences(trained):
    found = copy_scores(trained)
    tokens = draw_repeated(trained.vocabulary, seed=0, bos=trained.bos, stream="test", **SMALL)
    samples = ov_behaviour(trained, tokens)[1][:, [0, 4]].mean(1).numpy()
    metric = found.metrics["ov_behaviour_mean"]
    assert metric.value == pytest.approx(samples.mean())
    assert (metric.ci_low, metric.ci_high) == pytest.approx(ends(samples, bounds=(-1.0, 1.0)))
    single = copying.Settings(heads=[[1, 0]], sequences=1, period=20)
    assert copying.measure(trained, single, Context()).metrics["ov_behaviour_mean"].stderr is None


def test_turned_round_the_same_heads_do_not_copy():
    model = icl_bench.load_model("builtin:induction-2l")
    with torch.no_grad():
        model.model.model.layers[1].self_attn.o_proj.weight.neg_()
    found = copy_scores(model, [[1, 0], [1, 4]])
    assert value(found, "ov_eigenvalue_max") < -0.99
    assert value(found, "ov_behaviour_mean") < value(found, "ov_behaviour_chance")


def test_heads_without_weights_are_left_out_with_the_reason():
    model = wired()
    found = copy_scores(model)
    assert value(found, "heads") == 1
    assert value(found, "ov_eigenvalue_mean") == pytest.approx(1)
    assert found.unmeasured["ov_eigenvalue_others"] == "the OV circuit of all other heads is 0"
    with torch.no_grad():
        model.model.model.layers[1].self_attn.o_proj.weight.zero_()
    found = copy_scores(model, [[1, 0]])
    assert set(found.metrics) == {"heads", "ov_behaviour_chance"}
    assert found.unmeasured["ov_eigenvalue_max"] == "the OV circuit of the chosen heads is 0"
    assert found.unmeasured["ov_behaviour_max"] == (
        "the chosen heads raise no logit of the sample's tokens"
    )


def test_without_a_chosen_head_only_the_others_are_measured():
    found = copy_scores(icl_bench.load_model("builtin:control-1l"))
    assert value(found, "heads") == 0
    assert found.unmeasured["ov_eigenvalue_mean"] == "no head was chosen"
    assert found.unmeasured["ov_behaviour_max"] == "no head was chosen"
    assert value(found, "ov_eigenvalue_others") > 0.9  # bigrams of the training text copy too


def test_each_copying_score_is_left_out_on_its_own():
    found = copy_scores(icl_bench.wrap(families.build("bloom")), [[1, 0]])
    assert "attention interface" in found.unmeasured["ov_eigenvalue_mean"]
    assert "ov_behaviour_mean" in found.metrics
    with pytest.raises(NotMeasurable, match="gate or norm between heads and W_O"):
        copy_scores(icl_bench.wrap(families.build("bitnet")), [[1, 0]])
    with pytest.raises(MeasurementError, match=r"no head 1\.9"):
        copy_scores(icl_bench.wrap(families.build("llama")), [[1, 9]])


def test_composition_names_the_previous_token_head(trained):
    found = compose(trained, [[1, 0], [1, 4]])
    assert set(found.metrics) == set(weight_composition.METRICS)
    assert all(metric.exact for metric in found.metrics.values())
    assert found.tokens_sha256 is None
    keys = [row for row in found.tables["highest"] if row["side"] == "key"]
    assert [(row["sender_layer"], row["sender_head"]) for row in keys] == [(0, 9), (0, 9)]
    pairs = found.tables["composition"]
    assert len(pairs) == 24
    excess = [row["key_excess"] for row in pairs]
    assert value(found, "key_excess_max") == max(excess) > 0.15
    assert value(found, "key_excess_mean") == pytest.approx(np.mean(excess))
    assert value(found, "query_excess_max") < 0.02 and value(found, "value_excess_max") < 0.02
    frame = icl_bench.weight_composition(trained, [(1, 0), (1, 4)])
    assert value(found, "random_composition") == pytest.approx(frame["random"].mean())
    best = frame[frame["side"] == "value"]["excess"].max()
    assert value(found, "value_excess_max") == pytest.approx(best)


def test_composition_without_the_previous_token_head_is_not_measured():
    found = compose(wired(previous_token=False), [[1, 0]])
    why = "the weights of these heads, or of all below them, are 0"
    assert found.unmeasured["key_excess_max"] == why
    found = compose(wired(), [[1, 0]])
    assert value(found, "key_excess_max") > 0.02 > value(found, "query_excess_max")


def test_composition_of_first_layers_and_of_bent_keys_is_left_out_with_the_reason():
    found = compose(icl_bench.load_model("builtin:control-1l"), [[0, 3]])
    assert found.unmeasured["key_excess_max"] == "no chosen head has a head below it"
    assert value(found, "heads") == 0
    module = families.build("llama")
    keys = families.layer_of(module, 2).self_attn.k_proj
    keys.register_forward_hook(lambda part, args, output: output + output.tanh())
    found = compose(icl_bench.wrap(module), [[2, 0]])
    assert "keys are not a linear map" in found.unmeasured["key_excess_mean"]
    assert "value_excess_max" in found.metrics
    assert "key_excess" not in found.tables["composition"][0]
    with pytest.raises(NotMeasurable, match="attention interface"):
        compose(icl_bench.wrap(families.build("bloom")), [[2, 0]])
