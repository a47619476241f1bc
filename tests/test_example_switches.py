"""The switches of the `example` probe, against one ablation at a time and plain forward passes."""

from __future__ import annotations

import itertools

import pytest
import torch
from example_runs import NAME, random_llama, run
from slow_intervals import ends

import icl_bench
from icl_bench.errors import MeasurementError
from icl_bench.probes.design.context import Context
from icl_bench.probes.example import example
from icl_bench.reference.tokenizer import build_tokenizer
from icl_bench.reference.words import WORDS


@pytest.fixture(scope="module")
def handwired():
    return icl_bench.load_model("builtin:handwired")


@pytest.fixture(scope="module")
def trained():
    return icl_bench.load_model("builtin:induction-2l")


@pytest.fixture(scope="module")
def control():
    return icl_bench.load_model("builtin:control-1l")


@pytest.fixture(scope="module")
def wired(handwired):
    return run(handwired)


@pytest.fixture(scope="module")
def learned(trained):
    return run(trained, sequences=32, text=NAME)


# Switches


def subsets(switches):
    numbers = [row["switch"] for row in switches]
    return [
        set(some)
        for size in range(len(numbers) + 1)
        for some in itertools.combinations(numbers, size)
    ]


def heads_of(found, off):
    return [tuple(head) for number in off for head in found.tables["switches"][number]["heads"]]


def test_every_setting_of_the_switches_is_there_once(learned):
    rows = learned.tables["switched"]
    expected = subsets(learned.tables["switches"])
    assert len(rows) == 8 and all(expected.count(set(row["off"])) == 1 for row in rows)
    assert rows[0]["off"] == []
    for row in rows:
        assert row["heads"] == len(heads_of(learned, row["off"]))


def test_losses_of_every_setting_equal_one_ablation_at_a_time(trained, learned):
    """Mean-ablated through `token_losses`, whose held-out batch is the same with 32 sequences."""
    tokens = icl_bench.measures.tokens.draw_repeated(
        trained.vocabulary, sequences=32, period=8, bos=trained.bos, stream="test"
    )
    n, ids = 8, tokens.input_ids
    for row in learned.tables["switched"]:
        off = heads_of(learned, row["off"])
        nll = icl_bench.token_losses(trained, ids, ablate=off, method="mean").double()
        # nll[:, i] is the loss of physical position i + 1, and BOS is at 0: content position i.
        first, later = nll[:, 1:n].mean(1).numpy(), nll[:, n + 1 :].mean(1).numpy()
        for name, values in (("first_loss", first), ("repeated_loss", later)):
            assert row[name] == pytest.approx(values.mean(), abs=1e-4)
            found = row[f"{name}_ci_low"], row[f"{name}_ci_high"]
            assert found == pytest.approx(ends(values), abs=1e-4)
        assert row["loss_by_position"] == pytest.approx(nll[:, 1:].mean(0).tolist(), abs=2e-4)
    clean = learned.tables["switched"][0]
    assert clean["copy_accuracy"] > 0.8 and clean["repeated_loss"] < 1


@pytest.mark.parametrize("method", ["zero", "mean", "resample"])
def test_settings_that_start_from_one_another_equal_whole_passes(method):
    """Previous-token heads below, beside and above induction heads, on random weights."""
    from ablating import losses

    from icl_bench.measures.copying import first_targets, repeated_targets
    from icl_bench.probes.example.switched import _prepare, try_switches
    from icl_bench.probes.example.text import encode_example
    from icl_bench.probes.example.toggles import Switch, heads_off

    model = random_llama(layers=4)
    switches = [
        Switch("induction", ((1, 0), (3, 1)), "a"),
        Switch("induction", ((2, 2),), "b"),
        Switch("previous_token", ((0, 1), (2, 0)), "c"),
        Switch("previous_token", ((1, 3),), "d"),
    ]
    settings = example.Settings(heads=[[0, 0]], method=method, sequences=3, period=8)
    text = encode_example(model, settings.text, "auto", 0)
    tokens = icl_bench.measures.tokens.draw_repeated(
        model.vocabulary, sequences=3, period=8, bos=model.bos, stream="test"
    )
    found = try_switches(model, settings, Context(), text, tokens, switches)
    everything = heads_off(switches, range(4))
    values = _prepare(model, settings, text, tokens, everything).replacement.values
    ids, fed = tokens.input_ids, torch.tensor([text.ids])
    assert len(found.rows) == 16 and len(text.asked) == 10
    for row, answers in zip(found.rows, found.answers):
        off = heads_off(switches, row["off"])
        for name, targets in (
            ("first_loss", first_targets(tokens)),
            ("repeated_loss", repeated_targets(tokens)),
        ):
            nll = losses(model, ids, [off] * 3, targets, values)
            assert row[name] == pytest.approx(float(nll.mean()), abs=1e-5)
        follow = torch.tensor(text.asked[:-1]) + 1
        chances = (-losses(model, fed, [off], follow, values)[0]).exp()
        assert answers[:-1] == pytest.approx(chances.tolist(), abs=1e-6)


