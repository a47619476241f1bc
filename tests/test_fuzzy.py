"""Matching by meaning: known answers on models that match by identity, and on ones that do not."""

from __future__ import annotations

import pytest
import torch
from pydantic import ValidationError

import icl_bench
from icl_bench import tasks
from icl_bench.errors import NotMeasurable
from icl_bench.probes.design.context import Context
from icl_bench.probes.texts import fuzzy
from icl_bench.reference.handwired import handwired
from icl_bench.reference.tokenizer import build_tokenizer
from icl_bench.reference.words import WORDS
from icl_bench.tasks import FuzzyItem

KNOWN = [item for item in tasks.load_fuzzy_items() if set(vars(item).values()) <= set(WORDS)]


def make(**options):
    model = handwired(**options)
    return icl_bench.wrap(model, build_tokenizer(model.config.max_position_embeddings))


def run(model, **settings):
    return fuzzy.measure(model, fuzzy.Settings(**settings), Context())


def value(found, name):
    return found.metrics[name].value


@pytest.fixture(scope="module")
def model():
    return make()


@pytest.fixture(scope="module")
def identity(model):
    return run(model, heads=[[1, 0]], method="zero")


def test_a_model_that_matches_identity_matches_only_exact_repeats(identity):
    assert value(identity, "items") == len(KNOWN) >= 8
    assert value(identity, "exact_effect") > 3
    assert value(identity, "fuzzy_effect") == pytest.approx(0, abs=0.05)
    assert value(identity, "unrelated_effect") == pytest.approx(0, abs=0.05)
    assert value(identity, "fuzzy_share") == pytest.approx(0, abs=0.02)
    assert identity.metrics["fuzzy_share"].ci_high < 0.1


def test_its_induction_head_attends_from_the_exact_word_alone(identity):
    assert value(identity, "exact_attention") > 0.9
    assert value(identity, "fuzzy_attention") < 0.2
    [row] = identity.tables["attention"]
    assert row["exact"] > 0.9 and row["exact_other"] < 0.05


def test_with_the_head_off_nothing_is_left(identity):
    assert value(identity, "exact_effect_ablated") == pytest.approx(0, abs=1e-4)
    lost = value(identity, "exact_effect_lost")
    assert lost == pytest.approx(value(identity, "exact_effect"), abs=1e-4)


def test_items_in_unknown_words_are_counted_with_the_reason(identity):
    skipped = identity.tables["skipped"]
    assert value(identity, "skipped") == len(skipped) == len(tasks.load_fuzzy_items()) - len(KNOWN)
    assert all("does not know every word" in row["reason"] for row in skipped)


def test_a_model_to_which_near_synonyms_are_one_word_reaches_the_ceiling():
    model = make()
    weight, ids = model.embedding, model.tokenizer.get_vocab()
    with torch.no_grad():
        for item in KNOWN:
            weight[ids[item.synonym]] = weight[ids[item.word]]
    found = run(model)
    assert value(found, "fuzzy_effect") == pytest.approx(value(found, "exact_effect"), abs=1e-4)
    assert value(found, "fuzzy_share") == pytest.approx(1, abs=1e-4)


def test_without_an_induction_head_there_is_no_ceiling():
    found = run(make(induction=False))
    assert value(found, "exact_effect") == pytest.approx(0, abs=1e-4)
    assert "fuzzy_share" not in found.metrics or abs(value(found, "exact_effect")) < 1e-4


def test_effects_and_attention_are_those_of_contexts_written_out():
    """Every context on its own through the bare module, eager attention, names found by hand."""
    model = icl_bench.load_model("builtin:induction-2l")
    found = run(model, heads=[[1, 0], [1, 2]], template="{a} {b} . {c} {d} . {query}")
    tokenizer, module = model.tokenizer, model.model
    module.config._attn_implementation = "eager"
    effects = {"exact": [], "fuzzy": [], "unrelated": []}
    looked = {"exact": [], "fuzzy": [], "unrelated": []}
    for item in KNOWN:
        queries = {"exact": item.word, "fuzzy": item.synonym, "unrelated": item.unrelated}
        for name, query in queries.items():
            signs, weights = [], []
            for bound, other in ((item.first, item.second), (item.second, item.first)):
                for text in (
                    f"{item.word} {bound} . {item.other} {other} . {query}",
                    f"{item.other} {other} . {item.word} {bound} . {query}",
                ):
                    ids = tokenizer(text)["input_ids"]
                    with torch.no_grad():
                        out = module(torch.tensor([ids]), output_attentions=True)
                    right, wrong = tokenizer.convert_tokens_to_ids([bound, other])
                    logits = out.logits[0, -1]
                    signs.append(float(logits[right] - logits[wrong]))
                    pattern = out.attentions[1][0, :, -1, ids.index(right)]
                    weights.append(float(pattern[0] + pattern[2]) / 2)
            effects[name].append(sum(signs) / 4)
            looked[name].append(sum(weights) / 4)
    for name in effects:
        samples = found.metrics[f"{name}_effect"].samples
        assert samples == pytest.approx(effects[name], abs=1e-3)
        samples = found.metrics[f"{name}_attention"].samples
        assert samples == pytest.approx(looked[name], abs=1e-4)
    share = sum(effects["fuzzy"]) - sum(effects["unrelated"])
    share /= sum(effects["exact"]) - sum(effects["unrelated"])
    assert value(found, "fuzzy_share") == pytest.approx(share, abs=1e-3)


def test_items_whose_tokens_do_not_fit_say_why(model, monkeypatch):
    good = KNOWN[0]
    odd = [
        FuzzyItem(good.word, good.word, good.unrelated, good.other, "Harry", "Mary"),
        FuzzyItem(good.word, good.synonym, good.word, good.other, "Harry", "Mary"),
        FuzzyItem(good.word, good.synonym, good.unrelated, good.other, "Harry", "Harry"),
    ]
    monkeypatch.setattr(fuzzy, "load_fuzzy_items", lambda: (*KNOWN[:3], *odd))
    found = run(model)
    assert value(found, "items") == 3
    assert [row["reason"] for row in found.tables["skipped"]] == [
        "the near-synonym shares a token with the word",
        "the unrelated word shares a token with the word",
        "both names begin with the same token",
    ]


def test_models_without_the_words_or_a_tokenizer_are_skipped(model, monkeypatch):
    with pytest.raises(NotMeasurable, match="no tokenizer"):
        run(icl_bench.wrap(model.model))
    unknown = [item for item in tasks.load_fuzzy_items() if item not in KNOWN]
    monkeypatch.setattr(fuzzy, "load_fuzzy_items", lambda: tuple(unknown))
    with pytest.raises(NotMeasurable, match="does not know every word"):
        run(model)


@pytest.mark.parametrize("template", ["{a} {b} {query}", "{b} {a} {c} {d} {query}"])
def test_templates_that_cannot_be_are_refused(template):
    with pytest.raises(ValidationError, match="in this order"):
        fuzzy.Settings(template=template)
