"""An adapter beside the weights is merged into them and named, or refused; never left out."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import checkpoints
import pytest
import torch
from safetensors.torch import save_file

from icl_bench.errors import ModelError, SpecError
from icl_bench.models.opening.opening import load
from icl_bench.models.sources.checking import check_spec
from icl_bench.models.sources.parsing import parse_spec
from icl_bench.models.sources.source import LoadedParts
from icl_bench.models.sources.table import get_source
from icl_bench.options import RunOptions

Q_PROJ = "model.layers.1.self_attn.q_proj"
OPTIONS = RunOptions(device="cpu")
NEEDS_PEFT = pytest.mark.skipif(importlib.util.find_spec("peft") is None, reason="needs peft")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A checkpoint and an adapter for one of its layers, scaled by 8 / 4."""
    folder = checkpoints.write_llama(tmp_path / "model")
    write_adapter(folder, Q_PROJ)
    config: dict[str, Any] = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": "nowhere/at-all",
        "r": 4,
        "lora_alpha": 8,
        "target_modules": [Q_PROJ],
    }
    (folder / "adapter_config.json").write_text(json.dumps(config))
    return folder


def write_adapter(folder: Path, *names: str) -> dict[str, torch.Tensor]:
    torch.manual_seed(1)
    parts = {}
    for name in names:
        parts[f"base_model.model.{name}.lora_A.weight"] = torch.randn(4, 32)
        parts[f"base_model.model.{name}.lora_B.weight"] = torch.randn(32, 4)
    save_file(parts, folder / "adapter_model.safetensors", metadata={"format": "pt"})
    return parts


def load_folder(folder: Path) -> LoadedParts:
    return load(parse_spec(str(folder)), OPTIONS)


@NEEDS_PEFT
def test_an_adapter_is_merged_into_the_weights_beside_it_and_named(folder: Path) -> None:
    lora_a, lora_b = write_adapter(folder, Q_PROJ).values()
    parts = load_folder(folder)
    assert parts.adapter == "LORA of rank 4, in the folder of the weights"
    expected = dict(checkpoints.make_llama().state_dict())
    expected[f"{Q_PROJ}.weight"] = expected[f"{Q_PROJ}.weight"] + 2 * lora_b @ lora_a
    found = parts.model.state_dict()
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        torch.testing.assert_close(found[name], tensor)


@NEEDS_PEFT
def test_an_adapter_that_fits_only_in_part_is_refused(folder: Path) -> None:
    write_adapter(folder, Q_PROJ, "model.layers.7.self_attn.q_proj")
    with pytest.raises(ModelError, match=r"adapter 'model' does not fit: .*layers\.7"):
        load_folder(folder)


@NEEDS_PEFT
def test_weights_beside_an_adapter_are_held_to_the_rule_for_leftovers(folder: Path) -> None:
    checkpoints.edit_weights(folder, memory=torch.ones(3))
    with pytest.raises(ModelError, match=r"1 weight \(memory\) that the model does not use"):
        load_folder(folder)


def test_without_peft_an_adapter_is_refused_and_the_package_named(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *a: None if name == "peft" else found(name, *a)
    )
    with pytest.raises(SpecError, match="it holds an adapter .*pip install peft"):
        check_spec(parse_spec(str(folder)))


@pytest.mark.parametrize("gone", ["adapter_config.json", "adapter_model.safetensors"])
def test_half_an_adapter_is_refused(folder: Path, gone: str) -> None:
    (folder / gone).unlink()
    with pytest.raises(SpecError, match=f"adapter.*without {gone}|{gone}"):
        check_spec(parse_spec(str(folder)))


def test_a_checkpoint_with_an_adapter_is_not_copied_into_another(folder: Path) -> None:
    from icl_bench.models.sources.source import Opening

    spec = parse_spec(str(folder))
    assert get_source(spec.kind).pour(spec, Opening(OPTIONS)) is None
