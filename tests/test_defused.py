"""Text of suites, records and models gives no orders to a terminal, a CI system or a browser."""

from __future__ import annotations

import csv
import io
import pickle
import unicodedata
from pathlib import Path

import pytest
from conftest import Stage
from test_render_records import make_record

from icl_bench.cli import main
from icl_bench.errors import LONGEST, IclError, RecordError, SpecError, SuiteError
from icl_bench.records.reading import read_record
from icl_bench.render.csv import checks_csv, heads_csv
from icl_bench.render.markdown import report
from icl_bench.suite import load_suite

SUITE = """
icl_suite: 1
name: x
measure:
  r: {{probe: induction, sequences: 4, period: 20}}
quiz:
  - id: q
    question: "Q?"
    on: r
    metric: induction_max
    options: {{"a": "Yes", "{key}": "No"}}
    supports: [{{option: b, above: 0.4}}]
    expected: a
"""
KEYS = {
    "escape": r"\u001b[31mred\u001b]0;pwned\u0007",
    "order": r"z\n::warning file=x::INJECTED",
    "C1": r"\u009b31m",
    "reversed": r"\u202eabc",
    "separator": r"a\u2028::error::b",
}


def is_tame(text: str) -> bool:
    """Whether each line is plain, and none begins as an order to a CI system."""
    signs = {unicodedata.category(sign) for sign in text.replace("\n", "")}
    lines = text.splitlines()
    return signs.isdisjoint({"Cc", "Cf", "Cs", "Zl", "Zp"}) and not any(
        line.lstrip().startswith(("::", "##[")) for line in lines
    )


@pytest.mark.parametrize("name", KEYS)
def test_a_key_of_a_suite_is_shown_and_does_nothing(
    name: str, tmp_path: Path, stage: Stage, capsys: pytest.CaptureFixture[str]
) -> None:
    path = stage.write("odd.yaml", SUITE.format(key=KEYS[name]))
    with pytest.raises(SuiteError) as refused:
        load_suite(path)
    lines = str(refused.value).splitlines()
    assert len(lines) == 3 and all(line.startswith("odd.yaml:") for line in lines), lines
    assert is_tame(str(refused.value))
    assert main(["validate", str(path)]) == 4
    assert is_tame(capsys.readouterr().err)
    result = stage.run("--icl-model=stub:good", "odd.yaml")
    assert result.ret == 4 and is_tame(result.stderr.str())


def test_a_message_is_cut(tmp_path: Path) -> None:
    path = tmp_path / "long.yaml"
    path.write_text("icl_suite: 1\nname: x\n" + "k" * 100_000 + ": 1\n")
    with pytest.raises(SuiteError) as refused:
        load_suite(path)
    assert max(map(len, str(refused.value).splitlines())) < LONGEST + 200
    question = f"{{id: p, prompt: a, answer: a, choices: [{'x' * 100_000}, a]}}"
    path.write_text(f"icl_suite: 1\nname: x\nquiz:\n  - {question}\n")
    (warning,) = load_suite(path).warnings
    assert len(warning) < LONGEST + 200
    told = str(IclError("\u202e" * 5_000))
    assert len(told) <= LONGEST and str(IclError(told)) == told
    told = str(IclError("a" * 100_000 + "\nthe end"))
    assert len(told) < LONGEST + 200 and "characters) ... aaa" in told and told.endswith("the end")


@pytest.mark.parametrize("kind", [IclError, SpecError, RecordError])
def test_a_message_is_the_same_in_another_process(kind: type[IclError]) -> None:
    error = kind("a\x1b[31m\n\ud800 ä\u00a0\u200f")
    assert str(error) == "a\\x1b[31m\n\\ud800 ä\u00a0\\u200f"
    assert str(pickle.loads(pickle.dumps(error))) == str(error)


def test_a_field_of_a_record_is_one_line(tmp_path: Path) -> None:
    path = tmp_path / "results.json"
    path.write_text(
        make_record().to_json().replace('"core/repeats": {\n   "probe"', '"a\\n::error::b": {"x"')
    )
    with pytest.raises(RecordError) as refused:
        read_record(path)
    assert "\n" not in str(refused.value)


def test_the_header_of_a_table_is_no_markup() -> None:
    record = make_record()
    taken = record.measurements["core/repeats"]
    odd = "<img src=x onerror=alert(1)>|b"
    taken.tables["steps"] = [{"step": 1, odd: 0.5}, {"step": 2, odd: 0.75}]
    taken.tables["odd"] = [{odd: 1}]
    taken.probe = "elsewhere"
    record.model.steps = [1, 2]
    text = report(record)
    assert "<img" not in text and text.count("&lt;img src=x onerror=alert(1)&gt;\\|b") >= 2


def test_cells_of_csv_files_hold_no_control_characters() -> None:
    record = make_record()
    record.checks[0].question = "two\nlines\x1b[31m\x9b \u202e\x00"
    record.checks[0].reason = "\x00=1+1"
    record.checks[0].options = {"\x7f": "\x1b"}
    record.measurements["core/repeats"].heads[0]["a\x1b"] = 1.0
    text = checks_csv(record)
    assert is_tame(text) and is_tame(heads_csv(record))
    row = next(iter(csv.DictReader(io.StringIO(text))))
    assert row["question"] == "two\nlines[31m " and row["reason"] == "'=1+1"