@pytest.fixture(scope="module")
def zeroed(trained):
    return run(trained, method="zero", sequences=1)


def test_predictions_of_every_setting_equal_a_plain_forward(trained, zeroed):
    """Heads are cut out of what enters W_O by a hook, then softmax over the whole vocabulary."""
    module, width = trained.model, trained.model.config.head_dim
    tokens = zeroed.tables["example_tokens"]
    ids = torch.tensor([[row["id"] for row in tokens]])
    asked = [row["position"] for row in tokens if "source" in row or row is tokens[-1]]
    for row in zeroed.tables["switched"]:
        off = heads_of(zeroed, row["off"])

        def cut(layer, off=off):
            def hook(_, args):
                outputs = args[0].clone()
                for own, head in off:
                    if own == layer:
                        outputs[..., head * width : (head + 1) * width] = 0
                return (outputs,)

            return hook

        handles = [
            block.self_attn.o_proj.register_forward_pre_hook(cut(layer))
            for layer, block in enumerate(module.model.layers)
        ]
        with torch.no_grad():
            chances = module(ids).logits[0].double().softmax(-1)
        for handle in handles:
            handle.remove()
        assert [one["position"] for one in row["predictions"]] == asked
        for one in row["predictions"]:
            own = chances[one["position"]]
            best = own.sort(descending=True)
            assert [p for _, p in one["top"]] == pytest.approx(best.values[:5].tolist(), abs=2e-5)
            for word, p in one["top"]:
                assert own[WORDS.index(word)] == pytest.approx(p, abs=2e-5)
            if one["position"] + 1 < len(tokens):
                follows = tokens[one["position"] + 1]
                assert one["next"][0] == follows["token"]
                assert one["next"][1] == pytest.approx(float(own[follows["id"]]), abs=2e-5)
            else:
                assert "next" not in one


def test_one_sequence_has_no_interval(zeroed):
    assert not [name for row in zeroed.tables["switched"] for name in row if "_ci_" in name]


def test_metrics_are_means_over_the_followed_repeats(zeroed):
    rows = {tuple(row["off"]): row for row in zeroed.tables["switched"]}
    roles = [one["role"] for one in zeroed.tables["switches"]]
    off = tuple(place for place, role in enumerate(roles) if role == "induction")
    assert roles == ["induction", "induction", "previous_token"]
    for name, key in (("example_probability", ()), ("example_probability_off", off)):
        chances = [one["next"][1] for one in rows[key]["predictions"] if "next" in one]
        assert len(chances) == 3  # Harry, Potter, Zarnip; Stone is the last
        assert zeroed.metrics[name].value == pytest.approx(sum(chances) / 3, abs=1e-5)
        assert zeroed.metrics[name].exact
    assert zeroed.metrics["example_probability_off"].value < 0.02


def test_with_the_hand_wired_head_off_the_name_is_not_said(wired):
    by_off = {tuple(row["off"]): row for row in wired.tables["switched"]}
    assert [one["label"] for one in wired.tables["switches"]] == [
        "induction head 1.0",
        "previous-token head 0.0",
    ]

    def chance(*off):
        (one,) = [p for p in by_off[off]["predictions"] if p.get("next", [""])[0] == "Potter"]
        return one["next"][1]

    assert chance() > 0.99
    assert chance(0) < 0.01 and chance(1) < 0.01 and chance(0, 1) < 0.01
    assert by_off[()]["repeated_loss"] < 0.01 and by_off[1,]["repeated_loss"] > 5
    assert by_off[()]["copy_accuracy"] == 1 and by_off[0,]["copy_accuracy"] < 0.1
    # Random heads of that layer write nothing.
    for row in wired.tables["switched_random"]:
        assert row["repeated_loss"] == pytest.approx(by_off[()]["repeated_loss"], abs=1e-4)
    assert [row["draw"] for row in wired.tables["switched_random"]] == list(range(8))


