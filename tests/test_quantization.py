"""Quantized weights without the packages that make them: stand-ins, FP8, and what configs say."""

from __future__ import annotations

import importlib.util
import json
import logging
import shutil
from pathlib import Path
from typing import Any

import checkpoints
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

import icl_bench
from icl_bench.errors import SpecError
from icl_bench.models.module import quantization
from icl_bench.models.module.quantization import (
    compute_dtype,
    dense_weight,
    exact_layers,
    is_quantized,
    prepare_layers,
    quantized_layers,
)
from icl_bench.models.module.quantized_files import METHODS, check_packages, describe_method
from icl_bench.models.sources.checking import check_spec
from icl_bench.models.sources.parsing import parse_spec


class Packed(nn.Module):
    """A linear layer of 8-bit integers with a scale, which may round what it is given, too."""

    def __init__(self, linear: nn.Linear, rounds: bool) -> None:
        super().__init__()
        self.out_features, self.in_features = linear.weight.shape
        self.scale = float(linear.weight.detach().abs().max()) / 127
        rounded = (linear.weight.detach() / self.scale).round().to(torch.int8)
        self.weight = nn.Parameter(rounded, requires_grad=False)
        self.bias = linear.bias
        self.activation_scheme = "dynamic" if rounds else None

    def matrix(self) -> Tensor:
        return self.weight.float() * self.scale

    def forward(self, given: Tensor) -> Tensor:
        if self.activation_scheme:
            size = given.abs().amax(-1, keepdim=True).clamp_min(1e-8) / 127
            given = (given / size).round() * size
        return nn.functional.linear(given, self.matrix(), self.bias)


def packed_llama(rounds: bool) -> tuple[Any, Any]:
    """A model of such layers, and the same with the matrices that they stand for."""
    ours, theirs = checkpoints.make_llama(), checkpoints.make_llama()
    for name, module in list(ours.named_modules()):
        if name.endswith("_proj"):
            layer = Packed(module, rounds)
            owner, _, own = name.rpartition(".")
            setattr(ours.get_submodule(owner), own, layer)
            theirs.get_submodule(name).weight.data = layer.matrix()
    return ours, theirs


IDS = torch.tensor([[3, 4, 5, 6, 7, 3, 4, 5, 6, 7], [9, 8, 7, 6, 5, 9, 8, 7, 6, 5]])


@pytest.mark.parametrize("rounds", [False, True])
def test_layers_are_counted_and_unpacked_by_what_they_stand_for(rounds: bool) -> None:
    ours, theirs = packed_llama(rounds)
    model, plain = icl_bench.wrap(ours), icl_bench.wrap(theirs)
    assert len(quantized_layers(ours)) == 14 and quantized_layers(theirs) == []
    assert model.parameters == plain.parameters and model.dtype == "float32"
    assert bool(model.remarks) == rounds and plain.remarks == []
    for layer, other in zip(model.anatomy.layers, plain.anatomy.layers):
        torch.testing.assert_close(layer.output_matrix(), other.output_matrix())
        assert layer.problem is other.problem is None
    with exact_layers(ours):
        torch.testing.assert_close(model.losses(IDS).nll, plain.losses(IDS).nll)
    assert all("forward" not in vars(layer) for layer in quantized_layers(ours))


def test_what_is_attributed_is_what_weights_stand_for() -> None:
    from icl_bench.models.circuits.attribution import attribute_logits
    from icl_bench.models.circuits.ovcircuit import ov_eigenvalues

    ours, theirs = (icl_bench.wrap(one) for one in packed_llama(True))
    assert not torch.allclose(ours.losses(IDS).nll, theirs.losses(IDS).nll, atol=1e-6)
    targets = torch.arange(5, 10)
    split = [attribute_logits(one, IDS, targets) for one in (ours, theirs)]
    for layer, heads in split[1].heads.items():
        torch.testing.assert_close(split[0].heads[layer], heads, rtol=0, atol=1e-5)
    scores = [ov_eigenvalues(one) for one in (ours, theirs)]
    for layer, expected in scores[1].items():
        torch.testing.assert_close(scores[0][layer], expected, rtol=0, atol=1e-5)


def test_layers_of_other_kinds_are_left_alone() -> None:
    linear = nn.Linear(4, 3)
    assert not is_quantized(linear) and dense_weight(linear) is linear.weight
    assert not any(map(is_quantized, checkpoints.make_llama().modules()))
    assert compute_dtype(linear, torch.bfloat16) is torch.bfloat16


def test_bitsandbytes_keeps_its_word_and_its_type(caplog: pytest.LogCaptureFixture) -> None:
    ours, _ = packed_llama(False)
    layer: Any = quantized_layers(ours)[0]
    layer.support_avx512bf16_for_cpu = True
    prepare_layers(ours)
    prepare_layers(ours)
    assert layer.support_avx512bf16_for_cpu is False
    log = logging.getLogger("bitsandbytes.autograd._functions")
    assert log.filters.count(quantization._untold) == 1
    log.warning("MatMul8bitLt: inputs will be cast from %s to float16 during quantization", "x")
    log.warning("something else")
    assert [record.message for record in caplog.records] == ["something else"]
    layer.compute_dtype = torch.bfloat16
    assert icl_bench.wrap(ours).dtype == "bfloat16"


