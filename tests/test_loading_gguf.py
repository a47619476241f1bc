"""GGUF files become float copies, once, whoever asks and however it ends."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import checkpoints
import pytest
import torch
from waiting import HANG

from icl_bench.errors import ModelError
from icl_bench.models.model import Model
from icl_bench.models.opening.loading import load_parts
from icl_bench.models.sources import file_identity
from icl_bench.models.sources.gguf import source as gguf
from icl_bench.models.sources.parsing import parse_spec


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return checkpoints.write_gguf(tmp_path / "tiny.gguf")


@pytest.fixture
def conversions(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Every conversion that is really made."""
    made: list[Path] = []
    convert = gguf._convert

    def count(path: Path, folder: Path) -> None:
        made.append(path)
        convert(path, folder)

    monkeypatch.setattr(gguf, "_convert", count)
    return made


def folders(cache: Path) -> list[str]:
    return sorted(path.name for path in (cache / "gguf").iterdir() if path.is_dir())


def test_a_copy_holds_the_weights_in_float32(file: Path, tmp_path: Path) -> None:
    from gguf import GGUFReader

    parts = load_parts(parse_spec(str(file)), device="cpu", cache_dir=tmp_path / "cache")
    assert {weight.dtype for weight in parts.model.parameters()} == {torch.float32}
    assert not hasattr(parts.model.config, "quantization_config")
    tensors = {tensor.name: torch.tensor(tensor.data) for tensor in GGUFReader(file).tensors}
    weights = dict(parts.model.named_parameters())
    assert torch.equal(weights["lm_head.weight"], tensors["output.weight"])
    assert torch.equal(weights["model.layers.1.mlp.up_proj.weight"], tensors["blk.1.ffn_up.weight"])


