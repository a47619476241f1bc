"""Models that a user's function builds."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from icl_bench.errors import ModelError, SpecError, UnsupportedModel
from icl_bench.models.opening.loading import LoadedParts, load_parts
from icl_bench.models.sources.parsing import parse_spec

MODULE = """
from types import SimpleNamespace
import torch
import checkpoints

def plain(): return checkpoints.make_llama().train()
def pair(): return checkpoints.make_llama(), make_tokenizer
def no_tokenizer(): return checkpoints.make_llama(), None
def wrapped(): return SimpleNamespace(model=checkpoints.make_llama(), tokenizer=None)
def half(): return checkpoints.make_llama().to(torch.bfloat16)
def body(): return checkpoints.make_llama().model
def nothing(): pass
def odd_pair(): return checkpoints.make_llama(), 3
def swapped(): return None, checkpoints.make_llama()
def empty(): return ()
def needs_one(path): return None
def fails():
    import json
    return json.loads("{")
def leaves(): raise SystemExit("no weights here")
def broken():
    model = checkpoints.make_llama()
    with torch.no_grad():
        model.lm_head.weight[0, 0] = float("nan")
    return model
def make_tokenizer(text, add_special_tokens=True): return {"input_ids": [3, 4]}
number = 3
class Maker:
    @staticmethod
    def make(): return checkpoints.make_llama()
def seq2seq():
    from transformers import T5Config, T5ForConditionalGeneration
    return T5ForConditionalGeneration(
        T5Config(d_model=8, d_kv=4, d_ff=8, num_layers=1, num_heads=2, vocab_size=16)
    )
def says(): print("my own words"); return checkpoints.make_llama()
"""


@pytest.fixture(autouse=True)
def _module_in_working_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "loading_models.py").write_text(MODULE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delitem(sys.modules, "loading_models", raising=False)


def load(name: str, **options: Any) -> LoadedParts:
    return load_parts(parse_spec(f"loading_models:{name}"), device="cpu", **options)


def failure(name: str, kind: type[Exception] = ModelError) -> str:
    with pytest.raises(kind) as caught:
        load(name)
    message = str(caught.value)
    assert message.startswith(f"model 'loading_models:{name}': ") and "\n" not in message
    return message


@pytest.mark.parametrize("name", ["plain", "no_tokenizer", "wrapped", "Maker.make", "says"])
def test_a_model_comes_in_evaluation_mode(name: str) -> None:
    parts = load(name)
    assert type(parts.model).__name__ == "LlamaForCausalLM"
    assert not any(module.training for module in parts.model.modules())
    assert parts.tokenizer is None
    assert parts.tokenizer_note == "the model comes without a tokenizer"
    assert parts.revision is None


def test_a_tokenizer_comes_along() -> None:
    parts = load("pair")
    assert parts.tokenizer is not None and parts.tokenizer_note is None


def test_the_working_directory_is_on_the_path_during_the_call_only() -> None:
    before = list(sys.path)
    load("plain")
    assert sys.path == before


def test_what_the_function_prints_is_shown(capsys: pytest.CaptureFixture[str]) -> None:
    load("says")
    assert "my own words" in capsys.readouterr().out


def test_the_dtype_is_the_one_asked_for_and_rotary_frequencies_keep_theirs() -> None:
    model = load("half").model
    assert {weight.dtype for weight in model.parameters()} == {torch.float32}
    model = load("plain", dtype="bfloat16").model
    assert {weight.dtype for weight in model.parameters()} == {torch.bfloat16}
    assert {buffer.dtype for buffer in model.buffers()} == {torch.float32}


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("nothing", "it returned a NoneType; it has to return a transformers model"),
        ("odd_pair", "its second value is no tokenizer but a int"),
        ("swapped", "it returned a tuple of NoneType, LlamaForCausalLM; it has to return"),
        ("empty", "it returned a tuple of nothing"),
        ("number", "'number' is not callable but a int"),
        ("Maker.mkae", "has no 'Maker.mkae'; did you mean 'make'?"),
        ("needs_one", "TypeError: needs_one() missing 1 required positional argument: 'path'"),
        ("leaves", "SystemExit: no weights here (at "),
        ("broken", "1 of 512 values of lm_head.weight are NaN or infinite"),
    ],
)
def test_what_is_no_model_is_refused_with_the_reason(name: str, message: str) -> None:
    assert message in failure(name)


def test_an_exception_names_the_innermost_line_of_the_users_own(tmp_path: Path) -> None:
    lines = MODULE.splitlines()
    number = next(i for i, line in enumerate(lines, 1) if "json.loads" in line)
    text = failure("fails")
    assert "calling 'fails' failed: JSONDecodeError: Expecting property name" in text
    assert text.endswith(f"(at {tmp_path / 'loading_models.py'}:{number})")


def test_a_module_that_fails_names_the_line(tmp_path: Path) -> None:
    (tmp_path / "loading_models.py").write_text("\n\nimport no_such_thing\ndef make(): ...\n")
    text = failure("make")
    assert "importing 'loading_models' failed: ModuleNotFoundError" in text
    assert text.endswith("loading_models.py:3)")


def test_a_name_that_is_not_there_is_the_users_mistake() -> None:
    with pytest.raises(SpecError, match="has no 'plaim'; did you mean 'plain'"):
        load_parts(parse_spec("loading_models:plaim"))


def test_a_missing_module_is_the_users_mistake() -> None:
    with pytest.raises(SpecError, match="there is no module 'no_such_models'"):
        load_parts(parse_spec("no_such_models:make"))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("body", "LlamaModel has no language-modelling head"),
        ("seq2seq", "T5ForConditionalGeneration is not a causal language model"),
    ],
)
def test_a_model_of_another_kind_is_refused(name: str, message: str) -> None:
    assert message in failure(name, UnsupportedModel)
