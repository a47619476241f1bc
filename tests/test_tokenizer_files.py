"""A tokenizer does what its tokenizer.json says, whatever class the checkpoint names."""

from __future__ import annotations

import json
from pathlib import Path

import checkpoints
import pytest
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from icl_bench.models.module.tokenizer import load_tokenizer
from icl_bench.models.opening.loading import load_parts
from icl_bench.models.sources.parsing import parse_spec

NUMBER = " 2023"


def write(folder: Path, split_digits: bool, named: str) -> Path:
    """Write a byte-level tokenizer that knows a number as one token, and may split it first."""
    bytes_ = sorted(pre_tokenizers.ByteLevel.alphabet())
    merges = [("2", "0"), ("20", "2"), ("202", "3"), ("\u0120", "2023")]
    pieces = [*bytes_, *("".join(pair) for pair in merges), "<s>"]
    vocabulary = {piece: number for number, piece in enumerate(pieces)}
    made = Tokenizer(models.BPE(vocabulary, merges))
    level = pre_tokenizers.ByteLevel(add_prefix_space=False)
    digits = pre_tokenizers.Split(Regex(r"\d"), "isolated")
    made.pre_tokenizer = pre_tokenizers.Sequence([digits, level]) if split_digits else level
    made.decoder = decoders.ByteLevel()
    PreTrainedTokenizerFast(tokenizer_object=made, bos_token="<s>").save_pretrained(folder)
    path = folder / "tokenizer_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "tokenizer_class": named}))
    return folder


@pytest.mark.parametrize("split_digits", [False, True])
@pytest.mark.parametrize("named", ["PreTrainedTokenizerFast", "GPT2Tokenizer"])
def test_texts_are_tokenized_as_the_file_says(
    tmp_path: Path, split_digits: bool, named: str
) -> None:
    folder = write(tmp_path / "tokenizer", split_digits, named)
    tokenizer, note = load_tokenizer(str(folder), {})
    assert tokenizer is not None
    written = Tokenizer.from_file(str(folder / "tokenizer.json"))
    for text in (NUMBER, "in 2023 they'll go", "a  b\n1"):
        assert tokenizer(text, add_special_tokens=False)["input_ids"] == written.encode(text).ids
    assert len(tokenizer(NUMBER)["input_ids"]) == (5 if split_digits else 1)
    assert tokenizer.bos_token == "<s>"
    if named == "PreTrainedTokenizerFast" or not split_digits:
        assert note is None
    else:
        assert note is not None and "GPT2Tokenizer" in note and "tokenizer.json" in note


def test_the_note_comes_with_the_model(tmp_path: Path) -> None:
    folder = checkpoints.write_llama(tmp_path / "m", tokenizer=False, vocab_size=300)
    write(folder, True, "GPT2Tokenizer")
    parts = load_parts(parse_spec(str(folder)), device="cpu")
    assert "GPT2Tokenizer" in str(parts.tokenizer_note) and parts.tokenizer is not None
