"""Where text comes from, and what is the same text."""

from __future__ import annotations

import re
import sys
import types
from types import SimpleNamespace

import pytest
import torch

import icl_bench
from icl_bench.errors import MeasurementError, SettingsError
from icl_bench.probes.prompts.corpus import (
    Corpus,
    DatasetText,
    choose_documents,
    encode_text,
    read_dataset,
    read_files,
    read_reference,
)
from icl_bench.reference.tokenizer import build_tokenizer


def test_the_reference_has_every_line_once_and_its_topics_in_order():
    from pydoc_data.topics import topics

    corpus = read_reference()
    assert [name for name, _ in corpus.documents] == sorted(topics)
    lines = [line for _, text in corpus.documents for line in text.splitlines() if line]
    assert len(lines) == len(set(lines))
    assert set(lines) == {x.rstrip() for text in topics.values() for x in text.splitlines()} - {""}
    assert corpus.sha256 == read_reference().sha256


def test_the_digest_is_of_the_texts_and_their_borders():
    def digest(*texts):
        return Corpus("x", tuple((f"{i}", text) for i, text in enumerate(texts))).sha256

    assert digest("ab", "c") != digest("a", "bc") != digest("abc")
    assert digest("ab") == Corpus("y", (("other", "ab"),)).sha256


def test_files_are_documents_in_order_of_their_names(tmp_path):
    (tmp_path / "b.txt").write_text("two", encoding="utf-8")
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "z.txt").write_text("one", encoding="utf-8")
    (tmp_path / "notes.md").write_text("no", encoding="utf-8")
    assert read_files(tmp_path).documents == (("z.txt", "one"), ("b.txt", "two"))
    assert read_files(tmp_path / "b.txt").documents == (("b.txt", "two"),)


def test_files_that_are_no_text_are_named(tmp_path):
    (tmp_path / "bad.txt").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(SettingsError, match=r"'bad\.txt' is not UTF-8"):
        read_files(tmp_path)
    with pytest.raises(SettingsError, match="no such file or folder"):
        read_files(tmp_path / "missing.txt")
    (tmp_path / "empty").mkdir()
    with pytest.raises(SettingsError, match=r"'empty' has no \.txt file"):
        read_files(tmp_path / "empty")


def fake_datasets(monkeypatch, load):
    module = types.ModuleType("datasets")
    module.load_dataset = load  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "datasets", module)


def test_a_data_set_gives_its_first_rows(monkeypatch):
    asked = []

    def load(*names, **options):
        asked.append((names, options))
        return ({"text": f"row {i}"} for i in range(10**9))

    fake_datasets(monkeypatch, load)
    corpus = read_dataset(DatasetText(name="some/set", config="en", rows=3))
    assert [text for _, text in corpus.documents] == ["row 0", "row 1", "row 2"]
    options = {"split": "test", "revision": None, "streaming": True}
    assert asked == [(("some/set", "en"), options)]


def test_what_is_wrong_with_a_data_set_is_said(monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(MeasurementError, match="pip install datasets"):
        read_dataset(DatasetText(name="some/set"))
    fake_datasets(monkeypatch, lambda *a, **k: [{"body": "x"}])
    with pytest.raises(MeasurementError, match="no column 'text'"):
        read_dataset(DatasetText(name="some/set"))
    with pytest.raises(MeasurementError, match="is not text"):
        fake_datasets(monkeypatch, lambda *a, **k: [{"text": 3}])
        read_dataset(DatasetText(name="some/set"))

    def fail(*names, **options):
        raise OSError("no\nnetwork")

    fake_datasets(monkeypatch, fail)
    with pytest.raises(MeasurementError, match="cannot be read: OSError: no network"):
        read_dataset(DatasetText(name="some/set"))


def model_of(tokenizer, rows=10_000):
    """As much of a model as texts need."""
    return SimpleNamespace(tokenizer=tokenizer, embedding=range(rows))


def test_a_token_without_a_row_in_the_embedding_is_named():
    tokenizer = build_tokenizer()
    last = max(tokenizer("the cat .")["input_ids"])
    name = tokenizer.convert_ids_to_tokens(last)
    told = f"token {name!r} has id {last}, but the model knows {last} ids"
    with pytest.raises(MeasurementError, match=re.escape(told)):
        encode_text(model_of(tokenizer, rows=last), "the cat .")
    encode_text(model_of(tokenizer, rows=last + 1), "the cat .")


@pytest.mark.parametrize("wrong", [-1, 10**6])
def test_ids_of_ones_own_without_a_row_are_refused(wrong):
    model = icl_bench.load_model("builtin:handwired")
    with pytest.raises(MeasurementError, match=f"token id {wrong} is not among the"):
        model.losses(torch.tensor([[3, 4, 5, wrong]]))


def test_what_the_tokenizer_puts_first_is_told_from_the_text():
    tokenizer = build_tokenizer()
    prefix, ids = encode_text(model_of(tokenizer), "the cat .")
    assert prefix == [tokenizer.bos_token_id]
    assert [*prefix, *ids] == tokenizer("the cat .")["input_ids"]


def test_long_documents_are_measured_and_short_ones_are_spare():
    texts = [("a", "the " * 9), ("b", "the " * 2), ("c", "the " * 10), ("d", "the " * 12)]
    chosen = choose_documents(model_of(build_tokenizer()), texts, tokens=10, most=2, spare=3)
    assert [name for name, _ in chosen.documents] == ["a", "c"]
    assert (chosen.short, len(chosen.spare)) == (1, 14)
    assert len(choose_documents(model_of(build_tokenizer()), texts, 10, 2, 0).spare) == 2
    assert choose_documents(model_of(build_tokenizer()), texts, 99, 2, 0).short == 4
