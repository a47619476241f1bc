"""Texts become ids without what a template appends, and only ids that the model has."""

from __future__ import annotations

from typing import Any

import checkpoints
import pytest
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from icl_bench.errors import MeasurementError
from icl_bench.models.model import Model
from icl_bench.models.module.vocabulary import usable_ids
from icl_bench.probes.prompts.encoding import encode, encode_choices

WORDS = ["<unk>", "[CLS]", "[SEP]", "the", "fox", "dog", "jumps"]


def make_tokenizer(template: str | None, **names: str) -> PreTrainedTokenizerFast:
    vocabulary = {word: number for number, word in enumerate(WORDS)}
    made = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    made.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    if template:
        made.post_processor = processors.TemplateProcessing(
            single=template, special_tokens=[("[CLS]", 1), ("[SEP]", 2)]
        )
    return PreTrainedTokenizerFast(tokenizer_object=made, unk_token="<unk>", **names)


def make_model(tokenizer: Any) -> Model:
    return Model(checkpoints.make_llama(), tokenizer)


@pytest.mark.parametrize(
    ("template", "ids"),
    [
        (None, [3, 4]),
        ("[CLS] $A", [1, 3, 4]),
        ("$A [SEP]", [3, 4]),
        ("[CLS] $A [SEP]", [1, 3, 4]),
        ("[CLS] $A [SEP] [SEP]", [1, 3, 4]),
    ],
)
@pytest.mark.parametrize("names", [{}, {"eos_token": "[SEP]"}, {"sep_token": "[SEP]"}])
def test_what_a_template_appends_is_no_part_of_a_text(
    template: str | None, ids: list[int], names: dict[str, str]
) -> None:
    model = make_model(make_tokenizer(template, **names))
    assert encode(model, "the fox") == ids
    sequences, shared = encode_choices(model, "the fox", [" jumps", " dog"])
    assert sequences == [[*ids, 6], [*ids, 5]] and shared == len(ids)


def test_an_end_token_that_stands_in_the_text_stays() -> None:
    model = make_model(make_tokenizer("[CLS] $A [SEP]", eos_token="[SEP]"))
    assert encode(model, "the fox [SEP]") == [1, 3, 4, 2]


def test_a_token_without_a_row_in_the_embedding_is_named() -> None:
    tokenizer = make_tokenizer(None)
    tokenizer.add_tokens([f"<|extra-{number}|>" for number in range(20)], special_tokens=True)
    model = make_model(tokenizer)
    assert encode(model, "the fox") == [3, 4]
    with pytest.raises(
        MeasurementError, match=r"'<\|extra-12\|>' has id 19, but the model knows 16"
    ):
        encode(model, "the <|extra-12|> fox")


def test_words_that_were_added_are_usable_where_most_are_added() -> None:
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(models.WordLevel({"<unk>": 0}, unk_token="<unk>")),
        unk_token="<unk>",
    )
    tokenizer.add_tokens(["the", "fox", "dog"])
    tokenizer.add_tokens(["<|user|>", "system"], special_tokens=True)
    model = checkpoints.make_llama(bos_token_id=None, eos_token_id=None)
    assert usable_ids(model, tokenizer) == [1, 2, 3]


def test_words_that_were_added_to_a_vocabulary_are_left_out() -> None:
    tokenizer = make_tokenizer(None)
    before = usable_ids(checkpoints.make_llama(), tokenizer)
    tokenizer.add_tokens(["think"])
    assert usable_ids(checkpoints.make_llama(), tokenizer) == before
