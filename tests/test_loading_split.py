"""Models that do not fit one device: some layers in memory, some on disk."""

from __future__ import annotations

import gc
import importlib.util
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import checkpoints
import psutil
import pytest
import torch
import transformers
from transformers import AutoConfig, AutoModelForCausalLM

import icl_bench
from icl_bench.errors import IclError, ModelError, SettingsError
from icl_bench.models.module.placement import check_spread, describe_placement, is_spread
from icl_bench.models.module.weights import check_finite
from icl_bench.models.opening.loading import check_device, load_parts
from icl_bench.models.sources.parsing import parse_spec

OLD = int(transformers.__version__.split(".")[0]) < 5
"""Whether weights that are tied cannot be run from disk."""

PLACES: dict[str, Any] = {
    "model.embed_tokens": "disk",
    "model.layers.0": "cpu",
    "model.layers.1": "disk",
    "model.layers.2": "cpu",
    "model.layers.3": "disk",
    "model.norm": "cpu",
    "model.rotary_emb": "cpu",
    "lm_head": "disk",
}


@pytest.fixture(scope="module", params=[False, True], ids=["untied", "tied"])
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return checkpoints.write_llama(
        tmp_path_factory.mktemp("llama"), num_hidden_layers=4, tie_word_embeddings=request.param
    )


def load_spread(folder: Path, **options: Any) -> Any:
    places = dict(PLACES)
    if OLD and AutoConfig.from_pretrained(folder).tie_word_embeddings:
        places.update({"model.embed_tokens": "cpu", "lm_head": "cpu"})
    return AutoModelForCausalLM.from_pretrained(folder, device_map=places, **options)


@pytest.fixture(scope="module")
def pair(folder: Path) -> tuple[icl_bench.Model, icl_bench.Model]:
    plain = icl_bench.load_model(str(folder), device="cpu")
    spread = load_spread(folder, dtype=torch.float32)
    assert is_spread(spread) and not is_spread(plain.model)
    assert OLD or spread.get_input_embeddings().weight.is_meta
    return plain, icl_bench.wrap(spread, plain.tokenizer)


def test_a_model_partly_on_disk_has_the_same_identity(pair) -> None:
    plain, spread = pair
    assert spread.fingerprint == plain.fingerprint
    assert spread.parameters == plain.parameters
    assert (spread.dtype, spread.attention, spread.heads) == ("float32", "fused", plain.heads)
    assert str(spread.runner.device) == "cpu"
    assert describe_placement(spread.model) == "split: cpu, disk"
    assert describe_placement(plain.model) == "cpu"


def test_a_model_partly_on_disk_has_the_same_scores(pair) -> None:
    tokens = icl_bench.repeated_tokens(pair[0], sequences=2, period=6)
    expected, found = (icl_bench.head_scores(model, tokens) for model in pair)
    assert (expected - found).abs().max().max() <= 1e-6


@pytest.mark.parametrize("method", ["zero", "mean"])
def test_a_model_partly_on_disk_loses_the_same_by_ablation(pair, method) -> None:
    tokens = icl_bench.repeated_tokens(pair[0], sequences=2, period=6)
    expected, found = (
        icl_bench.token_losses(model, tokens.input_ids, ablate=[(1, 0), (3, 1)], method=method)
        for model in pair
    )
    assert (expected - found).abs().max() <= 1e-6


def test_a_model_partly_on_disk_is_swept_with_as_few_passes(pair) -> None:
    tokens = icl_bench.repeated_tokens(pair[0], sequences=2, period=6)
    calls, sweeps = [], []
    for model in pair:
        passes: list[int] = []
        first = model.model.model.layers[0].self_attn
        handle = first.register_forward_hook(lambda *_, passes=passes: passes.append(1))
        sweeps.append(icl_bench.ablation_sweep(model, tokens))
        handle.remove()
        calls.append(len(passes))
    assert calls[0] == calls[1]
    assert (sweeps[0] - sweeps[1]).abs().max().max() <= 1e-6
    assert sweeps[0]["delta"].abs().min() > 0


