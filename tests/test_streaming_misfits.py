"""Checkpoints that do not fit the open module are opened alone, broken ones told."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import checkpoints
import pytest
import torch
from streamed import CPU, compare, numbers, write_series

from icl_bench.errors import IclError, ModelError
from icl_bench.models.opening import opening, streaming
from icl_bench.models.opening.opening import open_model
from icl_bench.models.opening.streaming import CheckpointStream
from icl_bench.models.sources import pretrained
from icl_bench.models.sources.parsing import parse_spec
from icl_bench.models.sources.series import find_steps
from icl_bench.options import RunOptions


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def loads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Every checkpoint that is opened in the ordinary way, not poured."""
    opened: list[str] = []
    original = opening.load

    def load(spec: Any, *options: Any) -> Any:
        opened.append(spec.revision)
        return original(spec, *options)

    monkeypatch.setattr(streaming, "load", load)
    return opened


def test_what_does_not_fit_is_opened_alone(loads: list[str]) -> None:
    write_series(6)
    checkpoints.edit_config(Path("runs/step2"), rope_theta=500.0, rope_parameters=None)
    shutil.rmtree("runs/step4")
    checkpoints.write_llama(Path("runs/step4"), seed=4, hidden_size=16, intermediate_size=32)
    config = Path("runs/step6/config.json")
    noted = {"transformers_version": "9", "torch_dtype": "float16", "_name_or_path": "there"}
    config.write_text(json.dumps(json.loads(config.read_text()) | noted))
    compare()
    # Each is the first of a shape, the last is not.
    assert loads == ["step1", "step2", "step3", "step4", "step5"]


def test_a_pickle_is_opened_alone(loads: list[str]) -> None:
    write_series(2)
    checkpoints.write_pickle(Path("runs/step3"))
    compare(options=RunOptions(device="cpu", allow_pickle=True))
    assert loads == ["step1", "step3"]


def test_names_that_transformers_changes_are_told_by_their_values(loads: list[str]) -> None:
    for seed in (1, 2):
        write_renamed(seed, lambda name: name.replace("gate_proj", "w1"))
    checkpoints.write_llama(Path("runs/step3"), seed=3)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pretrained, "_load_model", load_renamed("w1", "gate_proj"))
        compare()
    # The third has the module's own names, which are as good.
    assert loads == ["step1"]


