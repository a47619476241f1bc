"""Causal indirect effects of heads, against hooks written by hand, and where there are none."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from pydantic import ValidationError

import icl_bench
from icl_bench import tasks
from icl_bench.errors import NotMeasurable
from icl_bench.models.attention.ablation import Replacement
from icl_bench.models.circuits.interventions import switch_off
from icl_bench.models.clean_run import run_base
from icl_bench.probes.design.context import Context
from icl_bench.probes.design.settings import HeadSelection
from icl_bench.probes.prompts import examples
from icl_bench.probes.texts import fewshot, function_vectors
from icl_bench.reference.handwired import handwired
from icl_bench.reference.tokenizer import build_tokenizer

NOUNS = {"dog": "Blorvek", "cat": "Quimzat", "cow": "Trevask", "fox": "Woombly"}
RULES = {
    "rule": tasks.Task(
        "rule",
        "a name",
        tuple((f"{w} {n}", name) for n, name in NOUNS.items() for w in ("A", "big", "old", "red")),
    ),
    "second": tasks.Task(
        "second",
        "a number",
        tuple((f"{w} {n}", v) for n, v in (("hat", "one"), ("cup", "two")) for w in NOUNS)
        + tuple((f"{w} key", "six") for w in NOUNS),
    ),
}
SMALL = {"tasks": ["rule"], "prompts": 4, "template": "{input} {output}", "separator": " . "}


@pytest.fixture(autouse=True)
def rules(monkeypatch):
    monkeypatch.setattr(function_vectors, "load_task", lambda name: RULES[name])
    monkeypatch.setattr(examples, "task_names", lambda: [*tasks.task_names(), *RULES])


def make(**options):
    model = handwired(**options)
    return icl_bench.wrap(model, build_tokenizer(model.config.max_position_embeddings))


def run(model, **settings):
    return function_vectors.measure(model, function_vectors.Settings(**SMALL | settings), Context())


def write(query, shots):
    return " . ".join([*(f"{a} {b}" for a, b in query.examples[-shots:]), query.given])


def slow_effects(model, task, count, clean_count, shots=10):
    """Todd et al.'s effect by hooks on the output projections, a prompt and a head at a time."""
    module, tokenizer = model.model, model.tokenizer
    layers = sorted(model.heads)
    projections = {layer: model.anatomy.layers[layer].projection for layer in layers}
    widths = {layer: model.shapes[layer][2] for layer in layers}
    seen = {}

    def forward(ids, edit=None):
        def hook(layer):
            def act(_, args):
                output = args[0].clone()
                seen[layer] = output[0, -1].clone()
                if edit is not None and edit[0] == layer:
                    _, head, vector = edit
                    width = widths[layer]
                    output[0, -1, head * width : (head + 1) * width] = vector
                return (output,)

            return act

        handles = [projections[layer].register_forward_pre_hook(hook(layer)) for layer in layers]
        try:
            with torch.no_grad():
                return module(torch.tensor([ids])).logits[0, -1].double().softmax(-1)
        finally:
            for handle in handles:
                handle.remove()

    sums = dict.fromkeys(layers, 0)
    for query in examples.draw_queries(task, clean_count, 2, 0, "vectors_clean"):
        forward(tokenizer(write(query, shots))["input_ids"])
        sums = {layer: sums[layer] + seen[layer] for layer in layers}
    rows = []
    queries = examples.draw_queries(task, count, 2, 0, "vectors_shuffled")
    for index, query in enumerate(queries):
        wrong = examples.shuffle_outputs(query, shots, 0, "vectors_shuffled", index)
        ids = tokenizer(write(wrong, shots))["input_ids"]
        answer = tokenizer.convert_tokens_to_ids(query.wanted)
        before = float(forward(ids)[answer])
        row = []
        for layer, head in model.every_head:
            width = widths[layer]
            vector = sums[layer][head * width : (head + 1) * width] / clean_count
            row.append(float(forward(ids, (layer, head, vector))[answer]) - before)
        rows.append(row)
    return np.array(rows)


@pytest.mark.parametrize("shots", [10, 3])
def test_effects_are_those_of_hooks_written_by_hand(shots):
    model = icl_bench.load_model("builtin:induction-2l")
    found = run(model, clean_prompts=3, shots=shots)
    expected = slow_effects(model, RULES["rule"], 4, 3, shots)
    effects = [row["function_vector"] for row in found.heads]
    assert effects == pytest.approx(expected.mean(0).tolist(), abs=1e-5)
    assert np.abs(expected.mean(0)).max() > 1e-3
    errors = [row["function_vector_stderr"] for row in found.heads]
    assert errors == pytest.approx((expected.std(0, ddof=1) / math.sqrt(4)).tolist(), abs=1e-5)


