"""Choice questions with heads off, against forward passes whose heads a hook cuts out."""

from __future__ import annotations

import math

import pytest
import torch

import icl_bench
from icl_bench.errors import MeasurementError, NotMeasurable
from icl_bench.probes.design.context import Context
from icl_bench.probes.design.settings import HeadSelection, Threshold
from icl_bench.probes.heads import induction
from icl_bench.probes.texts import choice
from icl_bench.reference.handwired import handwired
from icl_bench.reference.tokenizer import build_tokenizer

TEXTS = (
    ("Fliggen Eggrun met Tarquol Ploov. Then Fliggen", " Eggrun", " Ploov"),
    ("Fliggen Eggrun met Tarquol Ploov. Then Tarquol", " Ploov", " Eggrun"),
    ("After rain, Hobbix Jostrel told Brantiv Dribnal a story. Hobbix", " Jostrel", " Dribnal"),
    (
        "After rain, Hobbix Jostrel told Brantiv Dribnal a story. Brantiv",
        " Dribnal",
        " Jostrel",
    ),
)
ITEMS = [
    choice.Item(prompt=prompt, choices=[right, wrong], answer=right)
    for prompt, right, wrong in TEXTS
]
INDUCTION_HEADS = [[1, 0], [1, 4]]
CHOSEN = HeadSelection(
    **{"from": "repeats"},  # type: ignore[arg-type]
    where={"induction": Threshold(above=0.4)},
)


@pytest.fixture(scope="module")
def model():
    return icl_bench.load_model("builtin:induction-2l")


def ask(model, **settings):
    return choice.measure(model, choice.Settings(items=ITEMS, **settings), Context())


def slow_margin(model, prompt, right, wrong, values):
    """log P(right) - log P(wrong) of one-token names, head outputs replaced before W_O."""
    width = model.model.config.head_dim

    def cut(module, args):
        (outputs,) = args
        outputs = outputs.clone()
        for (_, head), value in values.items():
            outputs[..., head * width : (head + 1) * width] = value
        return (outputs,)

    ids = model.tokenizer(prompt, return_tensors="pt")["input_ids"]
    handle = model.model.model.layers[1].self_attn.o_proj.register_forward_pre_hook(cut)
    try:
        with torch.no_grad():
            logs = model.model(ids).logits[0, -1].log_softmax(-1)
    finally:
        handle.remove()
    first, second = (model.tokenizer.convert_tokens_to_ids(text.strip()) for text in (right, wrong))
    return float(logs[first] - logs[second])


def slow_means(model):
    """Mean output of each head over positions 1 .. shortest - 1 of the prompts, one at a time."""
    width = model.model.config.head_dim
    seen = []

    def keep(module, args):
        seen.append(args[0][0])

    handle = model.model.model.layers[1].self_attn.o_proj.register_forward_pre_hook(keep)
    lengths = []
    try:
        for prompt, _, _ in TEXTS:
            ids = model.tokenizer(prompt, return_tensors="pt")["input_ids"]
            lengths.append(ids.shape[1])
            with torch.no_grad():
                model.model(ids)
    finally:
        handle.remove()
    kept = torch.cat([outputs[1 : min(lengths)] for outputs in seen])
    return {
        (layer, head): kept[:, head * width : (head + 1) * width].mean(0)
        for layer, head in INDUCTION_HEADS
    }


@pytest.mark.parametrize("method", ["zero", "mean"])
def test_margins_with_heads_off_are_those_of_a_model_without_these_heads(model, method):
    found = ask(model, heads=INDUCTION_HEADS, method=method)
    values = {tuple(head): 0.0 for head in INDUCTION_HEADS}
    if method == "mean":
        values = slow_means(model)
    clean = [slow_margin(model, *text, {}) for text in TEXTS]
    off = [slow_margin(model, *text, values) for text in TEXTS]
    rows = found.tables["answers"]
    assert [row["margin"] for row in rows] == pytest.approx(clean, abs=1e-3)
    assert [row["margin_ablated"] for row in rows] == pytest.approx(off, abs=1e-3)
    lost = [a - b for a, b in zip(clean, off)]
    assert found.metrics["margin_lost"].value == pytest.approx(sum(lost) / 4, abs=1e-3)
    assert found.metrics["margin_lost"].samples == pytest.approx(lost, abs=1e-3)
    assert found.metrics["margin_share_lost"].value == pytest.approx(
        sum(lost) / sum(clean), abs=1e-4
    )
    share = sum(value > 0 for value in off) / 4
    assert found.metrics["accuracy_ablated"].value == share
    assert found.metrics["accuracy_lost"].value == sum(v > 0 for v in clean) / 4 - share


