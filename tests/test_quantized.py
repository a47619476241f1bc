"""Quantized checkpoints, written by their own packages, beside the same weights as floats.

The packages are large and not in the developer's environment: `make quantized` runs these tests
in one of their own.
"""

from __future__ import annotations

import json
import shutil
import warnings
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

import icl_bench
from icl_bench.errors import SpecError, UnsupportedModel
from icl_bench.models.attention import tiny_batch
from icl_bench.models.module.quantization import dense_weight, exact_layers, quantized_layers
from icl_bench.models.opening.conditions import describe_conditions
from icl_bench.record import RunRecord

NAME = "builtin:induction-2l"
NEEDS = {
    **dict.fromkeys(("nf4", "fp4", "int8"), "bitsandbytes"),
    **dict.fromkeys(("torchao-int8", "torchao-dynamic"), "torchao"),
    **dict.fromkeys(("packed-int4", "packed-int8"), "compressed_tensors"),
}
"""Kind of checkpoint -> module that is needed to make it."""
TOLD = {
    "nf4": "bitsandbytes nf4, 4 bits",
    "fp4": "bitsandbytes fp4, 4 bits",
    "int8": "bitsandbytes LLM.int8, 8 bits",
    "torchao-int8": "torchao Int8WeightOnlyConfig, 8 bits",
    "torchao-dynamic": "torchao Int8DynamicActivationInt8WeightConfig, 8 bits",
    "packed-int4": "compressed-tensors pack-quantized, 4 bits",
    "packed-int8": "compressed-tensors int-quantized, 8 bits",
}
ROUNDED = ("int8", "torchao-dynamic", "packed-int8")
"""Kinds whose layers round what they are given, too."""
EXACT = ("circuit/match", "circuit/writing")
"""What is exact in those, too: what adds parts up to a whole, by what the weights stand for."""

Pair = tuple[Path, Path]
pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("quantized") / "float"
    model = icl_bench.load_model(NAME)
    model.model.save_pretrained(folder)
    assert model.tokenizer is not None
    model.tokenizer.save_pretrained(folder)
    return folder


def bitsandbytes(folder: Path, **options: Any) -> tuple[Any, Callable[[Any], Any]]:
    from transformers import BitsAndBytesConfig

    config = BitsAndBytesConfig(**options)
    model = AutoModelForCausalLM.from_pretrained(
        folder, quantization_config=config, dtype=torch.float32
    )
    return model, lambda model: model.dequantize(dtype=torch.float32)


def torchao(folder: Path, kind: str) -> tuple[Any, Callable[[Any], Any]]:
    import torchao.quantization
    from transformers import TorchAoConfig

    config = TorchAoConfig(getattr(torchao.quantization, kind)())
    model = AutoModelForCausalLM.from_pretrained(
        folder, quantization_config=config, dtype=torch.float32
    )

    def dequantize(model: Any) -> Any:
        for module in model.modules():
            weight = getattr(module, "weight", None)
            if hasattr(weight, "dequantize") and type(weight) is not torch.nn.Parameter:
                module.weight = torch.nn.Parameter(weight.dequantize())
        return model

    return model, dequantize


def packed(folder: Path, bits: int, form: str, inputs: bool) -> tuple[Any, Callable[[Any], Any]]:
    from compressed_tensors.compressors import ModelCompressor
    from compressed_tensors.quantization import (
        QuantizationConfig,
        QuantizationScheme,
        apply_quantization_config,
    )

    weights = {"num_bits": bits, "type": "int", "symmetric": True, "strategy": "channel"}
    given = {"num_bits": 8, "type": "int", "symmetric": True, "strategy": "token", "dynamic": True}
    scheme = QuantizationScheme(
        targets=["Linear"], weights=weights, input_activations=given if inputs else None
    )
    model = AutoModelForCausalLM.from_pretrained(folder)
    config = QuantizationConfig(
        config_groups={"group_0": scheme},
        ignore=["lm_head"],
        format=form,
        quantization_status="frozen",
    )
    apply_quantization_config(model, config)
    plain = AutoModelForCausalLM.from_pretrained(folder)
    top = 2 ** (bits - 1) - 1
    for name, module in model.named_modules():
        if hasattr(module, "weight_scale"):
            scale = module.weight.data.abs().amax(1, keepdim=True) / top
            module.weight_scale.data.copy_(scale)
            rounded = (module.weight.data / scale).round().clamp(-top - 1, top) * scale
            plain.get_submodule(name).weight.data.copy_(rounded)
    compressor = ModelCompressor.from_pretrained_model(model, quantization_format=form)
    compressor.compress_model(model)
    model.finish = compressor.update_config
    return model, lambda model: plain