def test_random_heads_are_as_many_and_of_the_same_layers(trained, learned):
    from icl_bench.probes.example.switched import draw_random
    from icl_bench.probes.example.toggles import Switch

    switches = [
        Switch("induction", ((1, 0), (1, 4)), "a"),
        Switch("previous_token", ((0, 9),), "b"),
    ]
    sets = draw_random(trained, switches, seed=0)
    assert len(set(sets)) == 8 and ((1, 0), (1, 4)) not in sets
    assert all(len(some) == 2 and {layer for layer, _ in some} == {1} for some in sets)
    tokens = icl_bench.measures.tokens.draw_repeated(
        trained.vocabulary, sequences=32, period=8, bos=trained.bos, stream="test"
    )
    for some, row in zip(sets, learned.tables["switched_random"]):
        nll = icl_bench.token_losses(trained, tokens.input_ids, ablate=some, method="mean")
        assert row["repeated_loss"] == pytest.approx(float(nll[:, 9:].mean()), abs=1e-4)
        assert row["first_loss"] == pytest.approx(float(nll[:, 1:8].mean()), abs=1e-4)


def test_a_layer_without_other_heads_has_no_random_ones(trained):
    found = run(trained, heads=[[1, head] for head in range(12)], switches=1)
    assert "switched_random" not in found.tables
    assert found.reason == "the layers of the induction heads have no other heads to compare with"


def test_the_one_layer_twin_has_nothing_to_switch(control):
    found = run(control)
    assert "switches" not in found.tables and "switched_random" not in found.tables
    (row,) = found.tables["switched"]
    assert (row["off"], row["heads"]) == ([], 0)
    assert len(found.tables["example_patterns"]) == 12
    assert found.metrics["example_induction_max"].value < 0.2
    assert found.metrics["example_probability"].value < 0.02
    assert found.unmeasured == {"example_probability_off": "no head has induction above 0.4"}
    assert found.reason == "no head has induction above 0.4"


def test_a_model_with_previous_token_heads_alone_switches_those():
    from icl_bench.reference.handwired import handwired

    model = icl_bench.wrap(handwired(positional_offset=5), build_tokenizer())
    found = run(model)
    assert [one["label"] for one in found.tables["switches"]] == ["previous-token head 0.0"]
    assert len(found.tables["switched"]) == 2
    assert "example_probability_off" in found.unmeasured
    assert "switched_random" not in found.tables


def test_listed_heads_are_ordered_by_scores_of_their_own(trained, learned):
    found = run(trained, heads=[[1, 0], [1, 4]], text=NAME)
    assert found.tables["switches"] == learned.tables["switches"]
    assert found.tables["switches"][0]["heads"] == [[1, 4]]


@pytest.mark.parametrize("method", ["zero", "mean", "resample"])
def test_every_method_is_that_of_the_ablation_probe(trained, method):
    """The text is longer than the repeats here: all of its positions have a stand-in."""
    from icl_bench.probes.ablations import ablation

    text = "The cat sat on the mat. A dog stood in a garden. A bird sang in a tree. The cat sat"
    settings = {"sequences": 4, "period": 8}
    found = run(trained, heads=[[1, 0], [1, 4]], switches=1, method=method, text=text, **settings)
    (row,) = [row for row in found.tables["switched"] if row["off"] == [0]]
    other = ablation.Settings(heads=[[1, 0], [1, 4]], method=method, null_sets=0, **settings)
    expected = ablation.measure(trained, other, Context()).metrics
    # A longer held-out batch holds other tokens, which resampled outputs depend on.
    within = {"zero": 1e-4, "mean": 1e-4, "resample": 0.5}[method]
    for name in ("repeated_loss", "first_loss"):
        assert row[name] == pytest.approx(expected[f"{name}_ablated"].value, abs=within)


def test_a_head_that_does_not_exist_is_named(trained):
    with pytest.raises(MeasurementError, match="no head 7.0"):
        run(trained, heads=[[7, 0]])
