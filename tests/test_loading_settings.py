"""Device, dtype and cache folder."""

from __future__ import annotations

from pathlib import Path

import checkpoints
import pytest
import torch

from icl_bench.errors import SettingsError
from icl_bench.models.opening.loading import check_device, check_dtype, load_parts
from icl_bench.models.sources.parsing import parse_spec
from icl_bench.options import default_cache_dir


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(checkpoints.write_llama(tmp_path_factory.mktemp("llama"), dtype="bfloat16"))


@pytest.mark.parametrize("text", ["auto", "cpu"])
def test_a_device_that_every_machine_has_passes(text: str) -> None:
    check_device(text)


def test_a_device_that_this_machine_has_not_is_refused() -> None:
    with pytest.raises(SettingsError, match="device 'cuda:99' is not there"):
        check_device("cuda:99")


@pytest.mark.parametrize("text", ["", "gpu", "cuda:", "cuda:x", "CPU", "cpu:0", "tpu"])
def test_a_text_that_names_no_device_is_refused(text: str) -> None:
    with pytest.raises(
        SettingsError, match=r"unknown device .*; use auto, split, cpu, cuda, cuda:N or mps"
    ):
        check_device(text)


@pytest.mark.parametrize("text", ["", "fp32", "float64", "int8", "torch.float32"])
def test_a_text_that_names_no_dtype_is_refused(text: str) -> None:
    with pytest.raises(SettingsError, match=r"unknown dtype .*; use auto, float32, bfloat16 or"):
        check_dtype(text)


def test_wrong_settings_are_refused_before_anything_is_loaded() -> None:
    spec = parse_spec("/no/such/folder")
    with pytest.raises(SettingsError, match=r"unknown device"):
        load_parts(spec, device="gpu")
    with pytest.raises(SettingsError, match="unknown dtype"):
        load_parts(spec, dtype="half")


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without CUDA")
@pytest.mark.parametrize("text", ["cuda", "cuda:3"])
def test_a_device_that_is_not_there_is_refused(text: str, llama: str) -> None:
    with pytest.raises(SettingsError, match="torch sees 0 CUDA devices; use cpu"):
        load_parts(parse_spec(llama), device=text)


def test_a_missing_mps_device_is_refused(llama: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    with pytest.raises(SettingsError, match="device 'mps' is not there; use cpu"):
        load_parts(parse_spec(llama), device="mps")


@pytest.mark.parametrize(
    ("text", "expected"),
    [("auto", torch.float32), ("bfloat16", torch.bfloat16), ("float16", torch.float16)],
)
def test_weights_get_the_dtype_that_was_asked_for(
    llama: str, text: str, expected: torch.dtype
) -> None:
    model = load_parts(parse_spec(llama), device="cpu", dtype=text).model
    assert {weight.dtype for weight in model.parameters()} == {expected}


def test_the_cache_folder_follows_the_environment(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("ICL_BENCH_CACHE", str(tmp_path / "own"))
    assert default_cache_dir() == tmp_path / "own"
    monkeypatch.delenv("ICL_BENCH_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert default_cache_dir() == tmp_path / "xdg" / "icl_bench"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    assert default_cache_dir() == tmp_path / ".cache" / "icl_bench"