MADE: dict[str, Callable[[Path], tuple[Any, Callable[[Any], Any]]]] = {
    "nf4": lambda f: bitsandbytes(
        f, load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True
    ),
    "fp4": lambda f: bitsandbytes(f, load_in_4bit=True, bnb_4bit_quant_type="fp4"),
    "int8": lambda f: bitsandbytes(f, load_in_8bit=True),
    "torchao-int8": lambda f: torchao(f, "Int8WeightOnlyConfig"),
    "torchao-dynamic": lambda f: torchao(f, "Int8DynamicActivationInt8WeightConfig"),
    "packed-int4": lambda f: packed(f, 4, "pack-quantized", False),
    "packed-int8": lambda f: packed(f, 8, "int-quantized", True),
}


@pytest.fixture(scope="module")
def made(base: Path) -> Callable[[str], Pair]:
    """Kind -> a quantized checkpoint, and one with the same weights as floats."""
    known: dict[str, Pair] = {}

    def make(kind: str) -> Pair:
        if kind not in known:
            folder, floats = base.parent / kind, base.parent / f"{kind}-floats"
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                model, dequantize = MADE[kind](base)
                model.save_pretrained(folder)
                getattr(model, "finish", lambda folder: None)(folder)
                plain = AutoModelForCausalLM.from_pretrained(base)
                plain.load_state_dict(dequantize(model).state_dict())
                plain.save_pretrained(floats)
            for name in base.glob("*token*"):
                for other in (folder, floats):
                    shutil.copy(name, other)
            known[kind] = folder, floats
        return known[kind]

    return make


