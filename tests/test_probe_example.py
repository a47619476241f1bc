"""The probe `example`: every number of its tables, computed again the slow way."""

from __future__ import annotations

import base64
import json
import math
from typing import ClassVar

import families
import numpy as np
import pytest
import torch
import transformers as tf
from example_runs import NAME, random_llama, run

import icl_bench
from icl_bench.errors import MeasurementError, NotMeasurable
from icl_bench.probes.example import example
from icl_bench.probes.example.patterns import keep_strongest
from icl_bench.probes.example.text import LONGEST, find_repeats, show_token
from icl_bench.records.parts import Environment, ModelInfo
from icl_bench.records.record import RunRecord
from icl_bench.reference.tokenizer import build_tokenizer
from icl_bench.reference.words import WORDS


@pytest.fixture(scope="module")
def handwired():
    return icl_bench.load_model("builtin:handwired")


@pytest.fixture(scope="module")
def trained():
    return icl_bench.load_model("builtin:induction-2l")


def unpack(row, length):
    """The pattern (length, length) of a row, read byte by byte."""
    found, numbers = np.zeros((length, length)), iter(base64.b64decode(row["pattern"]))
    for query in range(length):
        for key in range(query + 1):
            found[query, key] = next(numbers) / 255
    assert next(numbers, None) is None
    return found


@pytest.fixture(scope="module")
def wired(handwired):
    return run(handwired)


@pytest.fixture(scope="module")
def learned(trained):
    return run(trained, sequences=32, text=NAME)


# The text


def test_a_repeated_token_points_to_what_followed_its_latest_occurrence(handwired):
    rows = run(handwired, text=NAME, switches=0).tables["example_tokens"]
    words = ["<bos>", "Harry", "Potter", "met", "Tom", ".", "Then", "Harry", "Potter"]
    assert [row["token"] for row in rows] == words
    assert [row["position"] for row in rows] == list(range(9))
    assert [row["id"] for row in rows] == [WORDS.index(word) for word in words]
    marks = {row["position"]: row for row in rows if "source" in row}
    assert {p: (row["repeats_at"], row["source"]) for p, row in marks.items()} == {
        7: (1, 2),
        8: (2, 3),
    }
    assert "loss" not in rows[0] and all("loss" in row for row in rows[1:])


def test_of_several_occurrences_the_latest_counts_and_bos_never_does():
    assert find_repeats([0, 5, 6, 5, 5, 0], bos=0) == [None, None, None, 1, 3, None]
    assert find_repeats([0, 0], bos=None) == [None, 0]


def test_losses_of_the_text_equal_a_plain_forward(trained, learned):
    ids = trained.tokenizer(NAME, return_tensors="pt")["input_ids"]
    with torch.no_grad():
        logs = trained.model(ids).logits[0].double().log_softmax(-1)
    for row in learned.tables["example_tokens"][1:]:
        loss = -float(logs[row["position"] - 1, row["id"]])
        assert row["loss"] == pytest.approx(loss, abs=1e-4)
        assert row["probability"] == pytest.approx(math.exp(-loss), abs=1e-5)


def test_without_a_tokenizer_a_random_block_stands_twice():
    model = random_llama()
    found = run(model, heads=[[1, 0], [2, 1]], switches=2)
    rows = found.tables["example_tokens"]
    assert len(rows) == 21 and rows[0]["id"] == 1
    block = [row["id"] for row in rows[1:11]]
    assert block == [row["id"] for row in rows[11:]] and len(set(block)) == 10
    assert [row["token"] for row in rows] == [f"#{row['id']}" for row in rows]
    assert [row["source"] for row in rows[11:]] == list(range(2, 12))
    said = found.tables["switched"][0]["predictions"]
    assert [one["position"] for one in said] == list(range(11, 21))
    assert all(token.startswith("#") for one in said for token, _ in one["top"])
    other = run(model, heads=[[1, 0]], switches=1, seed=1).tables["example_tokens"]
    assert [row["id"] for row in other[1:11]] != block


def test_markup_stays_as_it_is():
    words = ["<b>", "&amp;", "one", '"two"', "x", "y", "z"]
    vocabulary = {word: place for place, word in enumerate(["<bos>", *words])}
    backend = build_tokenizer().backend_tokenizer.from_str(
        json.dumps(
            {
                "version": "1.0",
                "added_tokens": [],
                "pre_tokenizer": {"type": "WhitespaceSplit"},
                "model": {"type": "WordLevel", "vocab": vocabulary, "unk_token": "one"},
            }
        )
    )
    tokenizer = tf.PreTrainedTokenizerFast(tokenizer_object=backend, bos_token="<bos>")
    model = random_llama(vocabulary=8, tokenizer=tokenizer)
    found = run(model, text='<b> &amp; "two" <b>', heads=[[1, 0]], period=3)
    tokens = [row["token"] for row in found.tables["example_tokens"]]
    assert tokens == ["<bos>", "<b>", "&amp;", '"two"', "<b>"]


class Bytes:
    """The least of a tokenizer: ids with a raw form and a decoded one."""

    RAW: ClassVar = {0: "Ġcat", 1: "âĤ", 2: "▁dog", 3: "<0xE2>", 4: "ï¿½", 5: "日本"}
    DECODED: ClassVar = {0: " cat", 1: "\ufffd", 2: "dog", 3: "\ufffd", 4: "\ufffd", 5: "日本"}

    def convert_ids_to_tokens(self, index):
        return self.RAW.get(index)

    def decode(self, ids, **options):
        return self.DECODED[ids[0]]


