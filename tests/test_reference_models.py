"""The built-in models as they are shipped: names, loading, and what the trained ones can do."""

from __future__ import annotations

import itertools
import json
import random
import subprocess
import sys

import pytest
import torch

from icl_bench import reference
from icl_bench.errors import ModelError, SpecError
from icl_bench.reference.evaluation import evaluate
from icl_bench.reference.words import INVENTED_NAMES


def test_the_names_are_known_without_torch():
    code = (
        "import sys; from icl_bench.reference import NAMES, is_name; "
        "assert is_name('handwired'); print(*NAMES, 'torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["handwired", "induction-2l", "control-1l", "False"]
    assert tuple(reference.DESCRIPTIONS) == reference.NAMES


@pytest.mark.parametrize("name", [*reference.NAMES, "handwired-shift-1", "handwired-shift-9"])
def test_every_name_loads(name):
    assert reference.is_name(name)
    model, tokenizer = reference.load(name)
    assert not model.training
    assert all(p.dtype == torch.float32 and p.isfinite().all() for p in model.parameters())
    assert tokenizer.model_max_length == model.config.max_position_embeddings
    assert model.config.vocab_size == len(tokenizer)
    assert model.config.bos_token_id == tokenizer.bos_token_id
    assert model.config._attn_implementation == "sdpa"


def test_loading_leaves_the_global_random_state_alone():
    state = torch.get_rng_state()
    reference.load("induction-2l")
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("handwire", "did you mean 'handwired'"),
        ("induction-3l", "did you mean 'induction-2l'"),
        ("handwired-shift-0", "did you mean 'handwired'"),
        ("handwired-shift-10", "did you mean 'handwired'"),
        ("gpt", "valid names: control-1l, handwired, induction-2l"),
    ],
)
def test_an_unknown_name_is_refused_with_the_nearest(name, hint):
    assert not reference.is_name(name)
    with pytest.raises(SpecError, match=hint):
        reference.load(name)


@pytest.mark.parametrize("fault", ["missing", "cut off", "of another shape"])
def test_broken_weights_are_one_clear_message(monkeypatch, tmp_path, fault):
    folder = tmp_path / "induction-2l"
    folder.mkdir()
    if fault != "missing":
        for file in (reference.WEIGHTS / "induction-2l").iterdir():
            (folder / file.name).write_bytes(file.read_bytes())
    if fault == "cut off":
        (folder / "model.safetensors").write_bytes(b"\x08")
    if fault == "of another shape":
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps({**config, "head_dim": 8}))
    monkeypatch.setattr(reference, "WEIGHTS", tmp_path)
    with pytest.raises(ModelError, match="'induction-2l' cannot be read.*train-reference"):
        reference.load("induction-2l")


def test_the_weights_are_small_and_name_no_machine():
    files = [file for file in reference.WEIGHTS.rglob("*") if file.is_file()]
    assert sum(file.stat().st_size for file in files) < 19_000_000
    for file in files:
        if file.suffix == ".json":
            assert "/" not in json.dumps(json.loads(file.read_text()).get("_name_or_path", ""))


def test_the_trained_model_has_the_circuit():
    scores = evaluate(reference.load("induction-2l")[0])
    assert scores["induction"] > 0.5
    assert scores["previous_token"] > 0.7
    assert scores["first_loss"] - scores["repeated_loss"] > 2


def test_its_one_layer_twin_does_not():
    scores = evaluate(reference.load("control-1l")[0])
    assert scores["induction"] < 0.1
    assert scores["first_loss"] - scores["repeated_loss"] < 1.5


TEMPLATES = (
    "{} {} met {} {}. {}",
    "{} {} and {} {} walked to the river. After the rain, {}",
    "{} {} found a book. {} {} lost the key. Then the teacher asked {}",
)


def measure_pairs(name: str) -> tuple[float, float]:
    """Accuracy between the two family names, and how far the answer depends on who is asked."""
    model, tokenizer = reference.load(name)
    draw = random.Random(0)
    right, swing = [], []
    for template in itertools.islice(itertools.cycle(TEMPLATES), 60):
        first, family, other, others = draw.sample(INVENTED_NAMES, 4)
        answers = tokenizer.convert_tokens_to_ids([family, others])
        asked = [template.format(first, family, other, others, who) for who in (first, other)]
        with torch.no_grad():
            logits = model(**tokenizer(asked, return_tensors="pt")).logits[:, -1, answers]
        lead = logits[:, 0] - logits[:, 1]
        right += [lead[0].item() > 0, lead[1].item() < 0]
        swing.append((lead[0] - lead[1]).item())
    return sum(right) / len(right), sum(swing) / len(swing)


def test_names_in_a_text_are_completed_by_two_layers_and_guessed_by_one():
    accuracy, swing = measure_pairs("induction-2l")
    assert accuracy > 0.95 and swing > 4
    accuracy, swing = measure_pairs("control-1l")
    assert abs(accuracy - 0.5) < 0.15 and abs(swing) < 1