@pytest.fixture(params=list(MADE))
def kind(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    if find_spec(NEEDS[name]) is None:
        pytest.skip(f"needs {NEEDS[name]}: make quantized")
    return name


def differences(ours: RunRecord, theirs: RunRecord) -> Iterator[tuple[str, str, float]]:
    """Measurement, metric and difference, as a share of what is above 1."""
    assert ours.measurements.keys() == theirs.measurements.keys()
    for key, expected in theirs.measurements.items():
        found = ours.measurements[key]
        assert (found.status, found.reason) == (expected.status, expected.reason), key
        for name, metric in expected.metrics.items():
            off = abs(found.metrics[name].value - metric.value) / max(1, abs(metric.value))
            yield key, name, off


def test_every_probe_gives_what_it_gives_of_the_same_weights_as_floats(
    kind: str, made: Callable[[str], Pair], tmp_path: Path
) -> None:
    suites = ["core", "circuit"]
    if kind == "nf4":
        suites += ["olsson", "quiz", "fewshot", "fuzzy"]
    ours, theirs = (
        icl_bench.run(suites, model=str(folder), cache_dir=tmp_path) for folder in made(kind)
    )
    assert ours.model.quantization == TOLD[kind] and theirs.model.quantization is None
    assert ours.model.parameters == theirs.model.parameters
    assert ours.model.dtype == ("float16" if kind == "int8" else "float32")
    assert bool(ours.model.remarks) == (kind in ROUNDED)
    found = list(differences(ours, theirs))
    assert len(found) > 100
    for key, name, off in found:
        loose = kind in ROUNDED and (key not in EXACT or name.endswith("previous_token"))
        assert off <= (0.05 if loose else 1e-5), (key, name, off)
    assert {key for key, *_ in found} >= set(EXACT)
    verdicts = [[(check.id, check.verdict) for check in one.checks] for one in (ours, theirs)]
    assert verdicts[0] == verdicts[1]


def test_a_layer_stands_for_the_matrix_that_its_package_gives(
    kind: str, made: Callable[[str], Pair]
) -> None:
    folder, floats = made(kind)
    model = icl_bench.load_model(str(folder)).model
    expected = AutoModelForCausalLM.from_pretrained(floats)
    layers = quantized_layers(model)
    assert len(layers) == 8
    for name, module in model.named_modules():
        if module in layers:
            own = expected.get_submodule(name).weight
            torch.testing.assert_close(dense_weight(module).float(), own.data, rtol=0, atol=1e-6)
    conditions = [describe_conditions(icl_bench.load_model(str(folder))) for _ in range(2)]
    assert conditions[0] == conditions[1]
    assert conditions[0]["libraries"].keys() >= {"bitsandbytes", "torchao"}
    ids = torch.arange(10, 40).reshape(2, 15)
    own = [module.__dict__.get("forward") for module in layers]
    with torch.no_grad():
        with exact_layers(model):
            exact = model(ids).logits
        torch.testing.assert_close(exact, expected(ids).logits, rtol=0, atol=1e-4)
    assert [module.__dict__.get("forward") for module in layers] == own


def test_an_adapter_on_quantized_weights_is_applied_beside_them(
    kind: str, made: Callable[[str], Pair], tmp_path: Path
) -> None:
    peft = pytest.importorskip("peft")
    from adapters import write_adapter

    folder, floats = made(kind)
    configs = {
        "lora": peft.LoraConfig(r=4, target_modules=["q_proj", "o_proj"]),
        "dora": peft.LoraConfig(r=4, target_modules=["k_proj", "o_proj"], use_dora=True),
    }
    for name, config in configs.items():
        write_adapter(AutoModelForCausalLM.from_pretrained(floats), tmp_path / name, config)
    tolerance = 0.1 if kind in ROUNDED else 1e-5
    for names in ("lora", "dora", "lora+lora", "lora+dora"):
        adapters = "+".join(str(tmp_path / name) for name in names.split("+"))
        spec = f"{folder}+{adapters}"
        if kind == "int8" and "dora" in names:
            with pytest.raises(SpecError, match=r"DoRA cannot be applied to weights in LLM\.int8"):
                icl_bench.load_model(spec)
            continue
        if names == "lora+dora":
            with pytest.raises(SpecError, match="DoRA and another adapter cannot be applied"):
                icl_bench.load_model(spec)
            continue
        ours, theirs = (
            icl_bench.run(["gate"], model=one, cache_dir=tmp_path / "cache")
            for one in (spec, f"{floats}+{adapters}")
        )
        assert ours.model.adapter is not None and ours.model.quantization == TOLD[kind]
        assert ours.model.adapter.count("applied beside quantized weights") == len(names.split("+"))
        assert ours.model.parameters == theirs.model.parameters
        assert max(off for _, _, off in differences(ours, theirs)) <= tolerance


def test_products_in_a_coarser_type_are_told_and_what_is_read_is_exact(
    base: Path, made: Callable[[str], Pair], tmp_path: Path
) -> None:
    pytest.importorskip("bitsandbytes")
    folder, floats = made("nf4")
    half = shutil.copytree(folder, tmp_path / "half")
    config = json.loads((half / "config.json").read_text())
    config["quantization_config"]["bnb_4bit_compute_dtype"] = "bfloat16"
    (half / "config.json").write_text(json.dumps(config))
    ours, theirs = (
        icl_bench.run(["circuit"], model=str(one), cache_dir=tmp_path) for one in (half, floats)
    )
    assert ours.model.dtype == "bfloat16"
    for key, name, off in differences(ours, theirs):
        loose = key not in EXACT or name.endswith("previous_token")
        assert off <= (0.05 if loose else 1e-5), (key, name, off)


class TestCoupledTokens:
    """LLM.int8 keeps columns in float16 in which any token has an outlier."""

    @pytest.fixture
    def folder(self, base: Path, tmp_path: Path) -> Path:
        pytest.importorskip("bitsandbytes")
        model = AutoModelForCausalLM.from_pretrained(base)
        # The self-check replaces the last token of each row: here by one without its outliers.
        last = tiny_batch.tiny_batch(icl_bench.wrap(model).vocabulary)[:, -1]
        with torch.no_grad():
            model.get_input_embeddings().weight[last, 0] = 30.0
        model.save_pretrained(tmp_path / "outliers")
        quantized, _ = bitsandbytes(tmp_path / "outliers", load_in_8bit=True)
        quantized.save_pretrained(tmp_path / "int8")
        return tmp_path / "int8"

    def test_coupling_is_measured_and_told(self, folder: Path) -> None:
        model = icl_bench.load_model(str(folder))
        assert model.runner.coupling is not None and 0 < model.runner.coupling <= 0.25
        assert any(f"by {model.runner.coupling:.2g} of their" in one for one in model.remarks)

    def test_too_much_of_it_is_refused(self, folder: Path, monkeypatch: Any) -> None:
        monkeypatch.setattr(tiny_batch, "COUPLED_WITHIN", 1e-9)
        with pytest.raises(UnsupportedModel, match="set llm_int8_threshold to 0, or dequantize"):
            icl_bench.load_model(str(folder))

    def test_a_model_that_looks_ahead_is_refused_all_the_same(
        self, folder: Path, monkeypatch: Any
    ) -> None:
        model = icl_bench.load_model(str(folder)).model
        inner = model.base_model
        own = inner.forward

        def ahead(*args: Any, **options: Any) -> Any:
            result = own(*args, **options)
            state = result.last_hidden_state
            result.last_hidden_state = state + 1e-2 * state[:, -1:]
            return result

        monkeypatch.setattr(inner, "forward", ahead)
        with pytest.raises(UnsupportedModel, match="a token changes the logits before it"):
            icl_bench.wrap(model)
