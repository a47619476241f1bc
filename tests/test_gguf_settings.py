"""What a GGUF header asks for and transformers ignores reaches the model, or is refused by name."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import checkpoints
import gguf
import pytest
import torch

from icl_bench.errors import ModelError, SpecError
from icl_bench.models.opening.loading import load_parts
from icl_bench.models.sources.checking import check_spec
from icl_bench.models.sources.gguf.source import float_copy
from icl_bench.models.sources.parsing import parse_spec

LINEAR = {"llama.rope.scaling.type": "linear", "llama.rope.scaling.factor": 4.0}
PAIRS = checkpoints.SIZES["hidden_size"] // checkpoints.SIZES["num_attention_heads"] // 2
FACTORS = [1.0] * (PAIRS // 2) + [8.0] * (PAIRS - PAIRS // 2)


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    """Write a GGUF file with further keys and tensors."""

    def make(keys: dict[str, Any], tensors: dict[str, list[float]] | None = None) -> Path:
        finish = gguf.GGUFWriter.write_header_to_file

        def add(writer: gguf.GGUFWriter) -> None:
            for key, value in keys.items():
                if isinstance(value, str):
                    writer.add_string(key, value)
                elif isinstance(value, float):
                    writer.add_float32(key, value)
                else:
                    writer.add_uint32(key, value)
            for name, values in (tensors or {}).items():
                writer.add_tensor(name, torch.tensor(values).numpy())
            finish(writer)

        with monkeypatch.context() as patch:
            patch.setattr(gguf.GGUFWriter, "write_header_to_file", add)
            return checkpoints.write_gguf(tmp_path / "tiny.gguf")

    return make


def load(file: Path, tmp_path: Path) -> Any:
    return load_parts(parse_spec(str(file)), device="cpu", cache_dir=tmp_path / "cache").model


def logits(model: Any) -> torch.Tensor:
    with torch.no_grad():
        return model(torch.arange(3, 15).repeat(3)[None]).logits


@pytest.mark.parametrize(
    ("keys", "factors", "parts"),
    [
        (LINEAR, None, [4.0] * PAIRS),
        ({"llama.rope.scale_linear": 2.0}, None, [2.0] * PAIRS),
        ({}, FACTORS, FACTORS),
        (LINEAR, FACTORS, [4 * factor for factor in FACTORS]),
    ],
)
def test_scaled_positions_are_those_of_frequencies_divided_by_hand(
    write: Callable[..., Path],
    tmp_path: Path,
    keys: dict[str, Any],
    factors: list[float] | None,
    parts: list[float],
) -> None:
    plain = load(write({}), tmp_path)
    before = logits(plain)
    tensors = {} if factors is None else {"rope_freqs.weight": factors}
    model = load(write(keys, tensors), tmp_path)
    plain.model.rotary_emb.inv_freq /= torch.tensor(parts)
    torch.testing.assert_close(model.model.rotary_emb.inv_freq, plain.model.rotary_emb.inv_freq)
    torch.testing.assert_close(logits(model), logits(plain), atol=1e-6, rtol=1e-6)
    # More than rounding: the weights are small, and so is what positions make of them.
    assert (logits(model) - before).abs().max() > 2e-6


@pytest.mark.parametrize(
    "keys",
    [
        {"llama.rope.scaling.type": "none", "llama.rope.scaling.factor": 4.0},
        {"llama.rope.scaling.type": "linear", "llama.rope.scaling.factor": 1.0},
        {"llama.attention.key_length": 16, "llama.attention.value_length": 16},
        {"llama.tensor_data_layout": "Meta AI original pth", "llama.expert_count": 0},
    ],
)
def test_settings_without_effect_change_nothing(
    write: Callable[..., Path], tmp_path: Path, keys: dict[str, Any]
) -> None:
    before = logits(load(write({}), tmp_path))
    assert torch.equal(logits(load(write(keys), tmp_path)), before)


@pytest.mark.parametrize("kind", ["yarn", "longrope", "something"])
def test_other_scalings_are_refused_before_opening(write: Callable[..., Path], kind: str) -> None:
    file = write({"llama.rope.scaling.type": kind, "llama.rope.scaling.factor": 4.0})
    with pytest.raises(SpecError, match=rf"llama\.rope\.scaling\.type is '{kind}'"):
        check_spec(parse_spec(str(file)))


def test_a_tensor_of_long_factors_is_refused_before_opening(write: Callable[..., Path]) -> None:
    file = write({}, {"rope_factors_long.weight": FACTORS})
    with pytest.raises(SpecError, match=r"rope_factors_long\.weight"):
        check_spec(parse_spec(str(file)))


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("llama.attention.sliding_window", 8),
        ("llama.attention.scale", 0.5),
        ("llama.logit_scale", 0.5),
        ("llama.attn_logit_softcapping", 30.0),
        ("llama.rope.scaling.attn_factor", 1.5),
        ("llama.a_new_setting", 3),
    ],
)
def test_a_setting_that_transformers_ignores_is_refused_by_name(
    write: Callable[..., Path], tmp_path: Path, key: str, value: Any
) -> None:
    with pytest.raises(ModelError, match=rf"{key} is {value}"):
        load(write({key: value}), tmp_path)


@pytest.mark.parametrize("name", ["blk.0.attn_q.bias", "blk.2.attn_norm.weight", "memory.weight"])
def test_a_tensor_without_a_place_is_refused_by_name(
    write: Callable[..., Path], tmp_path: Path, name: str
) -> None:
    with pytest.raises(ModelError, match=name):
        load(write({}, {name: [1.0] * 32}), tmp_path)


def test_a_copy_made_before_settings_were_read_is_not_used(
    write: Callable[..., Path], tmp_path: Path
) -> None:
    copy = float_copy(write(LINEAR), tmp_path / "cache")
    old = copy.rename(copy.with_name(copy.name.rpartition("-")[0]))
    assert float_copy(write(LINEAR), tmp_path / "cache") == copy
    assert copy.is_dir() and old.is_dir()
