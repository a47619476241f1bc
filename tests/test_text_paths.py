"""Wrappers that see images too are measured by their text path."""

from __future__ import annotations

from pathlib import Path

import checkpoints
import pytest
import torch
from transformers import LlavaConfig, LlavaForConditionalGeneration

import icl_bench
from icl_bench.errors import UnsupportedModel
from icl_bench.models.attention.paths import Runner
from icl_bench.models.attention.tiny_batch import run_tiny_batch
from icl_bench.models.opening.loading import load_parts
from icl_bench.models.sources.parsing import parse_spec


def write_llava(folder: Path) -> LlavaForConditionalGeneration:
    vision = {
        "model_type": "clip_vision_model",
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "image_size": 28,
        "patch_size": 14,
    }
    torch.manual_seed(0)
    text = {"model_type": "llama", **checkpoints.SIZES}
    config = LlavaConfig(text_config=text, vision_config=vision, image_token_index=15)
    model = LlavaForConditionalGeneration(config).eval()
    model.save_pretrained(folder)
    return model


def test_a_wrapper_is_opened_from_its_folder_as_it_is_wrapped(tmp_path: Path) -> None:
    model = write_llava(tmp_path / "llava")
    loaded = load_parts(parse_spec(str(tmp_path / "llava")), device="cpu").model
    ids = torch.tensor([[3, 4, 5, 6, 3, 4, 5, 6]])
    wrapped, opened = icl_bench.wrap(model), icl_bench.wrap(loaded)
    assert opened.heads == wrapped.heads == {0: 2, 1: 2}
    torch.testing.assert_close(opened.losses(ids).nll, wrapped.losses(ids).nll)


def test_a_wrapper_that_hears_is_opened_by_its_text_path(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers", minversion="5")
    audio = {"d_model": 32, "encoder_layers": 1, "encoder_attention_heads": 2}
    text = {"model_type": "llama", **checkpoints.SIZES}
    torch.manual_seed(0)
    config = transformers.Qwen2AudioConfig(
        audio_config={**audio, "encoder_ffn_dim": 32}, text_config=text, audio_token_index=15
    )
    model = transformers.Qwen2AudioForConditionalGeneration(config).eval()
    model.save_pretrained(tmp_path / "audio")
    opened = icl_bench.load_model(str(tmp_path / "audio"), device="cpu")
    assert opened.heads == {0: 2, 1: 2}
    ids = torch.tensor([[3, 4, 5, 6, 3, 4, 5, 6]])
    expected = icl_bench.wrap(model).losses(ids).nll
    torch.testing.assert_close(opened.losses(ids).nll, expected)


@pytest.mark.parametrize("name", ["quantization_status", "attention_type"])
def test_unpacking_in_the_first_pass_is_no_change_of_the_model(name: str) -> None:
    model = checkpoints.make_llama()
    layer = model.model.layers[0].mlp
    setattr(layer, name, "before")
    forward = layer.forward

    def change(*args: torch.Tensor) -> torch.Tensor:
        setattr(layer, name, "after")
        return forward(*args)

    layer.forward = change
    if name == "quantization_status":
        run_tiny_batch(Runner(model), list(range(3, 15)))
    else:
        with pytest.raises(UnsupportedModel, match="changes the model's own settings"):
            run_tiny_batch(Runner(model), list(range(3, 15)))
