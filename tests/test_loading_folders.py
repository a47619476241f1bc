"""Loading local folders: what is returned, and what is refused because it would be random."""

from __future__ import annotations

import json
import logging
import shutil
import sys
import warnings
from pathlib import Path
from typing import Any

import checkpoints
import pytest
import torch
from transformers import dynamic_module_utils

from icl_bench.errors import ModelError, SpecError, UnsupportedModel
from icl_bench.models.opening.loading import LoadedParts, load_parts
from icl_bench.models.sources.parsing import parse_spec


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return checkpoints.write_llama(tmp_path_factory.mktemp("llama"))


@pytest.fixture
def folder(llama: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(llama, tmp_path / "model"))


def load(folder: Path, **options: Any) -> LoadedParts:
    return load_parts(parse_spec(str(folder)), device="cpu", **options)


def failure(folder: Path, kind: type[Exception] = ModelError, **options: bool) -> str:
    with pytest.raises(kind) as caught:
        load(folder, **options)
    message = str(caught.value)
    assert message.startswith(f"model {str(folder)!r}: ") and "\n" not in message
    return message


def test_model_and_tokenizer_come_ready_to_run(folder: Path) -> None:
    parts = load(folder)
    assert not any(module.training for module in parts.model.modules())
    assert parts.tokenizer is not None and parts.tokenizer_note is None
    assert parts.tokenizer("the fox")["input_ids"] == [3, 6]
    assert parts.revision is None
    ids = torch.tensor([[3, 4, 5]])
    with torch.no_grad():
        assert torch.equal(parts.model(ids).logits, checkpoints.make_llama()(ids).logits)


def test_shards_and_allowed_pickles_give_the_same_weights(tmp_path: Path) -> None:
    sharded = load(checkpoints.write_shards(tmp_path / "sharded")).model
    pickled = load(checkpoints.write_pickle(tmp_path / "pickle"), allow_pickle=True).model
    for (name, one), two in zip(sharded.named_parameters(), pickled.parameters()):
        assert torch.equal(one, two), name


def test_a_pickle_is_refused_unless_allowed(tmp_path: Path) -> None:
    folder = checkpoints.write_pickle(tmp_path / "pickle")
    assert "--icl-allow-pickle" in failure(folder, SpecError)


class Payload:
    """What a harmful pickle holds: reading it would call a function."""

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return (exec, ("raise AssertionError('code of a pickle was run')",))


def test_an_allowed_pickle_still_runs_no_code(tmp_path: Path) -> None:
    folder = checkpoints.write_pickle(tmp_path / "pickle")
    torch.save({"weight": Payload()}, folder / "pytorch_model.bin")
    assert "it cannot be loaded" in failure(folder, allow_pickle=True)


