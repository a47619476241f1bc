"""The published curves of the reference models: made right, and of the shipped checkpoints."""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path

import pytest
import torch

import icl_bench
from icl_bench import reference
from icl_bench.reference import training

ROOT = Path(__file__).parents[1]
PUBLISHED = json.loads((ROOT / "docs" / "training-curves.json").read_text())


@pytest.fixture
def curves(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    return importlib.import_module("training_curves")


def call(monkeypatch, capsys, curves, *arguments: str) -> str:
    monkeypatch.setattr(sys, "argv", ["training_curves.py", *arguments])
    curves.main()
    return capsys.readouterr().out


def test_half_way_is_found_between_two_checkpoints(curves):
    curve = {"steps": [1, 10, 100, 1000], "score": [0.0, 0.1, 0.5, 0.6]}
    # Half of .6 lies half-way from .1 to .5; half-way from 10 to 100 in logarithms is their mean.
    assert curves.half_way(curve, "score") == pytest.approx((10 * 100) ** 0.5)
    rising_twice = {"steps": [1, 2, 4, 8], "score": [0.0, 0.8, 0.1, 0.8]}
    assert curves.half_way(rising_twice, "score") == pytest.approx(2**0.5)
    assert curves.half_way({"steps": [1, 2], "score": [0.01, 0.05]}, "score") is None


def test_scores_are_those_of_eager_attention_and_plain_losses(curves):
    model, _ = reference.load("induction-2l", 800)
    opened = icl_bench.wrap(*reference.load("induction-2l", 800))
    ids = icl_bench.repeated_tokens(opened, sequences=32, period=50).input_ids
    model.set_attn_implementation("eager")
    with torch.no_grad():
        output = model(ids, output_attentions=True)
    per_head: dict[str, list[list[float]]] = {"induction": [], "previous": []}
    for layer in output.attentions:
        for head in range(layer.shape[1]):
            # Physical position p holds content position p - 1; <bos> is 0.
            at = [layer[:, head, i + 1, i - 50 + 2] for i in range(50, 100)]
            before = [layer[:, head, i + 1, i] for i in range(1, 100)]
            per_head["induction"].append((sum(at) / len(at)).tolist())
            per_head["previous"].append((sum(before) / len(before)).tolist())

    def best_on_the_other_half(heads: list[list[float]]) -> float:
        halves = [range(16), range(16, 32)]
        read = []
        for chosen_on, read_on in (halves, halves[::-1]):
            best = max(heads, key=lambda values: sum(values[s] for s in chosen_on))
            read += [best[s] for s in read_on]
        return sum(read) / len(read)

    losses = {0: [], 1: []}
    for row, logits in zip(ids, output.logits):
        for target in range(1, 50):
            for copy in (0, 1):
                at = 1 + 50 * copy + target
                losses[copy].append(-float(logits[at - 1].log_softmax(0)[row[at]]))
    found = curves.score(opened)
    assert found["induction_max"] == pytest.approx(best_on_the_other_half(per_head["induction"]))
    assert found["previous_token_max"] == pytest.approx(
        best_on_the_other_half(per_head["previous"])
    )
    assert found["first_loss"] == pytest.approx(sum(losses[0]) / len(losses[0]), abs=1e-4)
    assert found["repeated_loss"] == pytest.approx(sum(losses[1]) / len(losses[1]), abs=1e-4)


def test_a_training_is_followed_and_shown(tmp_path, monkeypatch, capsys, curves):
    monkeypatch.setattr(training, "_TOKENS_PER_STEP", 1024)
    summary = training.train_reference(tmp_path / "seed5", seed=5, steps=2, save_series=True)
    written = call(monkeypatch, capsys, curves, "measure", str(tmp_path / "seed5"))
    found = json.loads(written)
    assert list(found) == ["induction-2l", "control-1l"]
    for name, by_seed in found.items():
        assert list(by_seed) == ["5"] and by_seed["5"]["steps"] == [1, 2]
        assert by_seed["5"]["training_loss"][-1] == summary[name]["losses"][2]
        assert all(len(by_seed["5"][measure]) == 2 for measure in curves.MEASURES)
    (tmp_path / "curves.json").write_text(written)
    shown = call(monkeypatch, capsys, curves, "table", str(tmp_path / "curves.json"))
    assert f"| 2 | {found['induction-2l']['5']['first_loss'][1]:.3f} |" in shown
    assert "| induction-2l | 5 | none | none |" in shown
    shown = call(monkeypatch, capsys, curves, "rounding", str(tmp_path / "seed5"))
    assert shown.count("| 1 |") == 8  # the shipped step 1, which is of another seed


def test_three_seeds_are_published_at_every_shipped_step():
    for name, by_seed in PUBLISHED.items():
        assert list(by_seed) == ["0", "1", "2"]
        for curve in by_seed.values():
            assert tuple(curve["steps"]) == reference.series_steps(name)
        recorded = reference.training_losses(name)
        first = by_seed["0"]
        assert first["training_loss"] == [recorded[step] for step in first["steps"]]


@pytest.mark.parametrize(("name", "step"), [("induction-2l", 700), ("control-1l", 2000)])
def test_published_scores_are_those_of_the_shipped_checkpoints(curves, name, step):
    found = curves.score(icl_bench.wrap(*reference.load(name, step)))
    curve = PUBLISHED[name]["0"]
    for measure, value in found.items():
        published = curve[measure][curve["steps"].index(step)]
        assert value == pytest.approx(published, abs=0.02 if "loss" in measure else 0.005)


def test_the_change_is_no_fluke_of_one_seed(curves):
    for curve in PUBLISHED["induction-2l"].values():
        assert curve["induction_max"][-1] > 0.4 and curve["induction_max"][0] < 0.05
        assert curve["first_loss"][-1] - curve["repeated_loss"][-1] > 2
        assert 200 < curves.half_way(curve, "induction_max") < 1500
    for curve in PUBLISHED["control-1l"].values():
        assert max(curve["induction_max"]) < 0.1
        assert min(curve["repeated_loss"]) > 5