def test_a_conversion_makes_the_table_of_names_once(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import gguf as library

    made = []
    original = library.get_tensor_name_map
    counted = lambda *given: made.append(given) or original(*given)  # noqa: E731
    monkeypatch.setattr(library, "get_tensor_name_map", counted)
    gguf.float_copy(file, tmp_path / "cache")
    assert len(made) == 1
    assert library.get_tensor_name_map is counted


def test_a_copy_is_made_once_per_content(
    file: Path, tmp_path: Path, conversions: list[Path]
) -> None:
    cache = tmp_path / "cache"
    copy = gguf.float_copy(file, cache)
    assert gguf.float_copy(file, cache) == copy
    twin = Path(shutil.copy(file, tmp_path / "twin.gguf"))
    assert gguf.float_copy(twin, cache) == copy
    other = checkpoints.write_gguf(tmp_path / "other.gguf", seed=1)
    assert gguf.float_copy(other, cache) != copy
    assert conversions == [file, other]


def test_a_file_changed_in_place_gets_a_new_copy(file: Path, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    copy = gguf.float_copy(file, cache)
    checkpoints.write_gguf(file, seed=1)
    stat = file.stat()
    os.utime(file, ns=(stat.st_atime_ns, stat.st_mtime_ns + 1))
    assert gguf.float_copy(file, cache) != copy


def test_a_known_file_is_not_read_again(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = gguf.float_copy(file, tmp_path / "cache")
    monkeypatch.setattr(file_identity, "hashlib", None)
    assert gguf.float_copy(file, tmp_path / "cache") == copy


@pytest.mark.parametrize("content", ["", "[]", "{", '{"x": 1}'])
def test_a_broken_memory_of_digests_is_replaced(file: Path, tmp_path: Path, content: str) -> None:
    cache = tmp_path / "cache"
    copy = gguf.float_copy(file, cache)
    memory = cache / "gguf" / "digests.json"
    memory.write_text(content)
    assert gguf.float_copy(file, cache) == copy
    assert copy.name.startswith(list(json.loads(memory.read_text()).values())[-1])


def test_a_damaged_copy_is_made_again(file: Path, tmp_path: Path, conversions: list[Path]) -> None:
    copy = gguf.float_copy(file, tmp_path / "cache")
    weights = copy / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-4])
    assert gguf.float_copy(file, tmp_path / "cache") == copy
    (copy / "config.json").unlink()
    gguf.float_copy(file, tmp_path / "cache")
    assert len(conversions) == 3


def test_a_failed_conversion_leaves_nothing_behind(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(path: Path, folder: Path) -> None:
        (folder / "config.json").write_text("{}")
        raise ValueError("no\nsense")

    monkeypatch.setattr(gguf, "_convert", fail)
    with pytest.raises(ModelError, match=r"no float copy can be written: ValueError: no sense$"):
        gguf.float_copy(file, tmp_path / "cache")
    assert folders(tmp_path / "cache") == []


def test_a_cache_that_cannot_be_written_is_named(file: Path, tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("a file where a folder is needed")
    with pytest.raises(ModelError, match=r"can be kept under .*cache.*; .*--icl-cache-dir"):
        gguf.float_copy(file, tmp_path / "cache")


def test_a_holder_that_never_ends_is_not_waited_for_for_ever(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from filelock import FileLock

    copy = gguf.float_copy(file, tmp_path / "cache")
    shutil.rmtree(copy)
    monkeypatch.setattr(gguf, "LOCK_SECONDS", 0)
    waited = pytest.raises(ModelError, match=r"another process has been converting tiny\.gguf")
    with FileLock(f"{copy}.lock"), waited:
        gguf.float_copy(file, tmp_path / "cache")


def test_an_architecture_that_transformers_cannot_read_is_refused(tmp_path: Path) -> None:
    file = checkpoints.write_gguf(tmp_path / "odd.gguf", architecture="neverheard")
    with pytest.raises(ModelError, match=r"it cannot be converted: .*neverheard"):
        load_parts(parse_spec(str(file)), device="cpu", cache_dir=tmp_path / "cache")


def test_a_file_without_a_layer_is_refused(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shapes = checkpoints._gguf_shapes()
    del shapes["blk.1.ffn_up.weight"]
    monkeypatch.setattr(checkpoints, "_gguf_shapes", lambda: shapes)
    checkpoints.write_gguf(file)
    with pytest.raises(ModelError, match=r"would be random: model\.layers\.1\.mlp\.up_proj"):
        load_parts(parse_spec(str(file)), device="cpu", cache_dir=tmp_path / "cache")


def test_the_tokenizer_comes_along(file: Path, tmp_path: Path) -> None:
    parts = load_parts(parse_spec(str(file)), device="cpu", cache_dir=tmp_path / "cache")
    assert parts.tokenizer is not None and parts.tokenizer_note is None
    original, _ = gguf.load_gguf_tokenizer(file)
    assert original is not None and original("abcab") == parts.tokenizer("abcab")
    assert parts.tokenizer("abc", add_special_tokens=False)["input_ids"] == [15, 5]
    assert parts.tokenizer.bos_token_id == 0


def test_a_file_without_tokenizer_loads_with_a_note(tmp_path: Path) -> None:
    file = checkpoints.write_gguf(tmp_path / "bare.GGUF", tokenizer=False)
    parts = load_parts(parse_spec(str(file)), device="cpu", cache_dir=tmp_path / "cache")
    assert parts.tokenizer is None
    assert str(parts.tokenizer_note).startswith("its tokenizer cannot be read: ")


SCRIPT = """
import os, shutil, sys, time
from pathlib import Path
from icl_bench.models.sources.gguf import source as gguf

file, cache, stage, model = map(Path, sys.argv[1:])

def convert(path, folder):
    (folder / "half.bin").write_bytes(b"half a copy")
    (stage / f"begun-{os.getpid()}").touch()
    while not (stage / "go").exists():
        time.sleep(0.005)
    (folder / "half.bin").unlink()
    shutil.copytree(model, folder, dirs_exist_ok=True)

gguf._convert = convert
print(gguf.float_copy(file, cache))
"""


class Stage:
    """Processes that ask for a copy at once; the one that converts waits for a sign to go on."""

    def __init__(self, file: Path, root: Path) -> None:
        self.file, self.cache, self.signs = file, root / "cache", root / "signs"
        self.signs.mkdir()
        self.model = checkpoints.write_llama(root / "model")
        self.workers: list[subprocess.Popen[str]] = []

    def start(self) -> subprocess.Popen[str]:
        paths = (self.file, self.cache, self.signs, self.model)
        command = [sys.executable, "-c", SCRIPT, *map(str, paths)]
        worker = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        self.workers.append(worker)
        return worker

    def begun(self) -> int:
        return len(list(self.signs.glob("begun-*")))

    def wait_for_conversion(self) -> None:
        while not self.begun():
            assert all(worker.poll() is None for worker in self.workers)
            time.sleep(0.005)

    def go_on(self) -> None:
        (self.signs / "go").touch()


@pytest.fixture
def stage(file: Path, tmp_path: Path) -> Iterator[Stage]:
    stage = Stage(file, tmp_path)
    yield stage
    for worker in stage.workers:
        worker.kill()
        worker.communicate()


def test_two_processes_at_once_convert_once(stage: Stage) -> None:
    workers = [stage.start(), stage.start()]
    stage.wait_for_conversion()
    stage.go_on()
    copies = {worker.communicate(timeout=HANG)[0].strip() for worker in workers}
    assert [worker.returncode for worker in workers] == [0, 0]
    assert stage.begun() == 1
    (copy,) = copies
    assert folders(stage.cache) == [Path(copy).name]


def test_what_a_killed_process_leaves_is_neither_used_nor_kept(stage: Stage) -> None:
    worker = stage.start()
    stage.wait_for_conversion()
    worker.kill()
    worker.wait(HANG)
    (leftover,) = folders(stage.cache)
    assert ".part-" in leftover
    copy = gguf.float_copy(stage.file, stage.cache)
    assert folders(stage.cache) == [copy.name]
    assert not (copy / "half.bin").exists()


def test_a_real_quantized_model_loads_and_continues_text(smollm2: Model) -> None:
    assert smollm2.quantization == "GGUF Q4_1, 4 bits, unpacked when it was opened"
    assert smollm2.model.config.num_hidden_layers == 30
    assert smollm2.tokenizer is not None
    assert smollm2.tokenizer.bos_token_id == 1
    # From a GGUF file, the tokenizer puts BOS first with transformers 4, and not with 5.
    text = "The capital of France is"
    found = smollm2.tokenizer(text, return_tensors="pt", add_special_tokens=False)
    ids = found["input_ids"]
    assert ids.tolist() == [[504, 3575, 282, 4649, 314]]
    with torch.no_grad():
        best = smollm2.model(ids).logits[0, -1].argmax()
    assert smollm2.tokenizer.decode(best) == " Paris"
