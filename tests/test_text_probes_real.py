"""Few-shot tasks and near-synonyms on real weights, as small as they can be."""

from __future__ import annotations

import pytest

from icl_bench.measures.statistics import mean_metric
from icl_bench.probes.design.context import Context
from icl_bench.probes.example import example
from icl_bench.probes.texts import fewshot, fuzzy


@pytest.fixture(scope="module")
def model(smollm2):
    return smollm2


def test_examples_teach_a_pretrained_model_the_format(model):
    settings = fewshot.Settings(tasks=["country_capital", "comparative"], shots=[0, 3], queries=3)
    found = fewshot.measure(model, settings, Context())
    assert found.metrics["accuracy_3"].value > found.metrics["chance"].value
    assert found.metrics["first_token_gain"].value > 0.3
    assert found.metrics["first_token_gain"].n == 2


@pytest.mark.long
def test_a_pretrained_model_matches_by_more_than_identity(model):
    found = fuzzy.measure(model, fuzzy.Settings(items=12, heads=[[17, 5]]), Context())
    assert found.metrics["items"].value == 12
    assert found.metrics["exact_effect"].ci_low > 0
    looked = {name: found.metrics[f"{name}_attention"].samples for name in fuzzy.QUERIES}
    for more, less in (("exact", "fuzzy"), ("fuzzy", "unrelated")):
        differences = [a - b for a, b in zip(looked[more], looked[less])]
        assert mean_metric(differences).ci_low > 0


def test_a_name_known_by_heart_survives_without_induction_heads_and_an_invented_one_does_not(model):
    """The example's text has one of each; the heads are those above 0.4."""
    eight = [[17, 3], [17, 4], [17, 5], [18, 6], [18, 7], [20, 6], [23, 2], [23, 7]]
    settings = example.Settings(heads=eight, switches=1, sequences=2, period=10)
    found = example.measure(model, settings, Context())
    tokens = [row["token"] for row in found.tables["example_tokens"]]
    assert tokens[:5] == ["<|im_start|>", "One", " day", " Harry", " Potter"]
    clean, off = found.tables["switched"]

    def chance(row, word):
        (one,) = [p["next"][1] for p in row["predictions"] if p.get("next", [""])[0] == word]
        return one

    assert chance(clean, " Stone") > 0.5 and chance(off, " Stone") < 0.01
    assert chance(clean, " Potter") > 0.2 and chance(off, " Potter") > 0.05
    best = max(found.tables["example_patterns"], key=lambda row: row["induction"])
    assert [best["layer"], best["head"]] in eight and best["induction"] > 0.5
