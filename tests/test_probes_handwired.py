"""On the hand-wired model every answer is known; on its twins each of them must fall."""

from __future__ import annotations

import math

import pytest

import icl_bench
from icl_bench.errors import MeasurementError, NotMeasurable
from icl_bench.probes.ablations import ablation
from icl_bench.probes.design.context import Context
from icl_bench.probes.design.settings import HeadSelection, Threshold
from icl_bench.probes.heads import induction
from icl_bench.probes.texts import choice
from icl_bench.reference.handwired import handwired
from icl_bench.reference.tokenizer import build_tokenizer
from icl_bench.reference.words import WORDS

CHOSEN = HeadSelection(
    **{"from": "repeats"},  # type: ignore[arg-type]
    where={"induction": Threshold(above=0.4)},
)
SMALL = {"sequences": 6, "period": 20}


def make(**options):
    model = handwired(**options)
    return icl_bench.wrap(model, build_tokenizer(model.config.max_position_embeddings))


@pytest.fixture(scope="module")
def model():
    return make()


@pytest.fixture(scope="module")
def repeats(model):
    return induction.measure(model, induction.Settings(**SMALL), Context())


@pytest.fixture(scope="module")
def collapse(model, repeats):
    settings = ablation.Settings(heads=CHOSEN, method="zero", uniform_draws=5, **SMALL)
    return ablation.measure(model, settings, Context(upstream=repeats))


def value(measurement, metric):
    return measurement.metrics[metric].value


def test_the_two_heads_score_one_and_all_others_nothing(repeats):
    assert len(repeats.heads) == 48
    for row in repeats.heads:
        place = (row["layer"], row["head"])
        assert (row["induction"] > 0.99) == (place == (1, 0))
        assert (row["previous_token"] > 0.99) == (place == (0, 0))
        assert row["duplicate_token"] < 0.05
    assert value(repeats, "induction_max") > 0.99
    assert value(repeats, "induction_varied_max") > 0.99
    assert value(repeats, "induction_control") < 0.01
    assert value(repeats, "induction_excess_max") > 0.99
    assert value(repeats, "previous_token_max") > 0.99
    assert value(repeats, "induction_heads") == 1
    assert value(repeats, "induction_share") == pytest.approx(1 / 48)


def test_enough_sequences_leave_no_doubt_how_many_heads_there_are(model):
    settings = induction.Settings(control=False, sequences=32, period=20)
    heads = induction.measure(model, settings, Context()).metrics["induction_heads"]
    assert (heads.value, heads.ci_low, heads.ci_high) == (1, 1, 1)


def test_attention_to_all_earlier_occurrences_sums_to_one(model, repeats):
    """With four copies every earlier one gets its share, so one offset alone is below 1."""
    settings = induction.Settings(repeats=4, **SMALL)
    four = induction.measure(model, settings, Context())
    assert value(four, "induction_all_max") > 0.99
    assert value(four, "induction_max") < 0.8
    assert all(row["induction_all"] < 0.3 for row in four.heads if row["layer"] == 0)
    assert all(row["induction_all"] == row["induction"] for row in repeats.heads)


def test_idle_heads_attend_evenly(repeats):
    """With zero weights a head's score is the uniform level, known in closed form."""
    idle = next(r for r in repeats.heads if (r["layer"], r["head"]) == (1, 5))
    level = sum(1 / (i + 2) for i in range(20, 40)) / 20
    assert idle["induction"] == pytest.approx(level, abs=1e-6)
    assert value(repeats, "uniform_level") == pytest.approx(level, abs=1e-9)


def test_losses_and_ablation_have_their_known_answers(collapse):
    uniform = math.log(len(WORDS))
    assert value(collapse, "heads") == 1
    assert value(collapse, "first_loss") == pytest.approx(uniform, abs=1e-4)
    assert value(collapse, "repeated_loss") < 0.01
    assert value(collapse, "first_loss_ablated") == pytest.approx(uniform, abs=1e-4)
    assert value(collapse, "repeated_loss_ablated") == pytest.approx(uniform, abs=1e-4)
    assert value(collapse, "copying_lost") == pytest.approx(1, abs=1e-4)
    assert value(collapse, "icl_share") == pytest.approx(1, abs=1e-4)
    assert value(collapse, "delta_first") == pytest.approx(0, abs=1e-4)
    assert value(collapse, "copy_accuracy") == 1
    assert value(collapse, "copy_accuracy_ablated") < 0.1
    expected = uniform / value(collapse, "repeated_loss")
    assert value(collapse, "loss_ratio") == pytest.approx(expected, rel=1e-3)