def test_nothing_is_printed_or_logged(
    folder: Path, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    checkpoints.edit_weights(folder, v_head__weight=torch.zeros(3))
    before = logging.root.manager.disable
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        load(folder)
        checkpoints.edit_weights(folder, model__norm__weight=None)
        failure(folder)
    assert capfd.readouterr() == ("", "")
    assert caplog.records == []
    assert logging.root.manager.disable == before


def test_missing_weights_are_named(folder: Path) -> None:
    checkpoints.edit_weights(folder, lm_head__weight=None)
    assert "1 weights are missing from the checkpoint and would be random: lm_head.weight" in (
        failure(folder)
    )
    gone = {f"model__layers__{i}__self_attn__q_proj__weight": None for i in range(2)}
    checkpoints.edit_weights(folder, model__norm__weight=None, **gone)
    assert failure(folder).endswith(
        "4 weights are missing from the checkpoint and would be random: lm_head.weight, "
        "model.layers.0.self_attn.q_proj.weight, model.layers.1.self_attn.q_proj.weight and 1 more"
    )


def test_tied_weights_are_not_missing(tmp_path: Path) -> None:
    folder = checkpoints.write_llama(tmp_path / "tied", tie_word_embeddings=True)
    model = load(folder).model
    assert model.get_output_embeddings().weight is model.get_input_embeddings().weight


def test_weights_of_another_shape_are_named(folder: Path) -> None:
    checkpoints.edit_config(folder, intermediate_size=48)
    text = failure(folder)
    assert "6 weights have another shape than config.json asks for" in text
    assert "model.layers.0.mlp.down_proj.weight" in text


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_weights_that_are_not_finite_are_named(folder: Path, value: float) -> None:
    weight = torch.ones(32)
    weight[7] = value
    checkpoints.edit_weights(folder, model__norm__weight=weight)
    text = failure(folder)
    assert "1 of 32 values of model.norm.weight are NaN or infinite (as float32)" in text


def test_weights_that_overflow_in_the_chosen_dtype_are_named(folder: Path) -> None:
    checkpoints.edit_weights(folder, model__norm__weight=torch.full((32,), 1e6))
    load(folder)
    with pytest.raises(ModelError, match=r"model.norm.weight are NaN or infinite \(as float16\)"):
        load_parts(parse_spec(str(folder)), device="cpu", dtype="float16")


def test_a_broken_folder_is_refused_before_transformers_sees_it(folder: Path) -> None:
    (folder / "model.safetensors").write_bytes(b"")
    assert "not a safetensors file" in failure(folder, SpecError)


def test_an_unknown_model_type_is_refused(folder: Path) -> None:
    checkpoints.edit_config(folder, model_type="never-heard-of", architectures=None)
    assert "it cannot be loaded: ValueError:" in failure(folder)
    assert "never-heard-of" in failure(folder)


def test_a_known_type_without_a_causal_form_is_refused(folder: Path) -> None:
    checkpoints.edit_config(folder, model_type="clip_text_model", architectures=None)
    assert "not a causal language model that transformers knows (CLIPTextConfig)" in failure(
        folder, UnsupportedModel
    )


def test_code_of_a_checkpoint_needs_permission_and_runs_with_it(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dynamic_module_utils, "HF_MODULES_CACHE", str(tmp_path / "modules"))
    monkeypatch.setattr(sys, "path", list(sys.path))
    (folder / "own_model.py").write_text(
        "from transformers import LlamaConfig, LlamaForCausalLM\n"
        "class OwnConfig(LlamaConfig):\n"
        "    model_type = 'own-llama'\n"
        "class OwnForCausalLM(LlamaForCausalLM):\n"
        "    config_class = OwnConfig\n"
    )
    checkpoints.edit_config(
        folder,
        model_type="own-llama",
        architectures=["OwnForCausalLM"],
        auto_map={
            "AutoConfig": "own_model.OwnConfig",
            "AutoModelForCausalLM": "own_model.OwnForCausalLM",
        },
    )
    assert "give --icl-trust-remote-code if you trust it" in failure(folder)
    assert type(load(folder, trust_remote_code=True).model).__name__ == "OwnForCausalLM"


def test_a_folder_without_tokenizer_loads_with_a_note(tmp_path: Path) -> None:
    parts = load(checkpoints.write_llama(tmp_path / "bare", tokenizer=False))
    assert parts.tokenizer is None
    assert parts.tokenizer_note == "the folder has no tokenizer files"


def test_a_broken_tokenizer_is_left_out_with_the_reason(folder: Path) -> None:
    (folder / "tokenizer.json").write_text("{}")
    parts = load(folder)
    assert parts.tokenizer is None
    assert parts.tokenizer_note is not None
    assert parts.tokenizer_note.startswith("its tokenizer cannot be loaded: ")


def test_a_tokenizer_without_vocabulary_is_left_out_with_the_reason(folder: Path) -> None:
    content = json.loads((folder / "tokenizer.json").read_text())
    content["model"] = {"type": "BPE", "vocab": {}, "merges": []}
    (folder / "tokenizer.json").write_text(json.dumps(content))
    parts = load(folder)
    assert parts.tokenizer is None
    assert "its vocabulary is missing" in str(parts.tokenizer_note)


def test_a_tokenizer_of_another_model_is_left_out_with_the_reason(tmp_path: Path) -> None:
    parts = load(checkpoints.write_llama(tmp_path / "small", vocab_size=9))
    assert parts.tokenizer is None
    assert parts.tokenizer_note == "its tokenizer gives id 11, but the model knows 9 tokens only"
