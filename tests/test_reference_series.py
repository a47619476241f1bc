"""Checkpoints of the built-in models: packed, shipped, read one at a time, and made again."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

import icl_bench
from icl_bench import reference
from icl_bench.errors import ModelError, SettingsError, SpecError
from icl_bench.models.opening.loading import load_parts
from icl_bench.models.sources.identity import identify
from icl_bench.models.sources.spec import ModelSpec
from icl_bench.options import RunOptions
from icl_bench.reference import packing, training
from icl_bench.reference.evaluation import evaluate

TRAINED = ("induction-2l", "control-1l")


def shipped_weights(name: str, step: int | None = None) -> dict[str, torch.Tensor]:
    return reference.load(name, step)[0].state_dict()


@pytest.fixture
def broken(tmp_path, monkeypatch) -> Path:
    """A copy of the two-layer model's folder that a test may break; it is what gets loaded."""
    folder = tmp_path / "induction-2l"
    folder.mkdir()
    for file in (reference.WEIGHTS / "induction-2l").iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    monkeypatch.setattr(reference, "WEIGHTS", tmp_path)
    return folder


# What is shipped.


def test_steps_and_losses_are_known_without_torch():
    code = (
        "import sys; from icl_bench.reference import series_steps, training_losses as losses; "
        "print(len(series_steps('induction-2l')), len(losses('control-1l')), "
        "'torch' in sys.modules, 'safetensors' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["24", "2000", "False", "False"]


@pytest.mark.parametrize("name", TRAINED)
def test_each_trained_model_has_a_series_and_a_loss_for_every_step(name):
    steps, losses = reference.series_steps(name), reference.training_losses(name)
    assert steps == training.SERIES and len(steps) == 24 and steps[-1] == training.STEPS
    assert list(losses) == list(range(1, training.STEPS + 1))
    assert losses[1] == pytest.approx(math.log(400), abs=0.1)
    assert all(2 < loss < 7 for loss in losses.values())


@pytest.mark.parametrize("name", ["handwired", "handwired-shift-2"])
def test_the_hand_wired_model_has_none(name):
    assert reference.series_steps(name) == () and reference.training_losses(name) == {}
    with pytest.raises(SpecError, match=f"'{name}' has no checkpoints"):
        reference.load(name, 1)


@pytest.mark.parametrize("name", TRAINED)
def test_every_shipped_step_loads_and_is_another_model(name):
    state, seen = torch.get_rng_state(), set()
    for step in reference.series_steps(name):
        model, tokenizer = reference.load(name, step)
        assert not model.training and len(tokenizer) == model.config.vocab_size
        for weight in model.parameters():
            assert weight.dtype == torch.float32 and weight.isfinite().all()
        seen.add(round(float(model.lm_head.weight.detach().abs().sum()), 2))
    assert len(seen) == 24
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("name", TRAINED)
def test_the_last_step_is_the_shipped_model_but_for_rounding(name):
    # The rounding of 8 bits, and that of sums on another machine, which training makes larger.
    exact, kept = shipped_weights(name), shipped_weights(name, 2000)
    assert exact.keys() == kept.keys()
    for key, weight in exact.items():
        assert (kept[key] - weight).norm() < 0.15 * weight.norm()
    before, after = (evaluate(reference.load(name, step)[0]) for step in (None, 2000))
    for measure, value in before.items():
        assert after[measure] == pytest.approx(value, abs=0.02 if "loss" in measure else 0.005)


def test_the_circuit_forms_on_the_way_and_never_in_one_layer():
    early, late = (evaluate(reference.load("induction-2l", step)[0]) for step in (500, 1500))
    assert early["induction"] < 0.1 and early["first_loss"] - early["repeated_loss"] < 0.5
    assert late["induction"] > 0.5 and late["first_loss"] - late["repeated_loss"] > 2
    for step in (500, 1500):
        scores = evaluate(reference.load("control-1l", step)[0])
        assert scores["induction"] < 0.1 and scores["first_loss"] - scores["repeated_loss"] < 1.5


def test_both_series_together_are_small():
    files = [reference.WEIGHTS / name / "series.safetensors" for name in TRAINED]
    files += [reference.WEIGHTS / name / "series.json" for name in TRAINED]
    assert 12_000_000 < sum(file.stat().st_size for file in files) < 16_000_000


@pytest.mark.parametrize(
    ("step", "hint"),
    [(0, "the nearest: 1$"), (5, "the nearest: 4 and 16"), (2001, "the nearest: 2000$")],
)
def test_a_step_that_is_not_there_names_its_neighbours(step, hint):
    with pytest.raises(SpecError, match=f"no checkpoint of step {step}; {hint}"):
        reference.load("induction-2l", step)


# How it is opened.


def test_a_spec_with_a_step_opens_this_checkpoint():
    spec = ModelSpec("builtin:control-1l@64", "builtin", "control-1l", "64")
    opened, kept = load_parts(spec).model.state_dict(), shipped_weights("control-1l", 64)
    assert all(torch.equal(opened[name], kept[name]) for name in kept)
    with pytest.raises(SpecError, match="'builtin:x@65': .* no checkpoint of step 65"):
        load_parts(ModelSpec("builtin:x@65", "builtin", "control-1l", "65"))


def test_every_step_has_an_identity_of_its_own():
    specs = [ModelSpec("x", "builtin", "induction-2l", step) for step in (None, "64", "128")]
    found = [identify(spec, RunOptions(), None) for spec in specs]
    assert None not in found and len(set(found)) == 3
    assert identify(specs[1], RunOptions(), None) == found[1]


# What can be wrong with it.


@pytest.mark.parametrize("fault", ["missing", "cut off", "cut short", "not a checkpoint"])
def test_a_broken_file_is_one_clear_message(broken, fault):
    file = broken / "series.safetensors"
    content = file.read_bytes()
    if fault == "missing":
        file.unlink()
    else:
        cut = {"cut off": content[:7], "cut short": content[:-1], "not a checkpoint": b"{}" * 99}
        file.write_bytes(cut[fault])
    with pytest.raises(ModelError, match="'induction-2l' cannot be read.*reinstall") as caught:
        reference.load("induction-2l", 64)
    assert "\n" not in str(caught.value)
    assert shipped_weights("induction-2l")


def test_a_damaged_checkpoint_is_found_and_the_others_can_still_be_read(broken):
    file = broken / "series.safetensors"
    tensors = load_file(file)
    index = reference.series_steps("induction-2l").index(64)
    tensors["lm_head.weight"][index, 7, 1, 3] ^= 1
    save_file(tensors, file)
    with pytest.raises(ModelError, match="checksum of step 64 is wrong"):
        reference.load("induction-2l", 64)
    reference.load("induction-2l", 16)
    reference.load("induction-2l", 128)


@pytest.mark.parametrize(
    "content",
    ["", "[]", "{}", '{"steps": {"4": "", "1": ""}, "losses": []}', '{"steps": {"a": 1}}'],
)
def test_a_broken_list_of_steps_is_one_clear_message(broken, content):
    (broken / "series.json").write_text(content)
    for ask in (reference.series_steps, reference.training_losses):
        with pytest.raises(
            ModelError, match="list of checkpoints .* 'induction-2l' cannot be read"
        ):
            ask("induction-2l")


# How it is packed.


def slowly_rounded(matrix: list[list[float]]) -> list[list[float]]:
    """Blocks of 32 in a row, whole multiples of the block's largest size over 127."""
    rounded = []
    for row in matrix:
        out = []
        for start in range(0, len(row), 32):
            block = row[start : start + 32]
            scale = float(torch.tensor(max(map(abs, block)) / 127).half())
            for value in block:
                code = round(value / scale) if scale else 0
                out.append(max(-127, min(127, code)) * scale)
        rounded.append(out)
    return rounded


def write_steps(folder: Path, weights: dict[int, dict[str, torch.Tensor]]) -> dict[int, Path]:
    for step, content in weights.items():
        (folder / str(step)).mkdir()
        save_file(content, folder / str(step) / "model.safetensors")
    return {step: folder / str(step) for step in weights}


def test_packed_weights_are_those_of_a_slow_reference(tmp_path):
    generator = torch.Generator().manual_seed(0)

    def draw(size: float) -> torch.Tensor:
        return torch.randn(5, 96, generator=generator) * size

    # Rounding to even in both; sizes from very small to large, a block of zeros, and an outlier.
    weights = {step: {"m": draw(10.0**-step), "v": draw(1)[0]} for step in (1, 3, 5)}
    weights[1]["m"][2, 32:64] = 0
    weights[1]["m"][3, 5] = 1000
    packing.pack(write_steps(tmp_path, weights), {1: 2.0, 2: 1.00004}, tmp_path)
    for step, exact in weights.items():
        found = packing.read_step(tmp_path, step)
        assert set(found) == {"m", "v"}
        assert torch.equal(found["v"], exact["v"].half().float())
        slow = torch.tensor(slowly_rounded(exact["m"].tolist()))
        codes = slow.view(5, 3, 32).abs().amax(-1, keepdim=True) / 127
        # A value half-way between two codes may go either way: in float32 or in float64.
        apart = (found["m"] - slow).view(5, 3, 32).abs()
        assert (apart <= codes * 1.001).all() and (apart > codes * 0.001).float().mean() < 0.01
    assert json.loads((tmp_path / "series.json").read_text())["losses"] == [2.0, 1.0]


def test_a_file_takes_8_5_bits_a_weight(tmp_path):
    weights = {step: {"m": torch.randn(256, 128)} for step in (1, 2)}
    packing.pack(write_steps(tmp_path, weights), {}, tmp_path)
    size = (tmp_path / "series.safetensors").stat().st_size
    assert 0 < size - 2 * 256 * 128 * 8.5 / 8 < 300
    with safe_open(tmp_path / "series.safetensors", framework="pt") as file:
        assert file.get_slice("m").get_shape() == [2, 256, 4, 32]


# How it is made.


def test_checkpoints_are_kept_on_the_way(tmp_path, monkeypatch):
    monkeypatch.setattr(training, "_TOKENS_PER_STEP", 1024)
    summary = training.train_reference(tmp_path, seed=1, steps=5, save_series=True)
    watched = {}
    training.train(
        2, seed=1, steps=5, on_step=lambda step, model, loss: watched.update({step: loss})
    )
    for name in TRAINED:
        folder = tmp_path / name
        assert summary[name]["checkpoints"] == [1, 4, 5]
        assert sorted(path.name for path in folder.glob("step*")) == ["step-1", "step-4", "step-5"]
        last = load_file(folder / "step-5" / "model.safetensors")
        final = load_file(folder / "model.safetensors")
        first = load_file(folder / "step-1" / "model.safetensors")
        assert all(torch.equal(last[key], final[key]) for key in final)
        assert not torch.equal(first["lm_head.weight"], final["lm_head.weight"])
        assert packing.read_step(folder, 5).keys() == final.keys()
        assert list(json.loads((folder / "series.json").read_text())["steps"]) == ["1", "4", "5"]
    state = json.loads((tmp_path / "induction-2l" / "step-4" / "trainer_state.json").read_text())
    assert state["global_step"] == 4
    assert state["log_history"] == [
        {"step": step, "loss": round(watched[step], 4)} for step in (1, 2, 3, 4)
    ]
    opened = icl_bench.load_model(str(tmp_path / "induction-2l" / "step-4"))
    assert opened.heads == {0: 12, 1: 12} and opened.tokenizer is not None
    assert icl_bench.load_model(str(tmp_path / "control-1l")).heads == {0: 12}


def test_a_new_process_can_open_them(tmp_path):
    training.save(training._fresh_model(1, 0), tmp_path / "step-1")
    code = "import sys, icl_bench; print(icl_bench.load_model(sys.argv[1]).heads)"
    command = [sys.executable, "-c", code, str(tmp_path / "step-1")]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout == "{0: 12}\n"


def test_checkpoints_of_two_trainings_are_not_mixed(tmp_path, monkeypatch):
    monkeypatch.setattr(training, "_TOKENS_PER_STEP", 1024)
    (tmp_path / "control-1l" / "step-7").mkdir(parents=True)
    with pytest.raises(SettingsError, match=r"control-1l' holds checkpoints .*\(step-7"):
        training.train_reference(tmp_path, steps=1, save_series=True)
    assert not (tmp_path / "induction-2l").exists()
    training.train_reference(tmp_path, steps=1)
    assert not (tmp_path / "control-1l" / "series.json").exists()
