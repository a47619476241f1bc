"""Which local folders pass as a causal language model, without loading them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import checkpoints
import pytest

from icl_bench.errors import SpecError
from icl_bench.models.sources.checking import check_spec
from icl_bench.models.sources.parsing import parse_spec


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return checkpoints.write_llama(tmp_path_factory.mktemp("llama"))


@pytest.fixture
def folder(llama: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(llama, tmp_path / "model"))


def refusal(folder: Path, **options: bool) -> str:
    with pytest.raises(SpecError) as caught:
        check_spec(parse_spec(str(folder)), **options)
    message = str(caught.value)
    assert message.startswith(f"model {str(folder)!r}: ") and "\n" not in message
    return message


def test_a_complete_folder_passes(folder: Path) -> None:
    check_spec(parse_spec(str(folder)))


def test_a_sharded_folder_passes_and_a_missing_shard_is_named(tmp_path: Path) -> None:
    folder = checkpoints.write_shards(tmp_path / "sharded")
    check_spec(parse_spec(str(folder)))
    shards = sorted(folder.glob("model-*.safetensors"))
    shards[1].unlink()
    assert f"{shards[1].name} of {len(shards)} weight files" in refusal(folder)
    shards[2].unlink()
    assert "and 1 more" in refusal(folder)


@pytest.mark.parametrize("content", ["[]", "{}", '{"weight_map": {}}'])
def test_an_index_without_a_map_is_refused(folder: Path, content: str) -> None:
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors.index.json").write_text(content)
    assert "has no weight_map" in refusal(folder)


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    assert "there is no folder" in refusal(tmp_path / "missing")


def test_a_missing_folder_names_its_neighbour(folder: Path) -> None:
    assert f"did you mean {str(folder)!r}?" in refusal(folder.parent / "modle")


def test_a_folder_without_config_is_refused(folder: Path) -> None:
    (folder / "config.json").unlink()
    assert "the folder has no config.json; a checkpoint folder is what" in refusal(folder)


def test_a_folder_of_checkpoints_lists_them(folder: Path, tmp_path: Path) -> None:
    for step in (100, 20, 3):
        shutil.copytree(folder, tmp_path / "run" / f"checkpoint-{step}")
    assert "give one of them: checkpoint-3, checkpoint-20, checkpoint-100" in refusal(
        tmp_path / "run"
    )


def test_an_adapter_beside_a_config_without_weights_says_what_is_missing(tmp_path: Path) -> None:
    (tmp_path / "adapter_config.json").write_text("{}")
    (tmp_path / "config.json").write_text('{"model_type": "llama"}')
    assert "it holds an adapter beside the config of a model" in refusal(tmp_path)


def test_a_folder_with_a_gguf_file_names_it(tmp_path: Path) -> None:
    (tmp_path / "m.Q4.gguf").write_bytes(b"GGUF")
    assert "give the GGUF file itself" in refusal(tmp_path)
    assert "m.Q4.gguf" in refusal(tmp_path)


def test_a_folder_that_hides_a_hub_id_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "gpt2").mkdir()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SpecError, match="the local folder of that name, which wins over a hub id"):
        check_spec(parse_spec("gpt2"))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "config.json is not valid JSON"),
        ("[1]", "its config.json is not a JSON object"),
        ("{}", "names neither a model_type nor architectures"),
    ],
)
def test_a_broken_config_is_refused(folder: Path, content: str, message: str) -> None:
    (folder / "config.json").write_text(content)
    assert message in refusal(folder)


def test_a_config_that_is_not_text_is_refused(folder: Path) -> None:
    (folder / "config.json").write_bytes(b"\xff\xfe\x00")
    assert "config.json is not valid JSON" in refusal(folder)


@pytest.mark.parametrize(
    "content",
    [
        {"model_type": "t5", "is_encoder_decoder": True, "architectures": ["T5Model"]},
        {"model_type": "bert", "architectures": ["BertForMaskedLM"]},
        {"model_type": "roberta"},
    ],
)
def test_a_model_of_another_kind_is_refused(folder: Path, content: dict[str, object]) -> None:
    (folder / "config.json").write_text(json.dumps(content))
    assert "not a causal language model" in refusal(folder)


@pytest.mark.parametrize(
    "content",
    [
        {"model_type": "bert", "is_decoder": True},
        {"model_type": "bert", "architectures": ["BertLMHeadModel"]},
        {"model_type": "bart", "is_encoder_decoder": True, "architectures": ["BartForCausalLM"]},
        {"model_type": "never-heard-of"},
    ],
)
def test_a_model_that_may_be_causal_is_left_to_loading(
    folder: Path, content: dict[str, object]
) -> None:
    (folder / "config.json").write_text(json.dumps(content))
    check_spec(parse_spec(str(folder)))


def test_a_folder_without_weights_is_refused(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "consolidated.safetensors")
    assert "no model.safetensors.index.json (it holds consolidated.safetensors)" in refusal(folder)


def test_a_truncated_safetensors_file_is_refused(folder: Path) -> None:
    path = folder / "model.safetensors"
    whole = path.read_bytes()
    path.write_bytes(whole[:-10])
    assert "model.safetensors is cut short or damaged" in refusal(folder)
    for length in (0, 5, 40):
        path.write_bytes(whole[:length])
        assert f"not a safetensors file ({length} bytes)" in refusal(folder)


@pytest.mark.parametrize("header", [b"[]", b"{]", b'{"a": 1}', b'{"a": {"data_offsets": []}}'])
def test_a_safetensors_file_with_a_broken_header_is_refused(folder: Path, header: bytes) -> None:
    content = len(header).to_bytes(8, "little") + header
    (folder / "model.safetensors").write_bytes(content)
    assert "its header is broken" in refusal(folder)


def test_a_safetensors_file_without_weights_is_refused(folder: Path) -> None:
    (folder / "model.safetensors").write_bytes((2).to_bytes(8, "little") + b"{}")
    assert "model.safetensors holds no weights" in refusal(folder)


POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n"


def test_a_git_lfs_pointer_is_told_from_a_broken_file(folder: Path) -> None:
    (folder / "model.safetensors").write_text(POINTER)
    assert "Git LFS pointer" in refusal(folder)


def test_a_pickle_is_refused_unless_allowed(tmp_path: Path) -> None:
    folder = checkpoints.write_pickle(tmp_path / "pickle")
    message = refusal(folder)
    assert "--icl-allow-pickle" in message and "can run any code" in message
    check_spec(parse_spec(str(folder)), allow_pickle=True)


def test_an_allowed_pickle_is_still_checked(tmp_path: Path) -> None:
    folder = checkpoints.write_pickle(tmp_path / "pickle")
    weights = folder / "pytorch_model.bin"
    weights.write_bytes(b"")
    assert "pytorch_model.bin is empty" in refusal(folder, allow_pickle=True)
    weights.write_text(POINTER)
    assert "Git LFS pointer" in refusal(folder, allow_pickle=True)
    weights.rename(folder / "part.bin")
    index = folder / "pytorch_model.bin.index.json"
    index.write_text(json.dumps({"weight_map": {"a": "gone.bin"}}))
    assert "gone.bin" in refusal(folder, allow_pickle=True)


def test_safetensors_beside_a_pickle_need_no_permission(folder: Path) -> None:
    (folder / "pytorch_model.bin").write_bytes(b"")
    check_spec(parse_spec(str(folder)))
