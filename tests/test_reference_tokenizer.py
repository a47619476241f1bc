"""The shared tokenizer: words in, the same words out."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml
from transformers import AutoTokenizer

from icl_bench.reference.tokenizer import build_tokenizer
from icl_bench.reference.words import INVENTED_NAMES, NAMES, SPECIALS, WORDS
from icl_bench.suite import shipped_suites

SHIPPED = Path(__file__).parents[1] / "icl_bench/reference/weights"


@pytest.fixture(scope="module")
def tokenizer():
    return build_tokenizer()


def test_the_word_list_is_what_the_models_were_trained_on():
    assert len(WORDS) == len(set(WORDS)) == 400
    assert WORDS[:4] == SPECIALS == ("<bos>", "<unk>", "<pad>", "<eos>")
    assert len(INVENTED_NAMES) == 40 and len(NAMES) == 30
    assert all(re.fullmatch(r"<\w+>|\w+|[^\w\s]", word) for word in WORDS)


def test_a_word_is_a_token_and_bos_comes_first(tokenizer):
    ids = tokenizer("Harry Potter met Anna. Harry").input_ids
    assert tokenizer.convert_ids_to_tokens(ids) == [
        "<bos>",
        "Harry",
        "Potter",
        "met",
        "Anna",
        ".",
        "Harry",
    ]


def test_a_choice_after_a_space_is_one_token(tokenizer):
    ids = tokenizer(" Potter", add_special_tokens=False).input_ids
    assert ids == [WORDS.index("Potter")]


def test_case_counts_and_unknown_words_are_marked(tokenizer):
    ids = tokenizer("the The THE", add_special_tokens=False).input_ids
    assert tokenizer.convert_ids_to_tokens(ids) == ["the", "The", "<unk>"]


def test_decoding_gives_readable_text(tokenizer):
    text = "The cat sat on the mat. Here is Anna, my friend! is she tall?"
    assert tokenizer.decode(tokenizer(text).input_ids, skip_special_tokens=True) == text


def test_special_tokens_have_their_ids(tokenizer):
    assert (tokenizer.bos_token_id, tokenizer.unk_token_id) == (0, 1)
    assert (tokenizer.pad_token_id, tokenizer.eos_token_id) == (2, 3)
    assert sorted(tokenizer.all_special_ids) == [0, 1, 2, 3]
    assert len(tokenizer) == tokenizer.vocab_size == 400


@pytest.mark.parametrize("name", ["core", "quiz"])
def test_every_word_of_the_shipped_quizzes_is_known(tokenizer, name):
    texts = list_quiz_texts(yaml.safe_load(shipped_suites()[name].read_text()))
    assert texts
    for text in texts:
        unknown = [w for w in re.findall(r"\w+|[^\w\s]", text) if w not in WORDS]
        assert not unknown, text
        assert tokenizer.unk_token_id not in tokenizer(text).input_ids


def list_quiz_texts(part: object) -> list[str]:
    """Every prompt and choice anywhere in a suite's YAML."""
    if isinstance(part, dict):
        own = [part["prompt"], *part["choices"]] if part.get("prompt") else []
        return own + [text for value in part.values() for text in list_quiz_texts(value)]
    if isinstance(part, list):
        return [text for value in part for text in list_quiz_texts(value)]
    return []


@pytest.mark.parametrize("name", ["induction-2l", "control-1l"])
def test_the_saved_tokenizer_is_the_same(tokenizer, name):
    saved = AutoTokenizer.from_pretrained(SHIPPED / name)
    text = "One morning Krandle Vexolin told Haxlop Blorvek a story, and THE cat's mat."
    assert saved(text).input_ids == tokenizer(text).input_ids
    assert saved.get_vocab() == tokenizer.get_vocab()
