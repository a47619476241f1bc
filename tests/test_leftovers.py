"""What a checkpoint holds and the model does not use is refused by name, unless it is harmless."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import checkpoints
import pytest
import torch

from icl_bench.errors import ModelError, SpecError
from icl_bench.models.module.leftovers import explain_leftovers, is_harmless
from icl_bench.models.opening.loading import load_parts
from icl_bench.models.opening.streaming import CheckpointStream
from icl_bench.models.sources.checking import check_spec
from icl_bench.models.sources.parsing import parse_spec
from icl_bench.options import RunOptions

Q_PROJ = "model.layers.0.self_attn.q_proj"
DOWN = "model__layers__1__mlp__down_proj__weight"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return checkpoints.write_llama(tmp_path / "model")


def logits(folder: Path) -> torch.Tensor:
    model = load_parts(parse_spec(str(folder)), device="cpu").model
    with torch.no_grad():
        return model(torch.tensor([[3, 4, 5, 3]])).logits


def refused_early(folder: Path) -> str:
    """What is said before anything is opened."""
    with pytest.raises(SpecError) as caught:
        check_spec(parse_spec(str(folder)))
    return str(caught.value)


def refused(folder: Path) -> str:
    with pytest.raises((ModelError, SpecError)) as caught:
        load_parts(parse_spec(str(folder)), device="cpu")
    return str(caught.value)


HARMLESS: dict[str, torch.Tensor] = {
    "model.layers.0.self_attn.rotary_emb.inv_freq": torch.randn(4),
    "model.layers.0.self_attn.masked_bias": torch.tensor(-1e4),
    "transformer.h.0.attn.bias": torch.ones(1, 1, 4, 4),
    "model.embeddings.position_ids": torch.arange(4),
    "v_head.summary.weight": torch.randn(1, 32),
    "score.weight": torch.randn(2, 32),
    "vision_tower.blocks.0.proj.weight": torch.randn(2, 2),
}


@pytest.mark.parametrize("name", HARMLESS)
def test_harmless_leftovers_change_nothing(folder: Path, name: str) -> None:
    before = logits(folder)
    checkpoints.edit_weights(folder, **{name.replace(".", "__"): HARMLESS[name]})
    assert torch.equal(logits(folder), before)


@pytest.mark.parametrize(
    "name",
    [
        "model.layers.0.self_attn.q_proj.bias",
        "transformer.h.0.attn.c_attn.bias",
        "model.layers.0.mlp.experts.score_bias",
        "model.extra.weight",
        "model.layers.0.v_head_mixer.weight",
    ],
)
def test_what_only_looks_like_harmless_is_not(name: str) -> None:
    assert not is_harmless(name)
    assert name in str(explain_leftovers([name]))


@pytest.mark.parametrize("name", [f"{Q_PROJ}.bias", "model.layers.0.mlp.gate.weight", "memory"])
def test_a_tensor_that_the_model_does_not_use_is_refused_by_name(folder: Path, name: str) -> None:
    checkpoints.edit_weights(folder, **{name.replace(".", "__"): torch.ones(32)})
    message = refused(folder)
    assert f"1 weight ({name}) that the model does not use" in message


def test_more_layers_than_the_config_counts_are_refused_before_opening(tmp_path: Path) -> None:
    folder = checkpoints.write_llama(tmp_path / "four", num_hidden_layers=4)
    checkpoints.edit_config(folder, num_hidden_layers=2)
    message = refused_early(folder)
    assert "18 weights (model.layers.2." in message and "does not use" in message


def test_layers_that_predict_further_tokens_are_no_surplus(folder: Path) -> None:
    checkpoints.edit_weights(folder, model__layers__2__eh_proj__weight=torch.ones(2))
    checkpoints.edit_config(folder, num_nextn_predict_layers=1)
    check_spec(parse_spec(str(folder)))


@pytest.mark.parametrize("ending", ["lora_A.weight", "lora_B.default.weight", "lora_A"])
def test_an_adapter_among_the_weights_is_refused_before_opening(folder: Path, ending: str) -> None:
    name = f"{Q_PROJ}.{ending}"
    checkpoints.edit_weights(folder, **{name.replace(".", "__"): torch.ones(4, 32)})
    message = refused_early(folder)
    assert name in message and "adapter" in message and "merge" in message


@pytest.mark.parametrize("scale", ["weight_scale", "weight_scale_inv"])
def test_float8_weights_whose_config_is_lost_are_refused_before_opening(
    folder: Path, scale: str
) -> None:
    packed = checkpoints.make_llama().state_dict()[f"{Q_PROJ}.weight"].to(torch.float8_e4m3fn)
    names = {f"{Q_PROJ}.weight": packed, f"{Q_PROJ}.{scale}": torch.ones(1)}
    checkpoints.edit_weights(folder, **{n.replace(".", "__"): t for n, t in names.items()})
    message = refused_early(folder)
    assert f"{Q_PROJ}.{scale}" in message and "quantization_config" in message


def test_packed_weights_whose_config_is_lost_are_said_to_be_packed(folder: Path) -> None:
    checkpoints.edit_weights(folder, **{DOWN: torch.zeros(1024, 1, dtype=torch.uint8)})
    message = refused_early(folder)
    assert "packed" in message and "quantization_config" in message and "down_proj" in message


def test_weights_that_training_did_not_gather_are_said_to_be(folder: Path) -> None:
    checkpoints.edit_weights(folder, **{DOWN: torch.empty(0)})
    message = refused_early(folder)
    assert "ZeRO 3" in message and "stage3_gather_16bit_weights_on_model_save" in message


@pytest.mark.parametrize(
    ("file", "says"),
    [
        ("adapter_model.safetensors", "it holds an adapter beside the config of a model"),
        ("global_step5/bf16_zero_pp_rank_0_mp_rank_00_optim_states.pt", "zero_to_fp32.py"),
        ("pytorch_model_fsdp_0/__0_0.distcp", "accelerate merge-weights"),
        ("iter_5/model_optim_rng.pt", "Megatron"),
    ],
)
def test_a_folder_without_weights_says_what_it_holds(folder: Path, file: str, says: str) -> None:
    (folder / "model.safetensors").unlink()
    (folder / file).parent.mkdir(exist_ok=True)
    (folder / file).write_bytes(b"x")
    assert says in refused_early(folder)


def test_a_checkpoint_of_a_series_is_refused_for_the_same_reason(tmp_path: Path) -> None:
    for step in (1, 2):
        checkpoints.write_llama(tmp_path / f"checkpoint-{step}", seed=step)
    harmless = {"v_head__summary__weight": torch.ones(1, 32)}
    checkpoints.edit_weights(tmp_path / "checkpoint-2", **harmless)
    bias = {f"{Q_PROJ}.bias".replace(".", "__"): torch.ones(32)}
    checkpoints.write_llama(tmp_path / "checkpoint-3")
    checkpoints.edit_weights(tmp_path / "checkpoint-3", **bias)
    stream, options = CheckpointStream(), RunOptions(device="cpu")
    for step in (1, 2):
        stream.open(parse_spec(str(tmp_path / f"checkpoint-{step}")), "run", options)
    with pytest.raises(ModelError, match=f"1 weight \\({Q_PROJ}.bias\\) that the model does not"):
        stream.open(parse_spec(str(tmp_path / "checkpoint-3")), "run", options)


CALLABLE = """
from transformers import AutoModelForCausalLM, LlamaForCausalLM

def auto():
    return AutoModelForCausalLM.from_pretrained(FOLDER)

def with_information():
    model, info = LlamaForCausalLM.from_pretrained(FOLDER, output_loading_info=True)
    assert "unexpected_keys" in info
    return model, None
"""


@pytest.mark.parametrize("function", ["auto", "with_information"])
def test_what_a_callable_loads_is_held_to_the_same_rule(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, function: str
) -> None:
    module = f"leftover_{function}"
    (tmp_path / f"{module}.py").write_text(CALLABLE.replace("FOLDER", json.dumps(str(folder))))
    monkeypatch.chdir(tmp_path)
    spec = parse_spec(f"{module}:{function}")
    load_parts(spec, device="cpu")
    checkpoints.edit_weights(folder, memory=torch.ones(3))
    sys.modules.pop(module)
    with pytest.raises(ModelError, match=r"1 weight \(memory\) that the model does not use"):
        load_parts(spec, device="cpu")