def test_names_that_could_be_several_are_opened_alone(loads: list[str]) -> None:
    # All norms of a fresh model are ones: which name is which cannot be told by values.
    for seed in (1, 2):
        write_renamed(seed, lambda name: name.replace("post_attention_layernorm", "ln"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pretrained, "_load_model", load_renamed("ln.", "post_attention_layernorm."))
        compare()
    assert loads == ["step1", "step2"]


def write_renamed(seed: int, change: Callable[[str], str]) -> None:
    rename(checkpoints.write_llama(Path("runs", f"step{seed}"), seed=seed), change)


def load_renamed(old: str, new: str) -> Callable[..., Any]:
    """Loading as by a version of transformers that knows a checkpoint's old names."""
    original = pretrained._load_model

    def load(source: str, *rest: Any) -> Any:
        # A new place each time: what was loaded may still be read from its file.
        copy = shutil.copytree(source, Path(tempfile.mkdtemp(dir=".")) / "copy")
        rename(Path(copy), lambda name: name.replace(old, new))
        return original(str(copy), *rest)

    return load


def rename(folder: Path, change: Callable[[str], str]) -> None:
    from safetensors.torch import load_file, save_file

    path = folder / "model.safetensors"
    tensors = {change(name): tensor for name, tensor in load_file(path).items()}
    save_file(tensors, path, metadata={"format": "pt"})


def test_values_that_transformers_changes_are_opened_alone(
    loads: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    # Same names and shapes, and yet not what is in the module: seen by comparing the first.
    original = pretrained._load_model

    def load(*arguments: Any) -> Any:
        model = original(*arguments)
        with torch.no_grad():
            model.model.norm.weight.mul_(2)
        return model

    monkeypatch.setattr(pretrained, "_load_model", load)
    write_series(2)
    compare()
    assert loads == ["step1", "step2"]


def test_each_checkpoint_has_its_own_tokenizer(loads: list[str]) -> None:
    folders = write_series(4)
    for file in folders[1].glob("tokenizer*"):
        file.unlink()
    tokenizer = folders[2] / "tokenizer.json"
    tokenizer.write_text(tokenizer.read_text().replace('"fox"', '"cat"'))
    compare()
    assert loads == ["step1"]


def test_weights_that_are_tied_in_one_checkpoint_only_are_opened_alone(loads: list[str]) -> None:
    folders = write_series(3, tie_word_embeddings=True)
    head = checkpoints.make_llama(9).lm_head.weight.detach().clone()
    checkpoints.edit_weights(folders[1], lm_head__weight=head)
    embedding = checkpoints.make_llama(3, tie_word_embeddings=True).lm_head.weight.detach().clone()
    checkpoints.edit_weights(folders[2], lm_head__weight=embedding)
    stream = CheckpointStream()
    for checkpoint in find_steps(parse_spec("runs@*")):
        poured = numbers(stream.open(checkpoint.spec, "slug", CPU))
        alone = numbers(open_model(checkpoint.spec, "slug", CPU))
        assert torch.allclose(poured[1], alone[1], rtol=0, atol=1e-7)
    # transformers unties the second; the third says twice what the first says once.
    assert loads[:2] == ["step1", "step2"]


def broken_by(change: Callable[[Path], None]) -> str:
    """What is said of the second of three checkpoints; the third is what it is alone."""
    folders = write_series()
    change(folders[1])
    stream = CheckpointStream()
    first, second, third = (one.spec for one in find_steps(parse_spec("runs@*")))
    stream.open(first, "slug", CPU)
    with pytest.raises(IclError) as caught:
        stream.open(second, "slug", CPU)
    found = stream.open(third, "slug", CPU)
    alone = open_model(third, "slug", CPU)
    assert found.fingerprint == alone.fingerprint
    assert all(torch.equal(one, other) for one, other in zip(numbers(found), numbers(alone)))
    message = str(caught.value)
    assert message.startswith("model 'runs@step2': ") and "\n" not in message
    return message


def poke(value: float) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        weight = checkpoints.make_llama().lm_head.weight.detach().clone()
        weight[2, 3] = value
        checkpoints.edit_weights(folder, lm_head__weight=weight)

    return change


def cut(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (cut, "model.safetensors is cut short or damaged"),
        (poke(float("nan")), "1 of 512 values of lm_head.weight are NaN or infinite"),
        (poke(float("inf")), "1 of 512 values of lm_head.weight are NaN or infinite"),
        (lambda f: (f / "config.json").unlink(), "the folder has no config.json"),
        (lambda f: (f / "config.json").write_text("{"), "config.json is not valid JSON"),
        (lambda f: (f / "model.safetensors").unlink(), "the folder has no model.safetensors"),
        (
            lambda f: checkpoints.edit_weights(f, model__norm__weight=None),
            "1 weights are missing from the checkpoint: model.norm.weight",
        ),
        (
            lambda f: checkpoints.edit_weights(f, adapter__weight=torch.ones(2)),
            "holds 1 weight (adapter.weight) that the model does not use",
        ),
        (
            lambda f: checkpoints.edit_weights(f, model__norm__weight=torch.ones(31)),
            "model.norm.weight has the shape (31,), and the other checkpoints' (32,)",
        ),
    ],
)
def test_a_broken_checkpoint_is_told_and_leaves_no_trace(
    change: Callable[[Path], None], message: str, loads: list[str]
) -> None:
    assert message in broken_by(change)
    assert loads == ["step1"]


def test_a_misfit_is_seen_before_anything_is_overwritten() -> None:
    folders = write_series(2)
    checkpoints.edit_weights(folders[1], lm_head__weight=torch.ones(5, 5))
    stream = CheckpointStream()
    first, second = (one.spec for one in find_steps(parse_spec("runs@*")))
    model = stream.open(first, "slug", CPU)
    before = numbers(model)
    with pytest.raises(ModelError, match="shape"):
        stream.open(second, "slug", CPU)
    assert all(torch.equal(one, other) for one, other in zip(numbers(model), before))


def test_the_first_checkpoint_may_be_the_broken_one(loads: list[str]) -> None:
    folders = write_series()
    poke(float("nan"))(folders[0])
    stream = CheckpointStream()
    first, *others = (one.spec for one in find_steps(parse_spec("runs@*")))
    with pytest.raises(ModelError, match="NaN"):
        stream.open(first, "slug", CPU)
    for spec in others:
        assert stream.open(spec, "slug", CPU).fingerprint == open_model(spec, "", CPU).fingerprint
    assert loads == ["step1", "step2"]
