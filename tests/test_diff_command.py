"""`icl-bench diff`: files, exit codes, what is taken from records and the cache, and mistakes."""

from __future__ import annotations

import json

import pytest
from cli_calls import call
from planted import INDUCTION, PREVIOUS, SUITE, original, plant, scale

import icl_bench
from icl_bench.records.reading import read_record

MODEL = "builtin:induction-2l"


@pytest.fixture
def place(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "small.yaml").write_text(SUITE)
    return tmp_path


def save(path, edit):
    plant(edit).model.save_pretrained(path)
    original().tokenizer.save_pretrained(path)
    return str(path)


def test_a_regression_is_told_written_and_ends_with_1(place, capsys):
    b = save(place / "b", scale(*PREVIOUS, 0.5))
    assert call("diff", MODEL, b, "--suite=small.yaml", "--report-dir=out") == 1
    out = capsys.readouterr().out
    assert out.startswith("REGRESSION: b is worse than builtin:induction-2l")
    assert "head 0.9" in out.split("\n\n")[0].replace("\n", " ")
    folder = place / "out" / "diff-builtin-induction-2l-b"
    assert sorted(path.name for path in folder.iterdir()) == ["diff.html", "diff.json", "diff.md"]
    data = json.loads((folder / "diff.json").read_text())
    assert data["explained_by"]["name"] == "head 0.9"


def test_the_same_model_ends_with_0_and_json_is_one_document(place, capsys):
    same = save(place / "same", lambda layers: None)
    assert call("diff", MODEL, same, "--suite=small.yaml", "--json") == 0
    data = json.loads(capsys.readouterr().out)
    assert data["passed"] and data["verdict"].startswith("No change beyond noise")
    assert data["explained"] == []


def test_several_models_share_one_table(place, capsys):
    b = save(place / "b", scale(*PREVIOUS, 0.5))
    c = save(place / "c", scale(*INDUCTION, 0.9))
    assert call("diff", MODEL, b, c, "--suite=small.yaml", "--report-dir=out") == 1
    out = capsys.readouterr().out
    assert out.startswith("REGRESSION in b: 2 models against builtin:induction-2l")
    names = {path.name for path in (place / "out").iterdir()}
    start = "diff-builtin-induction-2l"
    assert names == {f"{start}-b", f"{start}-c", f"{start}-b-c"}
    page = (place / "out" / f"{start}-b-c" / "diff.html").read_text()
    assert f'href="../{start}-b/diff.html"' in page


def test_records_are_reused_and_the_other_side_is_measured(place, capsys):
    assert call("run", MODEL, "--suite=small.yaml", "--report-dir=old", "--no-cache") == 0
    b = save(place / "b", scale(*PREVIOUS, 0.5))
    capsys.readouterr()
    assert call("diff", "old/builtin-induction-2l", b, "--suite=small.yaml") == 1
    out = capsys.readouterr().out
    assert "is a record" in out.replace("\n", " ")
    a = read_record(place / "old/builtin-induction-2l/results.json")
    data = json.loads((place / "reports/diff-builtin-induction-2l-b/diff.json").read_text())
    assert data["a"]["fingerprint"] == a.model.fingerprint


def test_measurements_come_from_the_cache(place):
    same = save(place / "same", lambda layers: None)
    first = icl_bench.diff(MODEL, same, ["small.yaml"])
    again = icl_bench.diff(MODEL, same, ["small.yaml"])
    assert not any(one.cached for one in first.before.measurements.values())
    for record in (again.before, again.after):
        taken = record.measurements
        assert all(one.cached for one in taken.values() if one.status == "measured")
    assert first.verdict == again.verdict


EMPTY = "icl_suite: 1\nname: empty\nmeasure:\n  repeats: {probe: induction}\n"


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["builtin:nothing", MODEL], "builtin:nothing"),
        (["missing.json", MODEL], "missing.json: cannot be read"),
        ([MODEL, "builtin:induction-2l@*"], "names several checkpoints"),
        ([MODEL, MODEL, "--suite=empty.yaml"], "suite 'empty' has no checks"),
        (["old.json", MODEL], "the record does not hold suite gate but small; name one"),
        (["old.json", "other.json"], "the records share no suite"),
        ([MODEL, MODEL, "--limit=gian=1"], "limit 'gian' names no metric that is measured"),
        ([MODEL, MODEL, "--limit=gain"], "METRIC=AMOUNT, as in"),
        ([MODEL, MODEL, "--report-dir=s3://there"], "a URL"),
        ([MODEL, MODEL, "--device=tpu"], "tpu"),
        ([MODEL], "B"),
    ],
)
def test_a_mistake_is_one_message_before_anything_is_measured(
    place, capsys, monkeypatch, arguments, told
):
    (place / "empty.yaml").write_text(EMPTY)
    assert call("run", MODEL, "--suite=small.yaml", "--report-dir=old") == 0
    record = read_record(place / "old/builtin-induction-2l/results.json")
    record.write(place / "old.json")
    record.suites[0].name = "another"
    record.write(place / "other.json")
    capsys.readouterr()
    monkeypatch.setattr("icl_bench.diffing.measuring._measure", lambda *_: pytest.fail("measured"))
    assert call("diff", *arguments) == 4
    caught = capsys.readouterr()
    assert told in caught.err and caught.out == ""
    assert len(caught.err.strip().splitlines()) == 1


def test_models_without_anything_in_common_end_with_4(place, capsys):
    (place / "text.yaml").write_text(
        "icl_suite: 1\nname: text\nmeasure:\n  text: {probe: icl_score}\nchecks:\n"
        "  - {id: reads, on: text, metric: text_loss, below: 9}\n"
    )
    same = save(place / "same", lambda layers: None)
    assert call("diff", MODEL, same, "--suite=text.yaml") == 4
    assert "nothing of builtin:induction-2l and same can be compared" in capsys.readouterr().err