def test_a_token_is_shown_with_its_space_and_what_is_no_character_by_its_bytes():
    shown = [show_token(Bytes(), index) for index in range(7)]
    assert shown == [" cat", "\\xe2\\x82", " dog", "<0xE2>", "\ufffd", "日本", "#6"]


@pytest.mark.parametrize("text", ["", "   "])
def test_an_empty_text_is_refused_where_it_is_written(text, tmp_path):
    suite = tmp_path / "mine.yaml"
    suite.write_text(
        "icl_suite: 1\nname: mine\nmeasure:\n"
        f'  example: {{probe: example, heads: [[0, 0]], text: "{text}"}}\n'
        "checks: [{id: a, on: example, metric: example_probability, above: 0}]\n"
    )
    with pytest.raises(icl_bench.errors.SuiteError, match=r"mine.yaml:4:\d+.*text"):
        icl_bench.run([suite], "builtin:handwired")


def test_a_text_that_is_too_long_is_refused(handwired):
    run(handwired, text="Harry " * LONGEST, switches=0)
    with pytest.raises(MeasurementError, match="becomes 65 tokens; an example has 64 at most"):
        run(handwired, text="Harry " * (LONGEST + 1))


def test_a_text_of_unknown_words_is_not_measured(handwired):
    with pytest.raises(NotMeasurable, match="does not know every word"):
        run(handwired, text="Xylophone")


def test_a_text_without_repetition_has_patterns_and_one_prediction(handwired):
    found = run(handwired, text="Harry met Tom")
    assert set(found.unmeasured) == set(example.METRICS)
    assert set(found.unmeasured.values()) == {"no token of the text comes twice"}
    assert all("induction" not in row for row in found.tables["example_patterns"])
    (said,) = found.tables["switched"][0]["predictions"]
    assert said["position"] == 3 and "next" not in said
    found = run(handwired, text="Harry met Harry")
    assert found.metrics["example_induction_max"].value == pytest.approx(1, abs=1e-3)
    assert (
        found.unmeasured["example_probability"]
        == "no token that comes again is followed by another"
    )


# Patterns


@pytest.mark.parametrize("family", ["gpt2", "llama", "mistral", "gemma2", "gptj", "bloom"])
def test_patterns_equal_eager_attention(family):
    torch.manual_seed(0)
    module = tf.AutoModelForCausalLM.from_config(families.CONFIGS[family]()).eval()
    model = icl_bench.wrap(module)
    found = run(model, heads=[[1, 0], [2, 3]], switches=2)
    tokens = found.tables["example_tokens"]
    length, prefix = len(tokens), int(model.bos is not None)
    module.config._attn_implementation = "eager"
    with torch.no_grad():
        ids = torch.tensor([[row["id"] for row in tokens]])
        attentions = module(ids, output_attentions=True, use_cache=False).attentions
    rows = found.tables["example_patterns"]
    assert [(row["layer"], row["head"]) for row in rows] == model.every_head
    sources = [(row["position"], row["source"]) for row in tokens if "source" in row]
    assert len(sources) == 10
    for row in rows:
        matrix = attentions[row["layer"]][0, row["head"]].tolist()
        assert np.abs(unpack(row, length) - np.array(matrix)).max() < 0.5 / 255 + 1e-5
        read = [matrix[query][key] for query, key in sources]
        assert row["induction"] == pytest.approx(sum(read) / len(read), abs=1e-5)
        before = [matrix[i][i - 1] for i in range(1 + prefix, length)]
        assert row["previous_token"] == pytest.approx(sum(before) / len(before), abs=1e-5)
    best = max(row["induction"] for row in rows)
    assert found.metrics["example_induction_max"].value == best


def test_the_hand_wired_head_reads_the_source_and_nothing_else(wired):
    tokens = wired.tables["example_tokens"]
    rows = {(row["layer"], row["head"]): row for row in wired.tables["example_patterns"]}
    pattern = unpack(rows[1, 0], len(tokens))
    for row in tokens:
        if "source" in row:
            assert pattern[row["position"], row["source"]] == 1
            assert pattern[row["position"]].sum() == 1
    assert rows[1, 0]["induction"] > 0.999 and rows[0, 0]["previous_token"] > 0.999
    others = [row["induction"] for head, row in rows.items() if head != (1, 0)]
    assert max(others) < 0.5


def test_the_strongest_heads_are_kept_in_their_order():
    scores = [(0.1, 0.9), (0.2, 0.3), (0.8, 0.0), (0.4, 0.4)]
    rows = [
        {"layer": layer, "head": 0, "induction": a, "previous_token": b}
        for layer, (a, b) in enumerate(scores)
    ]
    assert [row["layer"] for row in keep_strongest(rows, 2)] == [0, 2]
    assert [row["layer"] for row in keep_strongest(rows, 3)] == [0, 2, 3]
    assert keep_strongest(rows, 4) == rows


def test_a_thousand_heads_fit_and_more_than_twice_as_many_are_cut(monkeypatch):
    model = random_llama(25, 40, len(WORDS), 2, build_tokenizer())
    found = run(model, heads=[[20, 0], [20, 1], [22, 4]], sequences=4, period=25)
    assert len(found.tables["example_patterns"]) == 1000 and found.reason is None
    record = RunRecord(
        icl_bench="0",
        created="",
        model=ModelInfo(spec="a", slug="a"),
        environment=Environment(python="3", platform="here"),
        suites=[],
        measurements={"core/example": found},
    )
    assert len(record.to_json().encode()) < 1_200_000
    monkeypatch.setattr("icl_bench.probes.example.patterns.MOST_HEADS", 100)
    cut = run(model, heads=[[20, 0]], switches=0)
    assert len(cut.tables["example_patterns"]) == 100
    assert "patterns of the 100 heads of 1000 with the highest scores" in cut.reason
