"""Which ids random tokens are drawn from, and ids that a model has no embedding for."""

from __future__ import annotations

import pytest
import torch

import icl_bench
from icl_bench.models.module.vocabulary import bare_ids
from icl_bench.probes.ablations import ablation, losses
from icl_bench.probes.design.context import Context
from icl_bench.probes.heads import induction
from icl_bench.reference.handwired import handwired

SMALL = {"sequences": 4, "period": 12}


def half_empty():
    """The hand-wired model without embeddings for the second half of its words."""
    module = handwired()
    with torch.no_grad():
        module.model.embed_tokens.weight[200:] = 0
    return icl_bench.wrap(module, icl_bench.load_model("builtin:handwired").tokenizer)


def test_frequent_tokens_are_the_first_quarter():
    model = icl_bench.load_model("builtin:handwired")
    assert model.pool("uniform") == model.vocabulary
    assert model.pool("frequent") == model.vocabulary[: len(model.vocabulary) // 4]


@pytest.mark.parametrize("probe", [induction, ablation, losses], ids=lambda one: one.PROBE.name)
def test_only_ids_of_the_pool_go_through_the_model(probe, monkeypatch):
    model = icl_bench.load_model("builtin:induction-2l")
    seen = set()
    run = type(model).run_pass

    def watch(self, ids, *arguments, **more):
        seen.update(ids.flatten().tolist())
        return run(self, ids, *arguments, **more)

    monkeypatch.setattr(type(model), "run_pass", watch)
    more = {"heads": [[1, 0]]} if probe is ablation else {}
    settings = probe.Settings(token_pool="frequent", **SMALL, **more)
    found = probe.measure(model, settings, Context())
    assert found.settings["token_pool"] == "frequent"
    seen.discard(model.bos)
    # The check of where a pass may start spreads its own few ids over the vocabulary.
    strays = seen - set(model.pool("frequent"))
    assert len(strays) <= 24


def test_ids_without_an_embedding_are_told_and_left_out_by_the_pool():
    model = half_empty()
    bare = sum(index >= 200 for index in model.vocabulary)
    assert bare_ids(model.model, model.vocabulary) == bare
    found = induction.measure(model, induction.Settings(**SMALL), Context())
    assert found.remarks["induction_max"] == (
        f"{bare} of the {len(model.vocabulary)} token ids drawn from have next to no embedding; "
        "'token_pool: frequent' leaves all but 0 out"
    )
    assert found.metrics["induction_max"].value < 0.7
    spared = induction.Settings(token_pool="frequent", **SMALL)
    whole = induction.measure(model, spared, Context())
    assert not whole.remarks and whole.metrics["induction_max"].value > 0.99


def test_a_model_with_all_embeddings_gets_no_remark():
    model = icl_bench.load_model("builtin:induction-2l")
    assert not losses.measure(model, losses.Settings(**SMALL), Context()).remarks