def test_a_model_partly_on_disk_is_left_as_it_was(folder) -> None:
    model = load_spread(folder, dtype=torch.float32)
    before = {name: vars(module).get("forward") for name, module in model.named_modules()}
    ids = torch.arange(3, 15)[None]
    logits = model(ids).logits
    wrapped = icl_bench.wrap(model)
    icl_bench.ablation_sweep(wrapped, icl_bench.repeated_tokens(wrapped, sequences=1, period=6))
    assert before == {name: vars(module).get("forward") for name, module in model.named_modules()}
    assert torch.equal(model(ids).logits, logits)
    assert model.model.layers[1].mlp.up_proj.weight.is_meta


def test_a_fault_in_a_weight_on_disk_is_found(tmp_path) -> None:
    model = checkpoints.make_llama(num_hidden_layers=4)
    with torch.no_grad():
        model.model.layers[3].mlp.up_proj.weight[0, 0] = float("nan")
    model.save_pretrained(tmp_path)
    with pytest.raises(ModelError, match=r"1 of 2048 values of model\.layers\.3\.mlp\.up_proj"):
        check_finite(load_spread(tmp_path))


def test_split_offloads_what_does_not_fit_in_memory(folder, monkeypatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=60_000))
    model = icl_bench.load_model(str(folder), device="split")
    places = set(model.model.hf_device_map.values())
    assert places == {"cpu", "disk"}
    assert describe_placement(model.model) == "split: cpu, disk"
    plain = icl_bench.load_model(str(folder), device="cpu")
    assert model.fingerprint == plain.fingerprint
    ids = torch.arange(3, 15)[None]
    expected, found = (icl_bench.token_losses(m, ids) for m in (plain, model))
    assert (expected - found).abs().max() <= 1e-6


def test_a_tied_embedding_on_disk_is_refused_where_it_would_be_mixed_up(tmp_path, monkeypatch):
    folder = checkpoints.write_llama(tmp_path, tie_word_embeddings=True)
    monkeypatch.setattr(transformers, "__version__", "4.57.6")
    places = {"model.embed_tokens": "disk", "model.layers": "cpu"}
    places.update({"model.norm": "cpu", "model.rotary_emb": "cpu", "lm_head": "disk"})
    tied = AutoModelForCausalLM.from_pretrained(folder, device_map=dict(places))
    with pytest.raises(ModelError, match="tied embedding does not fit in memory"):
        check_spread(tied)
    untied = checkpoints.write_llama(tmp_path / "untied", tie_word_embeddings=False)
    check_spread(AutoModelForCausalLM.from_pretrained(untied, device_map=dict(places)))


def test_split_deletes_its_folder_when_the_model_goes(folder, monkeypatch, tmp_path) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    parts = load_parts(parse_spec(str(folder)), device="split")
    assert len(list(tmp_path.glob("icl_bench-offload-*"))) == 1
    del parts
    gc.collect()
    assert not list(tmp_path.glob("icl_bench-offload-*"))
    (tmp_path / "broken").mkdir()
    broken = checkpoints.write_llama(tmp_path / "broken", tokenizer=False)
    (broken / "model.safetensors").write_bytes(b"nothing")
    with pytest.raises(IclError):
        load_parts(parse_spec(str(broken)), device="split")
    assert not list(tmp_path.glob("icl_bench-offload-*"))


def test_split_works_with_models_that_are_not_read_from_files() -> None:
    model = icl_bench.load_model("builtin:handwired", device="split")
    assert not is_spread(model.model)


def test_split_without_accelerate_is_refused(monkeypatch) -> None:
    check_device("split")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(SettingsError, match=r"device 'split' needs accelerate: pip install"):
        check_device("split")