def test_several_tasks_are_averaged_over_prompts_first():
    model = icl_bench.load_model("builtin:induction-2l")
    found = run(model, tasks=["rule", "second"], clean_prompts=3, prompts=2)
    means = [slow_effects(model, RULES[name], 2, 3).mean(0) for name in ("rule", "second")]
    effects = [row["function_vector"] for row in found.heads]
    assert effects == pytest.approx(np.mean(means, axis=0).tolist(), abs=1e-5)
    assert found.metrics["function_vector_max"].n == 2
    assert [row["task"] for row in found.tables["tasks"]] == ["rule", "second"]


def test_only_the_head_that_copies_carries_anything():
    found = run(make(), clean_prompts=12)
    effects = {(row["layer"], row["head"]): row["function_vector"] for row in found.heads}
    assert max(effects, key=effects.get) == (1, 0)
    idle = [abs(effect) for head, effect in effects.items() if head not in ((1, 0), (0, 0))]
    assert max(idle) < 1e-6
    assert found.metrics["clean_probability"].value > found.metrics["shuffled_probability"].value


def test_a_model_whose_heads_write_nothing_has_no_effects():
    found = run(make(induction=False, previous_token=False))
    assert max(abs(row["function_vector"]) for row in found.heads) < 1e-6
    assert found.metrics["function_vector_max"].value == pytest.approx(0, abs=1e-6)
    assert found.metrics["function_vector_median"].value == pytest.approx(0, abs=1e-6)


def test_heads_are_chosen_by_their_effect_and_switched_off():
    model = make()
    found = run(model, clean_prompts=12)
    top = HeadSelection(**{"from": "fv"}, top=1)  # by function_vector when not said otherwise
    settings = fewshot.Settings(heads=top)
    from icl_bench.probes.ablations.ablation import choose_heads

    assert choose_heads(model, settings, found) == [(1, 0)]
    by = HeadSelection(**{"from": "fv"}, where={"function_vector": {"above": 1e-5}})
    assert (1, 0) in choose_heads(model, fewshot.Settings(heads=by), found)


def test_a_suite_may_choose_heads_from_it(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text(
        "icl_suite: 1\nname: mine\nmeasure:\n"
        "  fv: {probe: function_vectors, tasks: [antonym]}\n"
        "  off: {probe: fewshot, tasks: [comparative],"
        " heads: {from: fv, top: 8, by: function_vector}}\n"
        "checks:\n  - {id: c, on: off, metric: gain_lost, above: 0.1}\n"
    )
    assert icl_bench.suite.load_suite(path).measure["off"].settings.heads.top == 8


@pytest.mark.parametrize("method", ["zero", "vector", "outputs"])
def test_one_position_is_changed_and_no_other(method):
    """Positions before it keep their losses; the whole equals a pass in which rows differ."""
    model = icl_bench.load_model("builtin:induction-2l")
    ids = icl_bench.repeated_tokens(model, sequences=3, period=8).input_ids
    base = run_base(model, ids, torch.arange(1, ids.shape[1]))
    at = torch.tensor([4, 9, 12])
    outputs = model.head_outputs(ids.flip(1), [0, 1])
    means = {layer: kept.mean((0, 1)) for layer, kept in outputs.items()}
    values = {"zero": None, "vector": means, "outputs": outputs}[method]
    heads = [(0, 1), (1, 0), (1, 2)]
    found = switch_off(model, base, [heads], Replacement(values, at=at)).nll[0]
    clean = base.losses.nll
    for row, place in enumerate(at.tolist()):
        # The logits at position p are the loss of target p + 1, in column p.
        assert torch.allclose(found[row, :place], clean[row, :place], atol=1e-5)
        assert not torch.allclose(found[row, place], clean[row, place], atol=1e-4)
    # Everything that is not changed, changed for the clean outputs, is the same thing.
    own = model.head_outputs(ids, [0])[0]
    written = own.clone()
    for row, place in enumerate(at.tolist()):
        stand_in = {"zero": 0, "vector": means[0][1], "outputs": outputs[0][row, place, 1]}[method]
        written[row, place, 1] = stand_in
    whole = switch_off(model, base, [[(0, 1)]], Replacement({0: written})).nll[0]
    single = switch_off(model, base, [[(0, 1)]], Replacement(values, at=at)).nll[0]
    assert torch.allclose(whole, single, atol=1e-5)


def test_one_position_of_a_layer_or_an_mlp_is_refused():
    model = icl_bench.load_model("builtin:induction-2l")
    ids = icl_bench.repeated_tokens(model, sequences=1, period=8).input_ids
    base = run_base(model, ids, torch.arange(1, ids.shape[1]))
    with pytest.raises(ValueError, match="outputs of heads"):
        switch_off(model, base, [[("layer", 0)]], Replacement(at=torch.tensor([3])))


def test_what_cannot_be_measured_says_why():
    with pytest.raises(NotMeasurable, match="no tokenizer"):
        run(icl_bench.wrap(make().model))
    with pytest.raises(ValidationError, match="greater than or equal to 2"):
        function_vectors.Settings(shots=1)