def test_the_null_is_every_other_head_of_the_layer(collapse):
    assert [row["heads"] for row in collapse.tables["null"]] == [f"1.{h}" for h in range(1, 24)]
    assert value(collapse, "null_p_value") == pytest.approx(1 / 24)
    assert value(collapse, "null_max_ratio") == pytest.approx(1, abs=1e-3)
    assert len(collapse.tables["uniform_null"]) == 5


def test_without_the_previous_token_head_nothing_matches(model):
    twin = make(previous_token=False)
    found = induction.measure(twin, induction.Settings(**SMALL), Context())
    assert value(found, "previous_token_max") < 0.2
    assert value(found, "induction_max") < 0.2
    assert value(found, "induction_heads") == 0
    assert value(found, "induction_share") == 0


def test_ablating_no_head_is_known_without_measuring():
    twin = make(induction=False)
    found = induction.measure(twin, induction.Settings(**SMALL), Context())
    settings = ablation.Settings(heads=CHOSEN, **SMALL)
    nothing = ablation.measure(twin, settings, Context(upstream=found))
    assert nothing.reason == "no head has induction above 0.4: nothing was switched off"
    assert value(nothing, "loss_ratio") == 1 and nothing.metrics["loss_ratio"].exact
    assert value(nothing, "copying_lost") == 0
    assert value(nothing, "gain") == pytest.approx(0, abs=1e-4)
    assert "null_p_value" not in nothing.metrics
    assert nothing.unmeasured["null_p_value"] == nothing.reason


def test_mean_ablation_differs_from_zero_only_where_heads_write(model, repeats, collapse):
    settings = ablation.Settings(heads=CHOSEN, method="mean", null_draws=0, **SMALL)
    mean = ablation.measure(model, settings, Context(upstream=repeats))
    assert value(mean, "copying_lost") == pytest.approx(1, abs=0.05)
    assert mean.unmeasured["null_p_value"] == "null_draws: 0 in the suite"


def test_heads_that_write_nothing_do_no_damage(model):
    settings = ablation.Settings(heads=[[0, 5], [1, 7]], method="zero", null_draws=0, **SMALL)
    found = ablation.measure(model, settings, Context())
    assert value(found, "loss_ratio") == pytest.approx(1)
    assert value(found, "copying_lost") == pytest.approx(0)


def test_heads_can_be_listed_ranked_or_random(model, repeats):
    def choose(heads):
        settings = ablation.Settings(heads=heads, **SMALL)
        return ablation.choose_heads(model, settings, repeats)

    assert choose([[1, 0], [0, 3], [1, 0]]) == [(0, 3), (1, 0)]
    assert choose(HeadSelection(**{"from": "repeats"}, top=1)) == [(1, 0)]
    by_previous = HeadSelection(**{"from": "repeats"}, top=1, by="previous_token")
    assert choose(by_previous) == [(0, 0)]
    some = choose(HeadSelection(random=5))
    assert len(set(some)) == 5 and some == choose(HeadSelection(random=5))
    with pytest.raises(MeasurementError, match=r"no head 1\.24: layer 1 has 24 heads"):
        choose([[1, 24]])
    with pytest.raises(MeasurementError, match="49 random heads asked of 48"):
        choose(HeadSelection(random=49))


def test_choosing_by_a_score_that_was_not_measured_is_an_error(model):
    bare = induction.measure(model, induction.Settings(control=False, **SMALL), Context())
    assert bare.unmeasured["induction_varied_max"] == "control: false in the suite"
    heads = HeadSelection(**{"from": "x"}, where={"induction_varied": Threshold(above=0.4)})
    with pytest.raises(MeasurementError, match="has not measured 'induction_varied'"):
        ablation.choose_heads(model, ablation.Settings(heads=heads), bare)


def test_one_sequence_gives_values_without_intervals(model):
    found = induction.measure(model, induction.Settings(sequences=1, period=20), Context())
    assert found.metrics["induction_max"].stderr is None
    assert "induction_stderr" not in found.heads[0]