@pytest.fixture
def fp8(tmp_path: Path) -> tuple[Path, dict[str, Tensor]]:
    """A checkpoint in fine-grained FP8, in blocks of 16 x 16, and what it stands for."""
    plain = checkpoints.write_llama(tmp_path / "plain")
    folder = shutil.copytree(plain, tmp_path / "fp8")
    stored, expected = {}, {}
    for name, weight in load_file(plain / "model.safetensors").items():
        stored[name] = expected[name] = weight
        if name.endswith("_proj.weight"):
            blocks = weight.reshape(weight.shape[0] // 16, 16, weight.shape[1] // 16, 16)
            scale = blocks.abs().amax((1, 3)) / 448
            rounded = (blocks / scale[:, None, :, None]).to(torch.float8_e4m3fn)
            stored[name] = rounded.reshape(weight.shape)
            stored[f"{name}_scale_inv"] = scale
            back = rounded.float() * scale[:, None, :, None]
            expected[name] = back.reshape(weight.shape)
    save_file(stored, folder / "model.safetensors", metadata={"format": "pt"})
    config = json.loads((folder / "config.json").read_text())
    config["quantization_config"] = {
        "quant_method": "fp8",
        "activation_scheme": "dynamic",
        "weight_block_size": [16, 16],
        "modules_to_not_convert": ["lm_head"],
    }
    (folder / "config.json").write_text(json.dumps(config))
    return folder, expected


@pytest.mark.skipif(torch.cuda.is_available(), reason="kept in FP8 there")
def test_fp8_is_unpacked_where_there_is_no_gpu_and_told(fp8: tuple[Path, Any]) -> None:
    folder, expected = fp8
    model = icl_bench.load_model(str(folder), device="cpu")
    assert model.quantization == "fine-grained FP8, 8 bits, unpacked when it was opened"
    found = model.model.state_dict()
    assert found.keys() >= expected.keys()
    for name, weight in expected.items():
        torch.testing.assert_close(found[name], weight, rtol=0, atol=1e-6)
    assert model.parameters == icl_bench.wrap(checkpoints.make_llama()).parameters


NAMED: list[tuple[dict[str, Any], str]] = [
    ({"load_in_4bit": True, "bnb_4bit_quant_type": "nf4"}, "bitsandbytes nf4, 4 bits"),
    ({"quant_method": "bitsandbytes", "load_in_8bit": True}, "bitsandbytes LLM.int8, 8 bits"),
    ({"quant_method": "gptq", "bits": 3}, "GPTQ, 3 bits"),
    ({"quant_method": "awq", "bits": 4, "version": "gemm"}, "AWQ, 4 bits"),
    ({"quant_method": "fp8"}, "fine-grained FP8, 8 bits"),
    ({"quant_method": "mxfp4"}, "MXFP4, 4 bits"),
    (
        {
            "quant_method": "torchao",
            "quant_type": {"default": {"_type": "Int4WeightOnlyConfig", "_data": {}}},
        },
        "torchao Int4WeightOnlyConfig, 4 bits",
    ),
    (
        {
            "quant_method": "compressed-tensors",
            "format": "float-quantized",
            "config_groups": {"group_0": {"weights": {"num_bits": 8}}},
        },
        "compressed-tensors float-quantized, 8 bits",
    ),
    ({"quant_method": "newest"}, "newest"),
    ({}, "unknown method"),
]


@pytest.mark.parametrize(("content", "told"), NAMED)
def test_method_and_bits_are_read_off_the_config(content: dict[str, Any], told: str) -> None:
    assert describe_method(content) == told


@pytest.mark.parametrize("method", [name for name, (_, packages) in METHODS.items() if packages])
def test_a_missing_package_is_named_before_anything_is_opened(
    method: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *rest: None)
    folder = checkpoints.write_llama(tmp_path / "model")
    checkpoints.edit_config(folder, quantization_config={"quant_method": method, "bits": 4})
    with pytest.raises(SpecError) as caught:
        check_spec(parse_spec(str(folder)))
    name, packages = METHODS[method]
    assert f"its weights are quantized ({name}), and loading them needs" in str(caught.value)
    assert str(caught.value).endswith(f"not installed: pip install {' '.join(packages)}")


def test_a_method_that_is_not_known_here_is_left_to_transformers() -> None:
    check_packages({"quantization_config": {"quant_method": "newest"}})
    check_packages({})
    with pytest.raises(SpecError, match="pip install optimum-quanto"):
        check_packages({"text_config": {"quantization_config": {"quant_method": "quanto"}}})