def test_without_the_induction_heads_the_right_names_lose_their_lead(model):
    found = ask(model, heads=INDUCTION_HEADS)
    assert found.metrics["accuracy"].value == 1
    assert found.metrics["margin_share_lost"].ci_low > 0.9
    assert found.metrics["accuracy_lost"].value > 0
    assert found.metrics["heads"].value == 2
    assert found.tables["ablated_heads"] == [{"layer": 1, "head": 0}, {"layer": 1, "head": 4}]


def test_heads_that_have_no_part_in_it_lose_nothing(model):
    found = ask(model, heads=[[1, 7]])
    assert found.metrics["accuracy_lost"].value == 0
    assert found.metrics["margin_share_lost"].value < 0


def test_margins_of_questions_that_share_a_text_are_one_sample(model):
    apart, together = (ask(model, heads=INDUCTION_HEADS, group=size) for size in (1, 2))
    for name in ("margin", "margin_ablated", "margin_lost"):
        single, paired = apart.metrics[name].samples, together.metrics[name].samples
        pairs = [(single[0] + single[1]) / 2, (single[2] + single[3]) / 2]
        assert paired == pytest.approx(pairs)
        assert together.metrics[name].n == 2
        assert together.metrics[name].value == pytest.approx(apart.metrics[name].value)
    for name in ("accuracy", "accuracy_ablated", "accuracy_lost"):
        assert apart.metrics[name] == together.metrics[name]


def test_questions_that_make_no_whole_groups_are_refused():
    with pytest.raises(ValueError, match="4 questions are no groups of 3"):
        choice.Settings(items=ITEMS, group=3)


def test_a_single_question_is_exact(model):
    settings = choice.Settings(items=ITEMS[:1], heads=INDUCTION_HEADS)
    found = choice.measure(model, settings, Context())
    for name in choice.ABLATED:
        assert found.metrics[name].exact


def test_where_no_head_qualifies_exactly_nothing_is_lost():
    control = icl_bench.load_model("builtin:control-1l")
    scores = induction.measure(control, induction.Settings(sequences=4, control=False), Context())
    found = choice.measure(
        control, choice.Settings(items=ITEMS, heads=CHOSEN), Context(upstream=scores)
    )
    for name in ("accuracy_lost", "margin_lost", "margin_share_lost"):
        assert found.metrics[name].value == 0 and found.metrics[name].exact
    assert found.metrics["accuracy_ablated"] == found.metrics["accuracy"]
    assert found.reason == "no head has induction above 0.4: nothing was switched off"


def test_without_heads_in_the_suite_nothing_is_said_of_their_loss(model):
    found = ask(model)
    assert found.unmeasured.keys() == {"heads", *choice.ABLATED}
    assert not found.metrics.keys() & found.unmeasured.keys()


def test_unconditional_scores_leave_margins_lost_as_they_are(model):
    """The likelihood after nothing is the clean model's in both, and drops out."""
    plain = ask(model, heads=INDUCTION_HEADS)
    shifted = ask(model, heads=INDUCTION_HEADS, score="unconditional")
    lost = [found.metrics["margin_lost"].samples for found in (plain, shifted)]
    assert lost[0] == pytest.approx(lost[1], abs=1e-4)
    margins = [found.metrics["margin"].samples for found in (plain, shifted)]
    assert margins[0] != pytest.approx(margins[1], abs=1e-2)


def test_a_lead_that_is_not_there_has_no_share_to_lose():
    control = icl_bench.load_model("builtin:control-1l")
    found = ask(control, heads=[[0, 0]])
    assert "margin_share_lost" not in found.metrics
    assert "not surely above 0" in found.unmeasured["margin_share_lost"]


def test_a_head_that_is_not_there_is_an_error(model):
    with pytest.raises(MeasurementError, match="no head 1.99"):
        ask(model, heads=[[1, 99]])


def test_unknown_words_are_skipped_before_heads_are_looked_at():
    bare = icl_bench.wrap(handwired())
    with pytest.raises(NotMeasurable, match="no tokenizer"):
        ask(bare, heads=INDUCTION_HEADS)


def test_on_the_hand_wired_model_the_answer_becomes_a_guess():
    built = handwired()
    model = icl_bench.wrap(built, build_tokenizer(built.config.max_position_embeddings))
    found = ask(model, heads=[[1, 0]], method="zero")
    assert found.metrics["accuracy"].value == 1
    # Every token is as likely as any other, and a tie is no right answer.
    assert found.metrics["accuracy_ablated"].value == 0
    assert found.metrics["margin_ablated"].value == pytest.approx(0, abs=1e-4)
    assert found.metrics["margin_lost"].value > math.log(100)