def test_a_sequence_beyond_the_context_is_an_error(model):
    with pytest.raises(MeasurementError, match="601 tokens does not fit .* context of 512"):
        induction.measure(model, induction.Settings(sequences=1, period=300), Context())


def test_a_period_beyond_the_vocabulary_is_an_error(model):
    with pytest.raises(MeasurementError, match="cannot be drawn from a usable vocabulary"):
        induction.measure(model, induction.Settings(sequences=1, period=500), Context())


def test_a_longer_shift_moves_the_head_and_the_score_falls():
    shifted = make(shift=2)
    tokens = icl_bench.repeated_tokens(shifted, sequences=2, period=20)
    from icl_bench.measures.tokens import induction_pairs

    pairs = {str(k): induction_pairs(tokens, offset=k) for k in range(5)}
    profile = shifted.head_scores(tokens.input_ids, pairs)
    peak = {k: float(layers[1][:, 0].mean()) for k, layers in profile.items()}
    assert max(peak, key=peak.__getitem__) == "2"
    assert peak["1"] < 0.05


def item(prompt, *choices):
    return choice.Item(prompt=prompt, choices=list(choices), answer=choices[0])


def test_questions_are_answered_by_copying(model):
    items = [
        item("Harry Potter saw a dog. Harry", " Potter", " dog", " cat"),
        item("Anna Smith met Tom Baker. Then Tom", " Baker", " Smith", " Anna"),
    ]
    found = choice.measure(model, choice.Settings(items=items), Context())
    assert value(found, "accuracy") == 1
    assert value(found, "chance") == pytest.approx(1 / 3)
    assert value(found, "excess_accuracy") == pytest.approx(2 / 3)
    assert [row["chosen"] for row in found.tables["answers"]] == [" Potter", " Baker"]


def test_questions_fail_on_the_twin_without_the_circuit():
    twin = make(induction=False)
    items = [item("Harry Potter saw a dog. Harry", " Potter", " dog")]
    found = choice.measure(twin, choice.Settings(items=items), Context())
    assert value(found, "accuracy") == 0
    assert value(found, "margin") == pytest.approx(0, abs=1e-5)
    assert found.metrics["accuracy"].exact


def test_a_likelihood_equals_log_softmax_of_the_plain_model(model):
    import torch

    prompt, choices = "The cat sat on the mat. The cat", (" sat on", " ran", " mat")
    found = choice.measure(model, choice.Settings(items=[item(prompt, *choices)]), Context())
    for text, scored in found.tables["answers"][0]["log_likelihoods"].items():
        ids = model.tokenizer(prompt + text, return_tensors="pt")["input_ids"]
        start = len(model.tokenizer(prompt)["input_ids"])
        with torch.no_grad():
            logs = model.model(ids).logits.log_softmax(-1)[0]
        expected = sum(float(logs[p - 1, ids[0, p]]) for p in range(start, ids.shape[1]))
        assert scored == pytest.approx(expected, abs=1e-4)


def test_unknown_words_are_skipped_with_a_reason(model):
    settings = choice.Settings(items=[item("A zeppelin flew. A", " zeppelin", " cat")])
    with pytest.raises(NotMeasurable, match="does not know every word"):
        choice.measure(model, settings, Context())


def test_without_a_tokenizer_questions_are_skipped():
    bare = icl_bench.wrap(handwired())
    settings = choice.Settings(items=[item("The cat sat. The", " cat", " dog")])
    with pytest.raises(NotMeasurable, match="no tokenizer"):
        choice.measure(bare, settings, Context())


def test_a_choice_that_becomes_no_token_is_an_error(model):
    settings = choice.Settings(items=[item("The cat sat. The", " cat", " ")])
    with pytest.raises(MeasurementError, match="becomes no token"):
        choice.measure(model, settings, Context())


def test_random_sets_of_other_layers_have_means_too():
    """One of 12 heads has 11 others in its layer: too few for 5%, so neighbours come in."""
    model = icl_bench.load_model("builtin:induction-2l")
    settings = ablation.Settings(heads=[[1, 0]], method="mean", uniform_draws=6, sequences=2)
    found = ablation.measure(model, settings, Context())
    for table in ("null", "uniform_null"):
        layers = {row["heads"].split(".")[0] for row in found.tables[table]}
        assert layers == {"0", "1"}, table
    assert found.reason == "null heads come from up to 1 layers away"
