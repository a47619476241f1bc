"""Which GGUF files pass as a language model, from their header alone."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import checkpoints
import pytest

from icl_bench.errors import SpecError
from icl_bench.models.sources.checking import check_spec
from icl_bench.models.sources.gguf.header import read_header
from icl_bench.models.sources.parsing import parse_spec


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return checkpoints.write_gguf(tmp_path / "tiny.gguf")


def refusal(path: Path) -> str:
    with pytest.raises(SpecError) as caught:
        check_spec(parse_spec(str(path)))
    message = str(caught.value)
    assert message.startswith(f"model {str(path)!r}: ") and "\n" not in message
    return message


def test_a_complete_file_passes(file: Path) -> None:
    check_spec(parse_spec(str(file)))


def test_the_header_agrees_with_the_gguf_package(file: Path) -> None:
    from gguf import GGUFReader

    header, reader = read_header(file), GGUFReader(file)
    assert list(header.tensors) == [tensor.name for tensor in reader.tensors]
    for tensor in reader.tensors:
        shape, kind, offset = header.tensors[tensor.name]
        assert (shape, kind) == (list(tensor.shape), tensor.tensor_type)
        assert header.data_start + offset == tensor.data_offset
    assert header.metadata["llama.rope.freq_base"] == 10000.0
    assert header.metadata["tokenizer.ggml.tokens"] is None


def test_a_missing_file_is_named_and_so_is_its_neighbour(file: Path) -> None:
    text = refusal(file.parent / "tinny.gguf")
    assert "there is no file" in text and f"did you mean {str(file)!r}?" in text


def test_a_file_is_refused_wherever_it_is_cut_short(file: Path) -> None:
    whole = file.read_bytes()
    data = read_header(file).data_start
    for length in (4, 7, 12, 30, 200, data - 40):
        file.write_bytes(whole[:length])
        assert "it ends within its header" in refusal(file)
    file.write_bytes(whole[:-1])
    assert "cut short: 1 bytes of weights are missing" in refusal(file)
    file.write_bytes(whole[:data])
    assert "bytes of weights are missing" in refusal(file)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty"),
        (b"PK\x03\x04 something else", "is not a GGUF file"),
        (b"version https://git-lfs.github.com/spec/v1\n", "Git LFS pointer"),
        (b"GGUF\x01\x00\x00\x00" + bytes(40), "GGUF file of version 1"),
        (b"GGUF\x63\x00\x00\x00" + bytes(40), "GGUF file of version 99"),
        (b"GGUF\x00\x00\x00\x03" + bytes(40), "big-endian"),
    ],
)
def test_a_file_that_is_not_a_readable_gguf_is_refused(
    tmp_path: Path, content: bytes, message: str
) -> None:
    path = tmp_path / "odd.gguf"
    path.write_bytes(content)
    assert message in refusal(path)


def test_a_header_that_makes_no_sense_is_refused(file: Path) -> None:
    content = bytearray(file.read_bytes())
    place = content.index(b"general.architecture") + len(b"general.architecture")
    content[place] = 77
    file.write_bytes(content)
    assert "its header makes no sense" in refusal(file)


def test_an_unknown_tensor_type_is_refused(file: Path) -> None:
    content = bytearray(file.read_bytes())
    place = content.index(b"output_norm.weight") + len(b"output_norm.weight") + 4 + 8
    content[place] = 201
    file.write_bytes(content)
    assert "tensor 'output_norm.weight' has type 201, unknown" in refusal(file)


@pytest.mark.parametrize(
    ("metadata", "message"),
    [
        ({"type": "adapter"}, "LoRA adapter"),
        ({"type": "mmproj", "architecture": "clip"}, "language model (type 'mmproj', 'clip')"),
        ({"architecture": "clip"}, "language model (type 'model', 'clip')"),
        ({"architecture": ""}, "no general.architecture"),
        ({"tensors": False}, "holds no weights (only a vocabulary)"),
        ({"split_count": 3}, "one part of several"),
    ],
)
def test_a_file_with_something_else_in_it_is_refused(
    tmp_path: Path, metadata: dict[str, Any], message: str
) -> None:
    assert message in refusal(checkpoints.write_gguf(tmp_path / "other.gguf", **metadata))


def test_missing_packages_are_named_with_the_extra(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "accelerate" else found(name)
    )
    assert "pip install gguf accelerate" in refusal(file)
