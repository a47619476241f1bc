"""Training of the reference models: reproducible, saved whole, and watched step by step."""

from __future__ import annotations

import json

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from icl_bench.reference import training
from icl_bench.reference.evaluation import evaluate
from icl_bench.reference.handwired import handwired
from icl_bench.reference.training import train, train_reference
from icl_bench.reference.training_data import FIRST_WORD, SequenceSource


@pytest.fixture(autouse=True)
def _small_steps(monkeypatch):
    monkeypatch.setattr(training, "_TOKENS_PER_STEP", 1024)


def test_the_same_seed_gives_the_same_weights():
    torch.manual_seed(1)
    one = train(2, seed=3, steps=3).state_dict()
    torch.manual_seed(2)
    other = train(2, seed=3, steps=3).state_dict()
    assert all(torch.equal(one[name], other[name]) for name in one)
    third = train(2, seed=4, steps=3).state_dict()
    assert not torch.equal(one["lm_head.weight"], third["lm_head.weight"])


def test_training_leaves_the_global_random_state_alone():
    state = torch.get_rng_state()
    train(1, steps=2)
    assert torch.equal(torch.get_rng_state(), state)


def test_every_step_is_reported_with_the_model_as_it_is_then():
    seen, told = [], []

    def watch(step, model, loss):
        seen.append((step, loss, model.lm_head.weight.detach().clone()))

    model = train(1, steps=4, progress=told.append, on_step=watch)
    assert [step for step, _, _ in seen] == [1, 2, 3, 4]
    assert all(5 < loss < 7 for _, loss, _ in seen)  # ln 400 = 5.99
    assert torch.equal(seen[-1][2], model.lm_head.weight)
    assert not torch.equal(seen[0][2], seen[1][2])
    assert told == [f"1-layer model, step 4 of 4: loss {seen[-1][1]:.3f}"]
    assert not model.training


def test_both_models_are_saved_complete(tmp_path):
    told = []
    summary = train_reference(tmp_path, seed=1, progress=told.append, steps=2)
    assert list(summary) == ["induction-2l", "control-1l"] and len(told) == 2
    json.dumps(summary)
    for name, layers in (("induction-2l", 2), ("control-1l", 1)):
        assert set(summary[name]["losses"]) == {2} and summary[name]["seconds"] >= 0
        assert set(summary[name]["scores"]) == {
            "induction",
            "previous_token",
            "first_loss",
            "repeated_loss",
        }
        model = AutoModelForCausalLM.from_pretrained(tmp_path / name).eval()
        assert model.config.num_hidden_layers == layers
        assert str(tmp_path) not in (tmp_path / name / "config.json").read_text()
        prompt = AutoTokenizer.from_pretrained(tmp_path / name)("Harry Potter", return_tensors="pt")
        trained = train(layers, seed=1, steps=2)
        assert torch.equal(model(**prompt).logits, trained(**prompt).logits)


def test_slow_heads_move_less_than_fast_ones():
    before = training._fresh_model(1, 0).model.layers[0].self_attn.q_proj.weight
    after = train(1, seed=0, steps=3).model.layers[0].self_attn.q_proj.weight
    moved = (after - before).view(12, 16, -1).abs().amax((1, 2)).sort().values
    ratios = moved[1:] / moved[:-1]
    assert moved[-1] / moved[0] > 100 and ratios.min() > 1.2


def test_the_sequences_depend_on_the_seed_alone():
    one, same, other = SequenceSource(1), SequenceSource(1), SequenceSource(2)
    torch.manual_seed(0)
    first = one.batch(8, 64)
    torch.manual_seed(1)
    assert torch.equal(first, same.batch(8, 64))
    assert not torch.equal(first, one.batch(8, 64))
    assert not torch.equal(first, other.batch(8, 64))


def test_sequences_hold_words_after_one_bos():
    tokens = SequenceSource(0).batch(40, 128)
    assert tokens.shape == (40, 128)
    assert (tokens[:, 0] == 0).all()
    assert tokens[:, 1:].min() >= FIRST_WORD and tokens.max() < 400


def test_three_quarters_repeat_and_the_rest_follow_the_chain():
    source = SequenceSource(0)
    tokens = source.batch(40, 128)
    for row in tokens[:30, 1:].tolist():
        pairs = list(zip(row, row[1:]))
        assert len(set(pairs)) < len(pairs) - 5
    for row in tokens[30:, 1:].tolist():
        assert all(after in source._successors[now] for now, after in zip(row, row[1:]))


def test_evaluation_finds_the_hand_wired_circuit_and_puts_everything_back():
    model = handwired().train()
    scores = evaluate(model, sequences=2, period=20)
    assert scores["induction"] > 0.99 and scores["previous_token"] > 0.99
    assert scores["first_loss"] == pytest.approx(5.99146, abs=1e-4)
    assert scores["repeated_loss"] < 0.003
    assert model.training and model.config._attn_implementation == "sdpa"


def test_evaluation_sees_that_a_head_is_missing():
    scores = evaluate(handwired(previous_token=False), sequences=2, period=20)
    assert scores["induction"] < 0.1 and scores["previous_token"] < 0.15
    assert scores["repeated_loss"] == pytest.approx(5.99146, abs=1e-4)
