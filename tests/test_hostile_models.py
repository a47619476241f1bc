"""Model files of the wrong kind are one message each, before anything is opened."""

from __future__ import annotations

import json
import shutil
import struct
from pathlib import Path

import checkpoints
import pytest
from conftest import Stage

from icl_bench.cli import main
from icl_bench.errors import SpecError
from icl_bench.models.sources.checking import check_spec
from icl_bench.models.sources.parsing import parse_spec

INDEX = "model.safetensors.index.json"


@pytest.fixture(scope="module")
def sharded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return checkpoints.write_shards(tmp_path_factory.mktemp("sharded"))


@pytest.fixture
def folder(sharded: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(sharded, tmp_path / "model"))


def refusal(path: Path) -> str:
    with pytest.raises(SpecError) as caught:
        check_spec(parse_spec(str(path)))
    assert "\n" not in str(caught.value)
    return str(caught.value)


def text(value: str) -> bytes:
    return struct.pack("<Q", len(value)) + value.encode()


def gguf(*pairs: bytes) -> bytes:
    """A GGUF file of metadata alone."""
    return b"GGUF" + struct.pack("<IQQ", 3, 0, len(pairs)) + b"".join(pairs)


NESTED = text("k") + struct.pack("<I", 9) + struct.pack("<IQ", 9, 1) * 5000
HEADERS = {
    "arrays in arrays": gguf(NESTED + struct.pack("<IQ", 4, 0)),
    "alignment": gguf(text("general.alignment") + struct.pack("<I", 8) + text("x")),
    "negative alignment": gguf(text("general.alignment") + struct.pack("<Ii", 5, -32)),
    "architecture": gguf(text("general.architecture") + struct.pack("<II", 4, 7)),
    "type": gguf(text("general.type") + struct.pack("<If", 6, 1.5)),
    "parts": gguf(text("split.count") + struct.pack("<I", 8) + text("three")),
    "dimensions": b"GGUF" + struct.pack("<IQQ", 3, 1, 0) + text("w") + struct.pack("<I", 2**31),
}


@pytest.mark.parametrize("name", HEADERS)
def test_a_gguf_header_of_the_wrong_kind_is_one_message(tmp_path: Path, name: str) -> None:
    path = tmp_path / "odd.gguf"
    path.write_bytes(HEADERS[name] + bytes(64))
    assert "damaged" in refusal(path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"a":' * 100_000, "nested too deep"),
        ('{"model_type":"llama","a":' + "[" * 500 + "]" * 500 + "}", "nested too deep"),
        ('{"model_type": {"a": 1}, "architectures": 5}', "model_type"),
        ('{"model_type": ["llama"]}', "model_type"),
        ('{"model_type": "llama", "architectures": [["LlamaForCausalLM"]]}', "architectures"),
        ('{"model_type": "llama", "hidden_size": "big"}', 'hidden_size "big"'),
        ('{"model_type": "llama", "num_hidden_layers": -1}', "num_hidden_layers -1"),
        ('{"model_type": "llama", "vocab_size": {}}', "vocab_size {}"),
        ('{"model_type": "llama", "rope_scaling": "linear"}', "rope_scaling"),
        ('{"model_type": "llava", "text_config": {"hidden_size": true}}', "hidden_size true"),
        ('{"model_type": "llama", "vocab_size": 1' + "0" * 5000 + "}", "not valid JSON"),
    ],
)
def test_a_config_of_the_wrong_kind_is_one_message(
    folder: Path, content: str, message: str
) -> None:
    (folder / "config.json").write_text(content)
    assert message in refusal(folder)


@pytest.mark.parametrize(
    "name", ["../a.safetensors", "a/../../b", "/etc/passwd", "C:\\b", "\\\\host\\b", "..\\b", ""]
)
def test_a_weight_file_outside_of_the_checkpoint_is_refused(folder: Path, name: str) -> None:
    # It lies there: that it is missing is not the reason.
    next(folder.glob("model-*.safetensors")).rename(folder.parent / "a.safetensors")
    (folder / INDEX).write_text(json.dumps({"weight_map": {"w": name}}))
    assert "outside of the checkpoint" in refusal(folder)


@pytest.mark.parametrize("name", [5, None, ["a"], {"a": 1}])
def test_a_weight_file_without_a_name_is_refused(folder: Path, name: object) -> None:
    (folder / INDEX).write_text(json.dumps({"weight_map": {"w": name}}))
    assert "which is no file's name" in refusal(folder)


def test_a_name_that_no_file_system_takes_is_one_message(folder: Path) -> None:
    (folder / INDEX).write_text(json.dumps({"weight_map": {"w": "a" * 5000}}))
    assert "names no file" in refusal(folder)


SOUND = {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]}


@pytest.mark.parametrize(
    "entry",
    [
        *({"data_offsets": [0, "x"]}, {"data_offsets": 4}, {"data_offsets": [1]}, [], "x"),
        *({**SOUND, "dtype": ["F32"]}, {**SOUND, "dtype": {}}, {**SOUND, "shape": 0.5}),
        *({**SOUND, "shape": "4"}, {**SOUND, "shape": [-1]}, {**SOUND, "data_offsets": [-4, 0]}),
    ],
)
def test_a_safetensors_header_of_the_wrong_kind_is_one_message(folder: Path, entry: object) -> None:
    header = json.dumps({"w": entry}).encode()
    content = struct.pack("<Q", len(header)) + header
    next(folder.glob("model-*.safetensors")).write_bytes(content)
    assert "its header is broken" in refusal(folder)


def test_it_ends_in_exit_code_4_for_the_command_and_under_pytest(
    real_stage: Stage, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "odd.gguf"
    path.write_bytes(HEADERS["alignment"])
    assert main(["run", str(path)]) == 4
    assert capsys.readouterr().err.count("\n") == 1
    result = real_stage.run(f"--icl-model={path}")
    assert result.ret == 4 and "INTERNALERROR" not in result.stdout.str()
